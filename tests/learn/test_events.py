from __future__ import annotations

import numpy as np
import pytest

from tests.learn.worlds import episode, failure, seen, truth
from twin.learn.events import Tally, alarms, tally, threshold_for
from twin.learn.truth import Truth
from twin.record.foretelling import ACTION_S

HORIZON_S = 300.0


def ring(what: Truth, *times_s: float, names: int = 0) -> Tally:
    """The tally of a day on which the score is high at these times."""
    world = seen(what)
    score = np.zeros(len(world.node), dtype=np.float32)
    for time_s in times_s:
        score[np.flatnonzero(world.time_s == time_s)] = 1.0
    return tally(world, score, np.full(len(score), names), 0.5, HORIZON_S, 0.0)


def test_an_alarm_within_the_horizon_and_earlier_than_the_action_foretells() -> None:
    result = ring(truth([failure(10_000.0)]), 9_800.0)
    assert [(it.at_s, lead, named) for it, lead, named in result.foretold] == [(10_000.0, 200.0, True)]
    assert (result.false, result.true) == (0, 1)


def test_an_alarm_that_leaves_no_time_for_the_action_foretells_nothing_and_is_not_false() -> None:
    result = ring(truth([failure(10_000.0 + ACTION_S / 2)]), 10_000.0)
    assert not result.foretold
    assert (len(result.missed), result.false) == (1, 0)


def test_the_wrong_class_foretells_and_is_counted_as_such() -> None:
    (found,) = ring(truth([failure(10_000.0)]), 9_800.0, names=3).foretold
    assert found[2] is False


def test_an_alarm_during_the_signs_of_a_failure_that_comes_is_true_however_early() -> None:
    result = ring(truth([failure(10_000.0, signs_s=9_200.0)]), 9_300.0)
    assert (len(result.foretold), result.false) == (1, 0)


def test_an_alarm_out_of_the_blue_is_false_and_rings_once_a_horizon() -> None:
    result = ring(truth(), 1_000.0, 1_020.0, 1_040.0, 1_300.0)
    assert result.false == 2
    assert result.false_a_node_day == pytest.approx(2.0)


def test_an_alarm_that_a_fault_of_the_network_provokes_is_false_and_counted_as_such() -> None:
    result = ring(Truth([], [], [("n", 900.0, 1_100.0)], []), 1_000.0, 2_000.0)
    assert (result.false, result.disturbed) == (2, 1)


def test_an_alarm_at_a_look_alike_is_counted_apart() -> None:
    result = ring(truth(episodes=[episode(1_000.0, 1_400.0, "nothing")]), 1_200.0)
    assert (result.false, result.look_alikes, result.look_alikes_in_all) == (0, 1, 1)


def test_what_an_action_averted_counts_neither_way() -> None:
    result = ring(truth(episodes=[episode(1_000.0, 1_400.0, "averted")]), 1_200.0)
    assert (result.false, result.look_alikes, result.true) == (0, 0, 0)


def test_a_failure_during_another_one_is_not_asked_for() -> None:
    result = ring(truth([failure(1_000.0, ended_s=1_200.0), failure(1_300.0)]))
    assert [it.at_s for it in result.missed] == [1_000.0]


def test_alarms_rest_for_a_horizon() -> None:
    assert alarms(np.array([0.0, 10.0, 20.0, 30.0]), np.array([True, True, True, True]), 20.0) == [0, 2]


def test_the_threshold_is_the_lowest_that_rings_falsely_no_more_than_allowed() -> None:
    world = seen(truth([failure(50_000.0)]))
    score = np.random.default_rng(1).random(len(world.node)).astype(np.float32)
    score[np.flatnonzero(world.time_s == 49_900.0)] = 2.0
    named = np.zeros(len(score), dtype=np.int64)
    threshold = threshold_for([world], [score], [named], HORIZON_S, 0.0, 1.0)
    assert tally(world, score, named, threshold, HORIZON_S, 0.0).false <= 1
    assert threshold < 2.0
