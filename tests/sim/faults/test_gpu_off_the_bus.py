"""F09: the GPU stops answering."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, outcomes, took_s
from tests.sim.worlds import NodeBench


def test_running_requests_hang_and_every_next_one_fails_at_once() -> None:
    record = client_sees({"kind": "gpu_off_the_bus"})
    seen = outcomes(record)
    assert {seen[second] for second in (19, 20)} == {("deadline", "deadline")}
    assert {seen[second][1].split(":")[0] for second in range(21, 60)} == {"server_error"}
    assert max(took_s(record)[second] for second in range(21, 60)) < 0.05


def test_running_requests_fail_where_they_are_said_to() -> None:
    record = client_sees({"kind": "gpu_off_the_bus", "running": "fail", "duration_s": 20})
    seen = outcomes(record)
    assert {seen[second][1].split(":")[0] for second in (19, 20)} == {"error_record"}
    assert {seen[second][1].split(":")[0] for second in range(21, 41)} == {"server_error"}
    assert {seen[second][0] for second in range(41, 60)} == {"succeeded"}, "the machine was rebooted"


def test_what_can_be_read_stays_green() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.ask(0.0, "running", "a", tokens=500)
    bench.at(1.0, bench.node.pause_runner)
    bench.at(1.0, bench.node.conditions.set, "fault", "gpu_lost", 1.0)
    bench.at(1.0, bench.node.conditions_changed)
    bench.ask(2.0, "next", "a")
    bench.ask(3.0, "cold", "b")
    ended = bench.run()
    assert ended == {"next": (2.0, "server_error"), "cold": (3.02, "server_error")}
    assert bench.node.alive
    assert bench.node.resident() == ("a",)
