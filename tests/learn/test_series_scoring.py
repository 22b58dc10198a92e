"""The scorer against cases that were counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from twin.learn.series_scoring import (
    ScoredMachine,
    chosen_without_the_machine,
    deployable_threshold,
    events,
    excused,
    figures,
    outcomes,
    pages,
    recalls,
    shifted,
)

PERIOD_S = 60.0
DAY = 1440


def marked(count: int, *runs: tuple[int, int]) -> np.ndarray:
    found = np.zeros(count, dtype=np.bool_)
    for start, end in runs:
        found[start:end] = True
    return found


def scored(test: np.ndarray, labels: np.ndarray, calibration: np.ndarray | None = None) -> ScoredMachine:
    known = np.zeros(DAY) if calibration is None else calibration
    return ScoredMachine("m", PERIOD_S, known, test.astype(float), labels)


def recall(machines: list[ScoredMachine], budget: str = "1_false_page_per_machine_day") -> float:
    value = figures(machines)[f"recall_at_{budget}"]["recall"]
    assert isinstance(value, float)
    return value


def test_events_are_runs_also_at_both_ends() -> None:
    assert events(marked(10, (0, 2), (5, 6), (8, 10))) == [(0, 2), (5, 6), (8, 10)]
    assert events(marked(3)) == []


def test_a_page_is_the_first_exceedance_and_a_standing_alarm_pages_again_every_30_minutes() -> None:
    assert pages(marked(200, (10, 11), (20, 81)), PERIOD_S).tolist() == [10, 20, 50, 80]
    assert pages(marked(200, (20, 80)), PERIOD_S).tolist() == [20, 50]
    assert pages(marked(20, (2, 15)), 300.0).tolist() == [2, 8, 14]
    assert pages(marked(5), PERIOD_S).tolist() == []


def test_a_page_is_not_false_from_30_minutes_before_an_event_to_30_minutes_after_it() -> None:
    good = excused(marked(200, (100, 110)), PERIOD_S)
    assert np.flatnonzero(good)[[0, -1]].tolist() == [70, 139]


def test_delays_and_false_pages_are_those_counted_by_hand() -> None:
    labels = marked(DAY, (300, 320), (800, 810))
    test = np.zeros(DAY)
    test[[100, 305, 835]] = 5.0  # false; in the first event after 5 minutes; after the second, too late but not false
    found = outcomes([scored(test, labels)], np.array([1.0]))
    assert found.false_pages.tolist() == [[1]]
    assert found.delays_s[0, 0] == 300.0
    assert math.isnan(found.delays_s[0, 1])
    assert recall([scored(test, labels)]) == 0.5


def test_a_perfect_score_finds_all_and_a_constant_or_random_one_nothing_to_speak_of() -> None:
    labels = marked(10 * DAY, *((start, start + 10) for start in range(700, 10 * DAY, 1400)))
    perfect = [scored(labels, labels)]
    assert recall(perfect, "0.25_false_pages_per_machine_day") == 1.0
    assert figures(perfect)["auc_pr"] == 1.0
    constant = figures([scored(np.ones(10 * DAY), labels)])
    assert (
        constant["recall_at_1_false_page_per_machine_day"]["recall"] == 0.0
    )  # an alarm that always stands pages 48 times
    assert constant["auc_pr"] == pytest.approx(labels.mean())
    random = [scored(np.random.default_rng(seed).random(10 * DAY), labels) for seed in range(8)]
    assert recall(random) < 0.1


def test_recall_at_a_budget_is_by_one_threshold_for_all_machines() -> None:
    labels = marked(DAY, (700, 710))
    quiet, loud = np.zeros(DAY), np.full(DAY, 2.0)
    quiet[705], loud[705] = 1.0, 3.0  # below 2.0 the loud machine's alarm stands all day
    assert recall([scored(quiet, labels), scored(loud, labels)]) == 0.5


def test_the_deployable_threshold_comes_from_the_calibration_and_one_bad_day_counts_twice_the_budget_at_most() -> None:
    calibration = np.zeros(10 * DAY)
    calibration[np.arange(10) * DAY + 100] = np.arange(10) + 1.0  # one page a day, higher each day
    calibration[:DAY:2] = 50.0  # and a first day of flicker
    labels = marked(DAY, (700, 710))
    test = labels * 5.0
    machine = scored(test, labels, calibration)
    assert deployable_threshold([machine], 1.0) == 3.0  # two for the bad day, one for each of eight others
    found = figures([machine])["deployable_for_1_false_page_per_machine_day"]
    assert (found["recall"], found["false_pages"], found["threshold"]) == (1.0, 0, 3.0)


def test_labels_do_not_move_the_deployable_threshold() -> None:
    calibration = np.random.default_rng(1).random(5 * DAY)
    machine = scored(np.random.default_rng(2).random(DAY), marked(DAY, (10, 20)), calibration)
    other = scored(machine.test, marked(DAY, (500, 900)), calibration)
    assert deployable_threshold([machine], 0.25) == deployable_threshold([other], 0.25)


def test_a_perfect_score_falls_to_nothing_on_shifted_labels() -> None:
    labels = marked(DAY * 10, (1000, 1010), (5000, 5050), (12_000, 12_010))
    assert recalls(shifted([scored(labels, labels)], 0.35)) == {
        "recall_at_1_false_page_per_machine_day": 0.0,
        "recall_at_0.25_false_pages_per_machine_day": 0.0,
    }


def test_without_events_there_is_no_recall_but_false_pages_are_counted() -> None:
    found = figures([scored(np.zeros(DAY), marked(DAY))])
    assert found["recall_at_1_false_page_per_machine_day"]["recall"] is None
    assert found["auc_pr"] is None
    assert found["deployable_for_1_false_page_per_machine_day"]["false_pages"] == 0


def test_intervals_contain_the_recall_and_are_the_same_again() -> None:
    labels = marked(4 * DAY, *((start, start + 10) for start in range(500, 4 * DAY, 900)))
    machines = [
        scored(labels * (seed % 3 != 0) + np.random.default_rng(seed).random(4 * DAY) / 2, labels) for seed in range(6)
    ]
    found = figures(machines)["recall_at_1_false_page_per_machine_day"]
    for name in ("recall_interval", "recall_interval_over_machines"):
        low, high = found[name]
        assert low < found["recall"] < high
    assert figures(machines) == figures(machines)


def test_a_variant_is_chosen_on_the_other_machines_alone() -> None:
    labels = marked(DAY, (700, 710))
    good, none = scored(labels, labels), scored(np.zeros(DAY), labels)
    found = chosen_without_the_machine({"a": [good, none, none], "b": [none, good, good]})
    assert found is not None
    assert found["picked"] == ["b", "a", "a"]  # for the first one the others speak for b, for each of the others a draw
    assert found["recall_at_1_false_page_per_machine_day"] == 0.0
    assert chosen_without_the_machine({"a": [good]}) is None
