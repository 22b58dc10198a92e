"""F07: a model is loaded partly into main memory, without a word."""

from __future__ import annotations

from tests.sim.test_faults import HARDWARE, client_sees, outcomes, rows
from tests.sim.worlds import NodeBench
from twin.record.reader import RunRecord

SMALL_GPU = HARDWARE | {"vram_gib": 8}
SHORT = {"kind": "constant", "mean": 50}


def pace_ms(record: RunRecord, begin_s: float, end_s: float) -> float:
    """Of the slowest generation of that time, a token."""
    chosen = [row for row in rows(record) if begin_s < row["arrival_s"] < end_s]
    return max(row["eval_duration_s"] / row["tokens_received"] for row in chosen) * 1000.0


def test_no_error_only_tokens_many_times_slower_until_the_model_is_loaded_again() -> None:
    record = client_sees(
        {"kind": "cpu_offload", "duration_s": 40},
        cluster__hardware=SMALL_GPU,
        workload__duration_s=110,
        cluster__context_tokens=4096,
        workload__arrivals={"kind": "constant", "rate_rps": 0.5},
        workload__output_tokens=SHORT,
    )
    assert {outcomes(record)[second][0] for second in outcomes(record) if second < 55} == {"succeeded"}
    assert pace_ms(record, 0.0, 19.0) < 15.0
    assert pace_ms(record, 30.0, 55.0) > 40.0
    assert pace_ms(record, 90.0, 108.0) < 15.0
    (fault,) = record.table("faults").to_pylist()
    assert 20.5 < fault["injected_s"] < 29.0, "when it was loaded"
    listed = {row["time_s"]: row["ollama_vram_gib"] for row in record.table("telemetry").to_pylist()}
    assert listed[40.0] < 0.7 * listed[15.0], "size_vram tells of it"


def test_a_gpu_with_room_for_two_takes_no_notice() -> None:
    record = client_sees({"kind": "cpu_offload"}, cluster__context_tokens=4096, workload__output_tokens=SHORT)
    assert record.table("faults").num_rows == 0
    assert pace_ms(record, 30.0, 55.0) < 15.0


def test_a_model_loaded_when_the_driver_has_caught_up_is_whole() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.node.add_runner("b")
    bench.node.conditions.set("fault", "vram_return_added_s", 60.0)
    bench.at(1.0, bench.node.expire_models)
    bench.ask(10.0, "early", "a")
    bench.at(100.0, bench.node.expire_models)
    bench.ask(300.0, "late", "a")
    ended = bench.run()
    assert ended["early"][0] - 10.0 > ended["late"][0] - 300.0


def test_loading_the_model_again_ends_it() -> None:
    record = client_sees(
        {},
        faults=[
            {"kind": "cpu_offload", "at_s": 20.5, "target": "node-0"},
            {"kind": "runner_crash", "at_s": 60.5, "target": "node-0"},
        ],
        cluster__hardware=SMALL_GPU,
        cluster__context_tokens=4096,
        workload__duration_s=90,
        workload__arrivals={"kind": "constant", "rate_rps": 0.2},
        workload__output_tokens=SHORT,
    )
    offload, _ = record.table("faults").to_pylist()
    assert (offload["kind"], offload["ended_by"], offload["ended_s"]) == ("cpu_offload", "action", 60.5)
    assert pace_ms(record, 40.0, 60.0) > 40.0
    assert pace_ms(record, 61.0, 90.0) < 15.0
