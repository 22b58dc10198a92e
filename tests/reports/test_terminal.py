from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from reports.terminal import print_summary
from tests.record.runs import Run
from tests.reports.synthetic import crash, summary


def printed(of: dict[str, Any], width: int = 90) -> str:
    out = io.StringIO()
    print_summary(of, Console(file=out, width=width))
    return out.getvalue()


def test_the_verdict_stands_above_expectations_figures_and_invariants() -> None:
    text = printed(summary([crash()]))
    parts = (
        "whole again within 60 s.",
        "✗ Fail. requests_lost should be at most 0, and is 1.",
        "at most 60 s",
        "Requests offered             800",
        "Time to detection (TTD)      0.500 s",
        "restart 1",
        "Time to first token          0.200 s",
        "✓ All 2 invariants held.",
        "Again: ollamamax run scenarios/node-crash.yaml --seed 1 --replications 1",
        "Written to runs/seed-1",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_several_replications_show_means_intervals_and_the_worst_run() -> None:
    text = printed(summary([crash(), crash()]), width=100)
    for part in (
        "0.500 to 1.50",
        "✗ fail (0/2)",
        "0.500 s (95 % CI 0.500 to 0.500 s, n = 2)",
        "node-crash, twin, 2 replications from seed 1",
    ):
        assert part in text


def test_what_was_not_observed_is_a_dash_and_not_a_zero() -> None:
    text = printed(
        summary([Run().end()], expectations=[], verdict="unknown", notes=["nothing to judge"], invariants={})
    )
    assert "Time to recovery (TTR)       –" in text
    assert "Nothing to judge." in text
    assert "No invariant was checked." in text


def test_broken_invariants_are_named() -> None:
    assert "✗ Invariants broken: replica_floor (3)" in printed(summary([crash()], invariants={"replica_floor": 3}))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_terminal_or_100_columns(width: int) -> None:
    lines = printed(summary([crash(), crash()]), width).splitlines()
    assert max(len(line) for line in lines) <= min(width, 100)
