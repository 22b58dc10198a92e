"""F18: GPU memory is not given back."""

from __future__ import annotations

from typing import Any

from tests.sim.test_faults import client_sees, rows
from tests.sim.worlds import NodeBench
from twin.record.reader import RunRecord

SHORT: dict[str, Any] = {
    "workload__arrivals": {"kind": "constant", "rate_rps": 0.5},
    "workload__output_tokens": {"kind": "constant", "mean": 20},
    "cluster__slots_per_model": 1,
}


def pace_ms(record: RunRecord, begin_s: float, end_s: float) -> float:
    """The mean time of a token, of generations that arrived in that time."""
    chosen = [row for row in rows(record) if begin_s < row["arrival_s"] < end_s and row["outcome"] == "succeeded"]
    return sum(row["eval_duration_s"] / row["tokens_received"] for row in chosen) / len(chosen) * 1000.0


def seen_gib(record: RunRecord) -> dict[float, float]:
    """What an agent sees in use on the GPU beyond what `/api/ps` lists."""
    rows_of_telemetry = record.table("telemetry").to_pylist()
    return {row["time_s"]: row["vram_used_gib"] - row["ollama_vram_gib"] for row in rows_of_telemetry}


def test_the_next_load_finds_too_little_and_a_new_server_has_all_again() -> None:
    record = client_sees({"kind": "vram_leak", "duration_s": 20}, **SHORT)
    assert {row["outcome"] for row in rows(record)} <= {"succeeded", "failed"}
    assert pace_ms(record, 0.0, 18.0) < 11.0
    assert pace_ms(record, 24.0, 38.0) > 20.0, "layers are in main memory"
    assert pace_ms(record, 46.0, 60.0) < 11.0


def test_the_staircase_is_seen_beforehand_and_the_loaded_model_takes_no_notice() -> None:
    fault = {"kind": "vram_leak", "at_s": 50, "lead_s": 40, "comes_to_nothing": True}
    record = client_sees(fault, **SHORT)
    leaked = seen_gib(record)
    assert leaked[45.0] - leaked[30.0] > 5.0
    assert leaked[30.0] - leaked[15.0] > 5.0
    assert abs(leaked[55.0] - leaked[5.0]) < 0.5, "a look-alike: it was another program, and it is gone"
    assert pace_ms(record, 0.0, 60.0) < 11.0
    assert record.table("faults").num_rows == 0
    assert [row["outcome"] for row in record.table("signs").to_pylist()] == ["nothing"]


def test_every_unload_leaves_something_behind_until_the_server_ends() -> None:
    bench = NodeBench()
    bench.node.conditions.set("fault", "vram_leaked_gib_per_unload", 0.3)
    for cycle in range(5):
        bench.ask(20.0 * cycle, f"load {cycle}", "a")
        bench.at(20.0 * cycle + 10.0, bench.node.unload, "a")
    free_gib: list[float] = []
    bench.at(99.0, lambda: free_gib.append(bench.node.memory.free_gib(99.0)[0]))
    bench.at(100.0, bench.node.kill_server)
    bench.at(101.0, bench.node.start_server)
    bench.at(102.0, lambda: free_gib.append(bench.node.memory.free_gib(102.0)[0]))
    bench.run()
    assert [round(gib, 6) for gib in free_gib] == [12.0 - 5 * 0.3, 12.0]
