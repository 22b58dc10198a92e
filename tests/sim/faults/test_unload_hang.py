"""F11: "Stopping..." for ever."""

from __future__ import annotations

import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import NodeBench, simulate


def stuck(bench: NodeBench, *, lock: bool) -> None:
    bench.node.conditions.set("fault", "runner_unkillable", 1.0)
    if lock:
        bench.node.conditions.set("fault", "unload_holds_lock", 1.0)
    bench.node.conditions_changed()
    bench.node.expire_models()


def test_with_the_lock_every_generation_hangs_whatever_its_model() -> None:
    bench = NodeBench(slots=2)
    bench.node.add_runner("a")
    bench.node.add_runner("b")
    bench.ask(0.0, "busy", "b", tokens=500)
    bench.at(1.0, lambda: stuck(bench, lock=True))
    bench.ask(2.0, "same", "a")
    bench.ask(2.0, "other", "b")
    bench.ask(2.0, "cold", "c")
    assert bench.run() == {"busy": (5.0, "")}, "what runs goes on"
    assert bench.node.resident() == ("a", "b"), "a model past its time is still listed"
    assert bench.node.malfunctions.lock_held


def test_without_the_lock_only_the_model_that_is_stopping_hangs() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.at(1.0, lambda: stuck(bench, lock=False))
    bench.ask(2.0, "same", "a")
    bench.ask(2.0, "cold", "c")
    ended = bench.run()
    assert list(ended) == ["cold"]
    assert ended["cold"][1] == ""


def test_when_the_kernel_lets_go_what_hung_is_served() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.at(1.0, lambda: stuck(bench, lock=True))
    bench.ask(2.0, "hung", "a")
    bench.ask(3.0, "gave up", "a")
    bench.hang_up(4.0, "gave up")
    bench.at(50.0, bench.node.conditions.withdraw, "fault")
    bench.at(50.0, bench.node.conditions_changed)
    ended = bench.run()
    assert list(ended) == ["hung"]
    assert ended["hung"][1] == ""
    assert ended["hung"][0] >= 50.0 + 4.5, "it was loaded anew"
    assert bench.jobs["hung"].submitted_s == 2.0


def test_the_residency_probe_times_out_while_liveness_passes_and_a_restart_ends_it() -> None:
    _, record = simulate(
        scenario(workload__duration_s=90, faults=[{"kind": "unload_hang", "at_s": 20, "target": "node-0"}])
    )
    probes = [row for row in record.table("probes").to_pylist() if row["node"] == "node-0" and row["time_s"] > 20]
    assert any(row["kind"] == "residency" and row["error"] == "first_token_timeout" for row in probes)
    assert not any(row["kind"] == "liveness" and not row["ok"] for row in probes if row["time_s"] < 22)
    (fault,) = record.table("faults").to_pylist()
    restarts = [row for row in record.table("actions").to_pylist() if row["kind"] == "restart"]
    assert [row["node"] for row in restarts] == ["node-0"]
    assert fault["ended_by"] == "action"
    late = [row for row in record.table("requests").to_pylist() if row["arrival_s"] > 60]
    assert {row["outcome"] for row in late} == {"succeeded"}
    assert "node-0" in {row["node"] for row in late}


@pytest.mark.parametrize("lock", [True, False])
def test_a_new_server_knows_nothing_of_it(lock: bool) -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.at(1.0, lambda: stuck(bench, lock=lock))
    bench.ask(2.0, "hung", "a")
    bench.at(10.0, bench.node.kill_server)
    bench.at(10.0, bench.node.conditions.withdraw, "fault")
    bench.at(10.0, bench.node.conditions_changed)
    bench.at(11.0, bench.node.start_server)
    bench.ask(12.0, "after", "a")
    ended = bench.run()
    assert ended["hung"] == (10.0, "reset")
    assert ended["after"] == (pytest.approx(12.0 + 4.6), "")
