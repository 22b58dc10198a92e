"""Comparing: which way is better, what many comparisons need, and times that were not observed to their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.scenario.documents import scenario
from twin.experiment.pairs import compare_pairs, figures_to_compare

ONE, TWO, THREE = {"x": 1}, {"x": 2}, {"x": 3}


def lines(values: Sequence[float | None], name: str = "requests_lost", censored: Sequence[int] = ()) -> list[Any]:
    return [
        {
            "seed": seed,
            "figures": {name: value},
            "recoveries": [{"ttr_s": {"censored": True}}] * (censored[seed] if censored else 0),
        }
        for seed, value in enumerate(values)
    ]


def only(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    assert len(pairs) == 1
    return pairs[0]


def test_lower_is_better_for_losses_and_higher_for_success() -> None:
    more = lines([5.0, 6.0, 5.5, 7.0, 6.0]), lines([9.0, 10.5, 9.0, 11.0, 10.0])
    pair = only(compare_pairs([ONE, TWO], more, ["requests_lost"]))
    assert pair["difference"]["mean"] == pytest.approx(4.0)
    assert (pair["verdict"], pair["test"], pair["p_adjusted"]) == ("worse", "paired t", pair["p_value"])
    assert only(compare_pairs([ONE, TWO], more[::-1], ["requests_lost"]))["verdict"] == "better"
    higher = lines([0.90, 0.91, 0.90, 0.92], "success_ratio"), lines([0.97, 0.98, 0.96, 0.99], "success_ratio")
    assert only(compare_pairs([ONE, TWO], higher, ["success_ratio"]))["verdict"] == "better"


def test_a_difference_that_may_be_chance_is_not_called_one() -> None:
    same = lines([5.0, 6.0, 5.5, 7.0]), lines([5.2, 5.8, 5.9, 6.7])
    assert only(compare_pairs([ONE, TWO], same, ["requests_lost"]))["verdict"] == "no difference shown"
    assert only(compare_pairs([ONE, TWO], (lines([1.0]), lines([9.0])), ["requests_lost"]))["p_value"] is None
    equal = only(compare_pairs([ONE, TWO], (lines([0.0] * 5), lines([0.0] * 5)), ["requests_lost"]))
    assert (equal["p_value"], equal["verdict"]) == (1.0, "no difference shown")


def test_many_comparisons_are_corrected_together() -> None:
    random = np.random.default_rng(0)
    base = random.normal(10.0, 1.0, 12)
    variants = [base + random.normal(0.0, 1.0, 12) for _ in range(20)] + [base + 3.0 + random.normal(0.0, 1.0, 12)]
    settings = [{"x": place} for place in range(22)]
    pairs = compare_pairs(settings, [lines(each.tolist()) for each in [base, *variants]], ["requests_lost"])
    assert sum(pair["p_value"] < 0.05 for pair in pairs) > 1, "uncorrected, chance alone would be called a difference"
    assert [pair["variant"] for pair in pairs if pair["verdict"] == "worse"] == [{"x": 21}]
    assert all(pair["p_adjusted"] >= pair["p_value"] for pair in pairs)


def test_only_the_same_seeds_are_paired() -> None:
    one, two = lines([1.0, 2.0, 3.0, 4.0]), lines([2.0, 3.0, 4.0, 5.0])
    pair = only(compare_pairs([ONE, TWO], (one, two[2:]), ["requests_lost"]))
    assert pair["difference"] == {"mean": 1.0, "ci95": [1.0, 1.0], "n": 2}


def test_a_figure_that_was_not_observed_leaves_a_pair_that_is_counted() -> None:
    pair = only(compare_pairs([ONE, TWO], (lines([1.0, None, 3.0]), lines([2.0, 3.0, 4.0])), ["requests_lost"]))
    assert (pair["difference"]["n"], pair["unpaired"]) == (2, 1)
    nothing = only(compare_pairs([ONE, TWO], (lines([None, None]), lines([1.0, 2.0])), ["requests_lost"]))
    assert (nothing["difference"], nothing["p_value"], nothing["unpaired"]) == (None, None, 2)


def test_recoveries_that_never_came_are_not_left_out() -> None:
    """The variant recovers faster where it recovers, which is in 2 of 10 runs: a mean of these would call it better."""
    baseline = lines([20.0 + seed for seed in range(10)], "ttr_s", censored=[0] * 10)
    variant = lines([5.0, 6.0, *[None] * 8], "ttr_s", censored=[0, 0, *[1] * 8])
    pair = only(compare_pairs([ONE, TWO], (baseline, variant), ["ttr_s"]))
    assert pair["test"] == "sign"
    assert pair["censored"] == {"baseline": 0, "variant": 8}
    assert pair["difference"] == {"mean": pytest.approx(-15.0), "ci95": [-15.0, -15.0], "n": 2}
    assert pair["p_value"] == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert pair["verdict"] == "no difference shown"
    never = lines([None] * 10, "ttr_s", censored=[1] * 10)
    assert only(compare_pairs([ONE, TWO], (baseline, never), ["ttr_s"]))["verdict"] == "worse"
    both = only(compare_pairs([ONE, TWO], (never, never), ["ttr_s"]))
    assert (both["verdict"], both["unpaired"]) == ("no difference shown", 10)


def test_what_is_compared_by_is_what_the_scenario_expects_and_more() -> None:
    it = scenario(expect={"ttd_s": {"max": 9}, "incidents": {"max": 0}})
    assert figures_to_compare(it, [])[:2] == ["ttd_s", "requests_lost"]
    assert "incidents" not in figures_to_compare(it, []), "more incidents are neither better nor worse"
    assert figures_to_compare(it, ["e2e_s.p50"]) == ["e2e_s.p50"]
