"""Variants against the baseline of a comparison, on the same seeds, corrected for how many were compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twin.experiment.points import DURATIONS
from twin.experiment.statistics import holm, paired, sign_test
from twin.experiment.study import Line
from twin.experiment.verdict import look_up
from twin.record.names import BETTER
from twin.scenario.schema import Scenario

SIGNIFICANCE = 0.05
USUAL = ("requests_lost", "success_ratio", "ttr_s", "ttft_s.p95", "e2e_s.p95")


def figures_to_compare(scenario: Scenario, chosen: Sequence[str]) -> list[str]:
    """Those chosen; else what the scenario expects (where it is clear which way is better), and the usual ones."""
    return list(chosen) or list(dict.fromkeys([*(name for name in scenario.expect if name in BETTER), *USUAL]))


def compare_pairs(
    settings: Sequence[dict[str, Any]], lines: Sequence[Sequence[Line]], figures: Sequence[str]
) -> list[dict[str, Any]]:
    """Each point but the first against the first, by each figure: the `pairs` of `study.json`.

    `p_adjusted` is Holm's over all of them. `p_value` is of the paired t test, and `p_rank` of the signed ranks. Where
    a time was censored in any replication, a mean would leave the worst out; there `p_value` is of the sign test: that
    replication is the better one in which fewer faults stayed without it, or, where all were observed, whose mean is
    smaller. `difference` is then of the pairs with all observed, `censored` says in how many replications something was
    not, and `unpaired` how many pairs could not be compared at all.
    """
    found = [
        _pair(settings[0], settings[place], lines[0], lines[place], name)
        for place in range(1, len(lines))
        for name in figures
    ]
    judged = [pair for pair in found if pair["p_value"] is not None]
    for pair, adjusted in zip(judged, holm([pair["p_value"] for pair in judged]), strict=True):
        pair["p_adjusted"] = adjusted
        if adjusted < SIGNIFICANCE and pair["favours"]:
            pair["verdict"] = pair["favours"]
    for pair in found:
        del pair["favours"]
    return found


def _pair(
    baseline: dict[str, Any], variant: dict[str, Any], before: Sequence[Line], after: Sequence[Line], name: str
) -> dict[str, Any]:
    of_seed = {line["seed"]: line for line in after}
    both = [(line, of_seed[line["seed"]]) for line in before if line["seed"] in of_seed]
    values = [(look_up(one["figures"], name), look_up(two["figures"], name)) for one, two in both]
    unobserved = [(_unobserved(one, name), _unobserved(two, name)) for one, two in both]
    complete = [
        (one, two)
        for (one, two), missing in zip(values, unobserved, strict=True)
        if one is not None and two is not None and not any(missing)
    ]
    test = paired([one for one, _ in complete], [two for _, two in complete]) if complete else None
    sign = -1.0 if BETTER[name] == "lower" else 1.0
    pair: dict[str, Any] = {
        "baseline": baseline,
        "variant": variant,
        "figure": name,
        "difference": {"mean": test.mean, "ci95": test.ci95, "n": test.count} if test else None,
        "test": "paired t",
        "p_value": test.p_value if test else None,
        "p_rank": test.p_rank if test else None,
        "p_adjusted": None,
        "censored": {"baseline": sum(it > 0 for it, _ in unobserved), "variant": sum(it > 0 for _, it in unobserved)},
        "unpaired": len(both) - len(complete),
        "verdict": "no difference shown",
        "favours": _favours(sign * test.mean) if test else "",
    }
    if any(pair["censored"].values()):
        scores = [_score(*two, *missing) for two, missing in zip(values, unobserved, strict=True)]
        wins, losses = scores.count(1), scores.count(-1)
        pair |= {"test": "sign", "p_value": sign_test(wins, losses), "p_rank": None}
        pair |= {"unpaired": scores.count(None), "favours": _favours(wins - losses)}
    return pair


def _favours(gain: float) -> str:
    return "better" if gain > 0 else "worse" if gain < 0 else ""


def _unobserved(line: Line, name: str) -> int:
    """How many faults of the replication were watched in vain for this time."""
    return sum(it[name]["censored"] for it in line["recoveries"]) if name in DURATIONS else 0


def _score(one: float | None, two: float | None, missed_by_one: int, missed_by_two: int) -> int | None:
    """1 where the second is the better one, -1 where the first is; 0 a tie, None: not to be told."""
    if missed_by_one != missed_by_two:
        return 1 if missed_by_two < missed_by_one else -1
    if missed_by_one or one is None or two is None:
        return None
    return (two < one) - (two > one)
