"""F05: the GPU's memory is full while models run."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import LOAD_S, client_sees, failed_of, outcomes, took_s
from tests.sim.worlds import NodeBench
from twin.sim.memory import RECOVERY_LIMIT_S


def test_the_next_request_kills_its_runner_and_every_loaded_model_goes() -> None:
    bench = NodeBench(slots=2)
    bench.node.add_runner("a")
    bench.node.add_runner("b")
    bench.at(1.0, bench.node.conditions.set, "fault", "vram_grabbed_share", 1.0)
    bench.at(1.0, bench.node.conditions_changed)
    bench.ask(0.5, "running", "a", tokens=500)
    bench.ask(2.0, "one too many", "a")
    bench.at(3.0, lambda: seen.append(bench.node.resident()))
    bench.at(4.0, bench.node.conditions.withdraw, "fault")
    bench.at(4.0, bench.node.conditions_changed)
    bench.ask(5.0, "reload", "a")
    seen: list[tuple[str, ...]] = []
    ended = bench.run()
    assert ended["running"] == (2.0, "error_record")
    assert ended["one too many"] == (2.0, "server_error")
    assert seen == [()], "b went, too"
    assert ended["reload"] == (pytest.approx(5.0 + RECOVERY_LIMIT_S + 4.5 + 0.1), "")


def test_it_happens_again_while_the_neighbour_is_there_and_each_reload_waits_five_seconds() -> None:
    record = client_sees({"kind": "gpu_out_of_memory", "duration_s": 20})
    failed = failed_of(record)
    assert {20, 21} <= failed
    assert len(failed) > 10
    assert {outcomes(record)[second][1].split(":")[0] for second in failed} == {"error_record", "server_error"}
    assert max(took_s(record).values()) > RECOVERY_LIMIT_S + LOAD_S
    assert {outcomes(record)[second][0] for second in range(50, 60)} == {"succeeded"}


def test_without_a_request_it_does_not_come_about() -> None:
    record = client_sees({"kind": "gpu_out_of_memory", "at_s": 59.5})
    assert record.table("faults").num_rows == 0
