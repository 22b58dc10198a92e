"""What-ifs start from the state that a cluster is in, and differ by their candidate alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from tests.scenario.documents import scenario
from twin.experiment.what_if import Candidate, look_ahead
from twin.policy.cluster_policy import ClusterPolicy
from twin.record.writer import Recorder
from twin.scenario.schema import Scenario
from twin.sim.present import ClusterNow, present
from twin.sim.simulation import Simulation

NOTHING = Candidate("nothing")


def cluster(**changes: object) -> Scenario:
    return scenario(**{"cluster__nodes": 4, "workload__duration_s": 60, "record": {"journal": False}} | changes)


def state_at(it: Scenario, time_s: float) -> ClusterNow:
    parameters = it.policy.parameters()
    policy = ClusterPolicy(it.cluster.spec(), parameters)
    simulation = Simulation(it, 1, [policy], Recorder(None), parameters=parameters)
    taken: list[ClusterNow] = []
    simulation.engine.call_at(time_s, lambda: taken.append(present(simulation)))
    simulation.run()
    return taken[0]


def test_doing_nothing_twice_gives_the_same_future() -> None:
    it = cluster()
    state = state_at(it, 30.0)
    one, other = look_ahead(it, state, [NOTHING, NOTHING], 60.0, 7)
    assert one.figures["requests_offered"] > 50
    for name in ("requests_lost", "e2e_s", "events"):
        assert one.figures[name] == other.figures[name]


def test_the_requests_that_are_under_way_end_in_it() -> None:
    tokens, rate = {"kind": "constant", "mean": 300}, {"kind": "constant", "rate_rps": 1.1}
    it = cluster(workload__output_tokens=tokens, workload__arrivals=rate)
    state = state_at(it, 30.0)
    assert state.requests
    (ahead,) = look_ahead(it, state, [NOTHING], 60.0, 7)
    (fresh,) = look_ahead(it, replace(state, requests=()), [NOTHING], 60.0, 7)
    assert ahead.figures["requests_admitted"] == fresh.figures["requests_admitted"] + len(state.requests)
    assert ahead.figures["requests_lost"] == 0


def test_a_node_that_is_down_is_down_and_gets_repaired() -> None:
    it = cluster(faults=[{"kind": "server_crash", "at_s": 29, "target": "node-1"}])
    state = state_at(it, 31.0)
    assert not state.nodes["node-1"].alive
    (ahead,) = look_ahead(it, state, [NOTHING], 60.0, 7)
    assert ahead.figures["actions"]["restart"] == 1
    assert ahead.figures["incidents_healed"] in (0, None)  # no fault of this run: it was there before
    (left,) = look_ahead(it, state, [Candidate("leave it", overrides={"healer.enabled": False})], 60.0, 7)
    assert left.figures["actions"].get("restart", 0) == 0


def test_a_crash_that_might_come_is_told_from_nothing_on_the_same_arrivals() -> None:
    it = cluster(policy={"preset": "none"})
    state = state_at(it, 30.0)
    crash = Candidate("node-2 crashes", faults=({"kind": "server_crash", "at_s": 10, "target": "node-2"},))
    nothing, crashed = look_ahead(it, state, [NOTHING, crash], 60.0, 7)
    assert nothing.figures["requests_offered"] == crashed.figures["requests_offered"]
    assert nothing.figures["requests_lost"] == 0
    assert crashed.figures["requests_lost"] > 0


def test_a_candidate_that_is_not_possible_is_refused() -> None:
    it = cluster()
    with pytest.raises(ValidationError, match="node-9"):
        wrong = Candidate("?", faults=({"kind": "server_crash", "at_s": 1, "target": "node-9"},))
        look_ahead(it, state_at(it, 10.0), [wrong], 60.0, 7)
