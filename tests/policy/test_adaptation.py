"""Adaptation proposes what the symptoms point at, applies what was better, and takes back what turns out worse."""

from __future__ import annotations

from typing import get_args

import pytest

from twin.policy.adaptation import LEVERS, TRANSITIONS, Adaptation, Phase, Proposal, Seen
from twin.policy.parameters import Parameters, find, preset

TIMEOUTS = Seen(1000, 50, {"first_token_timeout": 300})


def test_a_healthy_interval_changes_nothing() -> None:
    adaptation = Adaptation(Parameters())
    assert adaptation.propose(0.0, Seen(1000, 0, {"first_token_timeout": 1})) == []
    assert adaptation.phase == "idle"


def test_what_is_proposed_is_what_the_symptom_points_at() -> None:
    proposals = Adaptation(Parameters()).propose(0.0, TIMEOUTS)
    assert {it.key for it in proposals} == {"router.first_token_deadline_s"}
    assert [it.value for it in proposals] == [6.0, 12.0, 1.5]
    assert proposals[0].reason == "attempts were given up before their first token: 300 of 1000 requests"


def test_values_stay_within_their_bounds_and_whole_numbers_whole() -> None:
    parameters = preset("default", {"retry.attempts_max": 10, "router.first_token_deadline_s": 3600})
    proposals = Adaptation(parameters).propose(0.0, Seen(10, 9, {"attempts_failed": 9, "first_token_timeout": 9}))
    assert [(it.key, it.value) for it in proposals] == [
        ("router.first_token_deadline_s", 1800.0),
        ("retry.attempts_max", 0),
    ]
    (one_more,) = Adaptation(preset("default", {"retry.attempts_max": 0})).propose(
        0.0, Seen(9, 9, {"attempts_failed": 9})
    )
    assert one_more.value == 1


def applied(value: float = 6.0) -> Adaptation:
    adaptation = Adaptation(Parameters())
    proposals = adaptation.propose(0.0, TIMEOUTS)
    adaptation.tried(next(it for it in proposals if it.value == value), "30 fewer a run")
    return adaptation


def test_what_was_better_is_applied_and_watched_and_nothing_else_is_tried_meanwhile() -> None:
    adaptation = applied()
    assert adaptation.parameters.router.first_token_deadline_s == 6.0
    assert adaptation.phase == "watching"
    assert adaptation.propose(1.0, TIMEOUTS) == []


def test_a_change_after_which_no_more_is_bad_is_kept() -> None:
    adaptation = applied()
    assert adaptation.watched(900.0, Seen(1000, 12, {}))
    assert adaptation.phase == "idle"
    assert adaptation.parameters.router.first_token_deadline_s == 6.0
    assert "is kept: 12 of 1000 requests were bad, 50.0 expected" in adaptation.history[-1]


def test_a_change_after_which_more_is_bad_is_rolled_back_and_not_tried_again_for_a_day() -> None:
    adaptation = applied()
    assert not adaptation.watched(900.0, Seen(1000, 140, {}))
    assert adaptation.parameters.router.first_token_deadline_s == 3.0
    assert "rolled back: 140 of 1000 requests were bad, 50.0 expected" in adaptation.history[-1]
    assert 6.0 not in [it.value for it in adaptation.propose(2000.0, TIMEOUTS)]
    fresh = Adaptation(adaptation.parameters)
    fresh.not_before_s = adaptation.not_before_s
    assert 6.0 in [it.value for it in fresh.propose(900.0 + 86401.0, TIMEOUTS)]


def test_it_is_asked_once_an_interval_and_can_be_switched_off() -> None:
    adaptation = Adaptation(preset("default", {"config_adaptation.interval": 120}))
    adaptation.propose(0.0, TIMEOUTS)
    adaptation.tried(None, "?")
    assert adaptation.propose(119.0, TIMEOUTS) == []
    assert adaptation.propose(120.0, TIMEOUTS) != []
    assert Adaptation(preset("default", {"config_adaptation.enabled": False})).propose(0.0, TIMEOUTS) == []


def test_a_few_more_bad_requests_are_chance() -> None:
    adaptation = applied()
    assert adaptation.watched(900.0, Seen(1000, 60, {}))


def test_nothing_better_leaves_everything_as_it_is() -> None:
    adaptation = Adaptation(Parameters())
    adaptation.propose(0.0, TIMEOUTS)
    adaptation.tried(None, "none of 3 changes was better")
    assert adaptation.phase == "idle"
    assert adaptation.parameters == Parameters()
    assert adaptation.history == ["nothing changed: none of 3 changes was better"]


def test_a_result_that_nobody_asked_for_changes_nothing() -> None:
    adaptation = Adaptation(Parameters())
    adaptation.tried(Proposal("retry.attempts_max", 5, 3, "?"), "?")
    assert adaptation.parameters == Parameters()
    assert adaptation.watched(1.0, TIMEOUTS)


@pytest.mark.parametrize("lever", LEVERS, ids=lambda lever: f"{lever.symptom}-{lever.key}")
def test_every_lever_moves_a_number_that_exists(lever: object) -> None:
    assert isinstance(find(lever.key).default, (int, float))  # type: ignore[attr-defined]


def test_every_phase_can_be_left() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(get_args(Phase))
