from __future__ import annotations

from typing import Any

import pytest

from reports.words import GROUPS, LABELS, figure, limit, notes, number, run_again, verdict_sentence
from tests.reports.synthetic import crash, summary
from twin.record.names import FIGURES


def test_every_figure_has_a_label_and_a_place() -> None:
    assert set(LABELS) == set(FIGURES) == {name for names in GROUPS.values() for name in names}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (60.0, "60"),
        (1234567, "1,234,567"),
        (5.851565, "5.85"),
        (0.0508, "0.0508"),
        (12345.6, "12,346"),
        (0.9996, "0.9996"),
        (0.9999999, "0.9999999"),
        (0.00001234, "1.23e-05"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_three_digits_that_count_and_a_ratio_keeps_its_nines(value: float, words: str) -> None:
    assert number(value) == words


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ttr_s", 5.85, "5.85 s"),
        ("ttr_s", None, "not observed"),
        ("requests_lost", 0, "0"),
        ("ttr_s", {"mean": 6.0, "ci95": [5.0, 7.5], "n": 20}, "6 s (95 % CI 5 to 7.50 s, n = 20)"),
        ("ttr_s", {"mean": 6.0, "ci95": None, "n": 1}, "6 s (n = 1)"),
        ("actions", {"drain": 2, "restart": 1}, "drain 2, restart 1"),
        ("actions", {"drain": {"mean": 1.5, "ci95": [1, 2], "n": 4}}, "drain 1.50"),
        ("actions", {}, "none"),
        ("ttft_s", {"mean": 0.5, "p50": 0.4, "p95": 1.0, "p99": 2.0}, "mean 0.500 s, p50 0.400 s, p95 1 s, p99 2 s"),
        ("ttft_s", dict.fromkeys(("mean", "p50", "p95", "p99")), "not observed"),
        ("ttft_s.p95", 0.25, "0.250 s"),
        ("ttd_s", 0.001, "1 ms"),
        ("ttd_s", 0.0675, "67.5 ms"),
        ("ttd_s", 0.00004, "< 0.1 ms"),
        ("ttd_s", -0.00004, "> -0.1 ms"),
        ("ttd_s", 0.0, "0 s"),
        ("ttd_s", {"mean": 0.2, "ci95": [0.05, 0.35], "n": 9}, "0.200 s (95 % CI 50 ms to 0.350 s, n = 9)"),
    ],
)
def test_a_figure_is_said_with_its_unit_and_its_interval(name: str, value: Any, words: str) -> None:
    assert figure(name, value) == words


def test_limits_are_said_in_words() -> None:
    assert limit({"max": 60.0}, "ttr_s") == "at most 60 s"
    assert limit({"min": 0.99, "max": None}, "success_ratio") == "at least 0.99"


def test_the_sentence_of_a_verdict_says_what_was_not_kept() -> None:
    record = crash()
    assert verdict_sentence(summary([record])) == "requests_lost should be at most 0, and is 1."
    assert verdict_sentence(summary([record, record])) == (
        "requests_lost should be at most 0, and is 1 on average, 1 at worst; it was kept in 0 of 2 runs."
    )
    passed = summary([record], expectations=summary([record])["expectations"][1:])
    assert verdict_sentence(passed) == "What was expected holds."
    unseen = {"name": "ttr_s", "limit": {"max": 60.0}, "value": None, "verdict": "unknown"}
    assert verdict_sentence(summary([record], expectations=[unseen])) == (
        "ttr_s should be at most 60 s, and was not observed."
    )
    broken = summary([record], expectations=[], invariants={"replica_floor": 2})
    assert verdict_sentence(broken) == "Invariants were broken: replica_floor."


def test_notes_are_sentences() -> None:
    assert notes({"notes": ["seed 3: aborted at 40 s"]}) == ["Seed 3: aborted at 40 s."]


def test_the_line_to_run_it_again_is_the_command_that_was_given_where_it_is_known() -> None:
    plain = summary([crash()], world="live")
    assert run_again(plain) == "ollamamax run scenarios/node-crash.yaml --seed 1 --replications 1 --world live"
    assert run_again(plain | {"command": "ollamamax run x.yaml --set a=b"}) == "ollamamax run x.yaml --set a=b"
