"""F20: heat takes the clock down, and the clock the speed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.faults.test_vram_leak import pace_ms
from tests.sim.test_faults import client_sees, failed_of
from twin.record.reader import RunRecord

HOT: dict[str, Any] = {
    "workload__duration_s": 200,
    "workload__output_tokens": {"kind": "constant", "mean": 50},
    "cluster__hardware": "rtx-4090",
}


def read(record: RunRecord, column: str) -> dict[float, float]:
    return {row["time_s"]: row[column] for row in record.table("telemetry").to_pylist()}


def run(rate_rps: float, **fault: Any) -> RunRecord:
    load = {"kind": "constant", "rate_rps": rate_rps}
    return client_sees({"kind": "thermal_throttle", **fault}, workload__arrivals=load, **HOT)


def test_under_load_temperature_rises_then_the_clock_falls_then_tokens_come_slower() -> None:
    record = run(2.0, cooling_factor=0.3, duration_s=120)
    temperature_c, clock_mhz = read(record, "gpu_temperature_c"), read(record, "gpu_clock_mhz")
    assert failed_of(record) == set()
    assert temperature_c[55.0] > temperature_c[20.0] + 20
    assert clock_mhz[55.0] > 0.95 * clock_mhz[15.0], "warm, and not too hot so far"
    assert clock_mhz[130.0] < 0.8 * clock_mhz[15.0]
    sound_ms = pace_ms(record, 0.0, 18.0)
    assert pace_ms(record, 30.0, 50.0) == pytest.approx(sound_ms, rel=0.02)
    assert pace_ms(record, 100.0, 138.0) > 1.3 * sound_ms
    assert pace_ms(record, 180.0, 200.0) == pytest.approx(sound_ms, rel=0.02), "it has cooled down"


def test_a_node_with_little_to_do_and_the_same_fault_shows_nothing() -> None:
    record = run(0.1, cooling_factor=0.3)
    assert pace_ms(record, 100.0, 200.0) == pytest.approx(pace_ms(record, 0.0, 20.0), rel=0.02)


def test_warmth_that_comes_to_nothing_is_seen_and_slows_nothing_down() -> None:
    signs: dict[str, Any] = {"at_s": 120, "lead_s": 100, "cooling_factor": 0.5}
    look_alike, without = run(2.0, comes_to_nothing=True, **signs), run(2.0, at_s=199)
    at_115_c = [read(record, "gpu_temperature_c")[115.0] for record in (look_alike, without)]
    assert at_115_c[0] > at_115_c[1] + 3
    assert pace_ms(look_alike, 20.0, 200.0) == pytest.approx(pace_ms(look_alike, 0.0, 18.0), rel=0.02)
    assert look_alike.table("faults").num_rows == 0
