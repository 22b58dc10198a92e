"""What a node was at every moment, exactly, whatever the period of the telemetry."""

from __future__ import annotations

import itertools
from typing import Any

from tests.record.runs import Run
from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.record.health import health_intervals


def states(run: Run, node: str = "node-0") -> list[tuple[float, float, str]]:
    found = health_intervals(run.end())
    return [(each.from_s, each.to_s, each.state) for each in found if each.node == node]


def test_a_fault_that_nobody_notices_an_incident_a_restart_and_its_proof_follow_each_other() -> None:
    run = Run().fault(20.0, ended_s=28.0).incident(22.0, verified_s=31.0, closed_s=41.0)
    run.recorder.actions.add((1, 25.0, "restart", "node-0", None, "", 1.0, 60.0, "done", 28.0, "", "gateway-0"))
    assert states(run) == [
        (0.0, 20.0, "serving"),
        (20.0, 22.0, "faulty"),
        (22.0, 25.0, "incident"),
        (25.0, 28.0, "restarting"),
        (28.0, 31.0, "incident"),
        (31.0, 41.0, "proving"),
        (41.0, 100.0, "serving"),
    ]


def test_what_nothing_ended_goes_on_to_the_end_of_the_run() -> None:
    assert states(Run().fault(90.0, held=True)) == [(0.0, 90.0, "serving"), (90.0, 100.0, "faulty")]


def test_a_drained_node_is_set_aside_until_it_is_given_back() -> None:
    run = Run().action(10.0, "drain").action(30.0, "return").action(70.0, "drain")
    assert states(run) == [
        (0.0, 10.0, "serving"),
        (10.0, 30.0, "drained"),
        (30.0, 70.0, "serving"),
        (70.0, 100.0, "drained"),
    ]


def test_a_fault_of_the_gateway_is_no_node_and_a_node_of_which_nothing_is_told_serves() -> None:
    run = (
        Run()
        .fault(20.0, ended_s=30.0, node="gateway")
        .request(1.0, 2.0, node="node-10")
        .request(1.0, 2.0, node="node-2")
    )
    found = health_intervals(run.end())
    assert [(each.node, each.state, each.to_s) for each in found] == [
        ("node-2", "serving", 100.0),
        ("node-10", "serving", 100.0),
    ]


def test_the_intervals_of_a_run_have_no_gap_and_are_finer_than_its_telemetry() -> None:
    changes: dict[str, Any] = {
        "faults": [{"kind": "server_crash", "at_s": 12.25, "target": "node-0"}],
        "record": {"telemetry_period_s": 20},
    }
    _, record = simulate(scenario(**changes))
    found = health_intervals(record)
    for node in ("node-0", "node-1"):
        own = [each for each in found if each.node == node]
        assert own[0].from_s == 0.0
        assert own[-1].to_s == record.number("simulated_s")
        assert all(one.to_s == two.from_s and one.state != two.state for one, two in itertools.pairwise(own))
    struck = [each.state for each in found if each.node == "node-0"]
    assert struck[:3] == ["serving", "faulty", "incident"] or struck[:3] == ["serving", "faulty", "restarting"]
    assert "restarting" in struck
    assert next(each.from_s for each in found if each.state == "faulty") == 12.25
