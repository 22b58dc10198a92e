"""F12: a runner hangs after so many requests."""

from __future__ import annotations

import pytest

from tests.scenario.documents import scenario
from tests.sim.test_faults import client_sees, outcomes
from tests.sim.worlds import NodeBench, simulate


def test_the_request_that_fills_the_measure_hangs_and_all_after_it() -> None:
    record = client_sees({"kind": "hang_after_requests", "at_s": 0.0, "requests": 30})
    seen = outcomes(record)
    assert {seen[second][0] for second in range(1, 27)} == {"succeeded"}
    assert {seen[second] for second in range(30, 60)} == {("deadline", "deadline")}
    (fault,) = record.table("faults").to_pylist()
    assert 29.0 <= fault["injected_s"] <= 31.0, "it was injected when it hung, not when the defect was armed"


def test_a_new_runner_counts_anew_and_hangs_again() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.node.conditions.set("fault", "hang_after_requests", 3.0)
    bench.node.conditions_changed()
    for number in range(8):
        bench.ask(10.0 * number, f"{number}", "a")
    bench.at(25.0, bench.node.kill_runner)
    ended = bench.run()
    assert [name for name, (_, error) in ended.items() if not error] == ["0", "1", "3", "4"]
    assert ended["2"] == (25.0, "server_error")


def test_a_restart_helps_for_a_while_and_the_fault_stays() -> None:
    _, record = simulate(
        scenario(
            workload__duration_s=120,
            faults=[{"kind": "hang_after_requests", "at_s": 10, "requests": 20, "target": "node-0"}],
        )
    )
    restarts = [row for row in record.table("actions").to_pylist() if row["kind"] == "restart"]
    assert len(restarts) >= 2
    (fault,) = record.table("faults").to_pylist()
    assert fault["ended_by"] == "teardown"
    assert fault["injected_s"] == pytest.approx(10.0, abs=15.0)
