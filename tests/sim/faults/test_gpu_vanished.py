"""F08: the GPU vanishes from the container."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, outcomes, rows
from twin.record.reader import RunRecord

SHORT = {"kind": "constant", "mean": 20}


def seen_of(record: RunRecord, time_s: float) -> dict[str, float | None]:
    return next(row for row in record.table("telemetry").to_pylist() if row["time_s"] == time_s)


@pytest.mark.parametrize("lies", [True, False])
def test_what_is_loaded_anew_runs_on_the_processor_whatever_ps_says(lies: bool) -> None:
    record = client_sees({"kind": "gpu_vanished", "ps_lies": lies, "duration_s": 25}, workload__output_tokens=SHORT)
    assert {error for _, error in outcomes(record).values()} <= {"", "reset: all 1 attempts failed"}
    assert {outcomes(record)[second][0] for second in range(1, 40)} == {"succeeded"}
    slow = [row for row in rows(record) if 30.0 < row["arrival_s"] < 40.0]
    fast = [row for row in rows(record) if row["arrival_s"] < 20.0]
    assert min(row["eval_duration_s"] for row in slow) > 5.0 * max(row["eval_duration_s"] for row in fast)
    during, before = seen_of(record, 35.0), seen_of(record, 15.0)
    assert during["gpu_temperature_c"] is None, "the agent reads nothing of it"
    assert before["gpu_temperature_c"] is not None
    assert during["ollama_vram_gib"] == (pytest.approx(before["ollama_vram_gib"]) if lies else 0.0)
    assert rows(record)[-1]["eval_duration_s"] < 1.0, "the container was restarted"


def test_what_is_loaded_goes_on() -> None:
    record = client_sees({"kind": "gpu_vanished", "models_expire": False}, workload__output_tokens=SHORT)
    assert max(row["eval_duration_s"] for row in rows(record)) < 1.0
