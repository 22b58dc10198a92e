"""The state machines are tables: every state can be reached, and left, unless it is an end."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tests.policy.bench import run
from twin.policy import health, incidents
from twin.policy.vocabulary import IncidentState


def reachable(start: str, transitions: dict[Any, Any]) -> set[str]:
    found, open_ = {start}, [start]
    while open_:
        at = open_.pop()
        for (state, _), following in transitions.items():
            if state == at and following not in found:
                found.add(following)
                open_.append(following)
    return found


@pytest.mark.parametrize("start", get_args(health.Health))
def test_from_every_health_every_other_can_be_reached(start: str) -> None:
    assert reachable(start, health.TRANSITIONS) == set(get_args(health.Health))


def test_every_incident_state_can_be_reached_from_open() -> None:
    assert reachable("open", incidents.TRANSITIONS) == set(get_args(IncidentState))


def test_closed_is_the_only_end_of_an_incident() -> None:
    for state in get_args(IncidentState):
        assert ("closed" in reachable(state, incidents.TRANSITIONS)) is True
    leads_on = {event for state, event in incidents.TRANSITIONS if state == "closed"}
    assert leads_on == {"left_behind"}, "it had not been over"


def test_the_tables_know_only_known_words() -> None:
    assert {event for _, event in health.TRANSITIONS} == set(get_args(health.HealthEvent))
    assert {event for _, event in incidents.TRANSITIONS} == set(get_args(incidents.IncidentEvent))
    assert {state for state, _ in health.TRANSITIONS} <= set(get_args(health.Health))
    assert set(incidents.TRANSITIONS.values()) <= set(get_args(IncidentState))


def test_traffic_goes_to_what_serves_or_proves_itself_and_nothing_else() -> None:
    assert {"serving", "proving"} == health.ROUTABLE


def test_a_node_that_was_down_gets_traffic_only_after_a_generation() -> None:
    entries = {(state, event) for (state, event), after in health.TRANSITIONS.items() if after in health.ROUTABLE}
    assert entries == {("suspect", "passed"), ("down", "passed"), ("proving", "held")}
    assert health.after("drained", "passed") == "drained"
    assert health.after("down", "held") == "down"


def test_what_is_not_listed_changes_nothing() -> None:
    for state in get_args(health.Health):
        for event in get_args(health.HealthEvent):
            assert health.after(state, event) == health.TRANSITIONS.get((state, event), state)


def test_the_default_policy_really_walks_through_every_state() -> None:
    seen = "\n".join(
        run(
            [
                "cluster nodes 3 slots 2 replicas 3 probes.load_path_model=s healer.attempts_max=1 healer.cooldown_s=1.0",
                "node-0 cannot load",
                "requests 1-3",
                "node-1 crashes",
                "advance 40",
                "node-0 works",
                "restart node-0 done",
                "restart node-1 failed",
                "advance 20",
                "node-1 works",
                "advance 20",
            ]
        )
    )
    for state in (*get_args(health.Health), *get_args(IncidentState)):
        assert f"-> {state}" in seen or state == "open", state
