"""Recall in a single run: which failures that showed were warned of in time, and which warnings had nothing behind them."""

from __future__ import annotations

import math

import pytest

from tests.record.runs import Run
from twin.record.figures import compute_figures

OVER = math.inf


def foretold(run: Run) -> int | None:
    return compute_figures(run.end())["faults_foretold"]


def false_warnings(run: Run) -> int:
    return compute_figures(run.end())["false_warnings"]


def test_where_nothing_showed_nothing_could_be_foretold() -> None:
    assert foretold(Run().fault(50.0)) is None
    assert foretold(Run().signs(20.0, 60.0, None, "nothing")) is None  # a look-alike


@pytest.mark.parametrize(
    ("warned_s", "ended_s", "count"),
    [
        (40.0, None, 1),
        (50.0, None, 1),  # just in time for an action
        (50.1, None, 0),
        (5.0, 15.0, 0),  # it was over before anything showed
        (5.0, 25.0, 1),
    ],
)
def test_a_failure_is_foretold_by_a_warning_that_leaves_time_to_act(
    warned_s: float, ended_s: float | None, count: int
) -> None:
    run = Run().signs(20.0, 80.0, 75.0).fault(80.0).forecast(warned_s)
    if ended_s is not None:
        run.forecast(ended_s, OVER)
    assert foretold(run) == count


def test_a_failure_that_an_action_averted_counts_by_when_it_was_due() -> None:
    assert foretold(Run().signs(20.0, 45.0, 80.0, "averted").forecast(40.0)) == 1
    assert foretold(Run().signs(20.0, 45.0, 80.0, "averted").forecast(46.0)) == 0  # what averted it was no forecast


def test_a_warning_of_another_node_foretells_nothing() -> None:
    assert foretold(Run().signs(20.0, 80.0, 80.0).forecast(40.0, node="node-1")) == 0


def test_a_warning_that_nothing_stood_behind_is_false() -> None:
    assert false_warnings(Run().forecast(20.0)) == 1
    assert false_warnings(Run().forecast(20.0).fault(70.0)) == 0  # it came within the horizon
    assert false_warnings(Run().forecast(20.0).fault(70.1)) == 1
    assert false_warnings(Run().forecast(20.0).signs(10.0, 30.0, None, "nothing")) == 0  # something did show
    assert false_warnings(Run().forecast(20.0).fault(40.0, node="node-1")) == 1


def test_a_warning_that_changes_its_class_is_one_and_each_policy_has_its_own() -> None:
    assert false_warnings(Run().forecast(20.0).forecast(30.0, failure="disk_full").forecast(40.0, OVER)) == 1
    assert false_warnings(Run().forecast(20.0).forecast(30.0, OVER).forecast(60.0)) == 2
    assert false_warnings(Run().forecast(20.0).forecast(30.0, of="gateway-1")) == 2
