"""What can be seen before a fault: gradual, sudden and look-alike variants of each kind that has signs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.test_faults import client_sees, outcomes
from twin.record.reader import RunRecord
from twin.scenario.faults import FAULT_KINDS

SHOWN_IN: dict[str, str] = {
    "load_failure": "vram_used_gib",
    "load_out_of_memory": "vram_used_gib",
    "gpu_out_of_memory": "vram_used_gib",
    "runner_crash": "vram_used_gib",
    "host_out_of_memory": "memory_used_gib",
    "gpu_off_the_bus": "gpu_fault_events",
    "long_prompt_crash": "gpu_fault_events",
    "vram_leak": "vram_used_gib",
    "orphan_runner": "ollama_processes",
}
"""Kind to the column of telemetry that tells of it beforehand."""
LEAD_S = 30.0
AT_S = 45.5


def readings(record: RunRecord, column: str) -> list[float]:
    """Of the time before the fault, 5 to 45 s."""
    return [row[column] for row in record.table("telemetry").to_pylist() if row["time_s"] < AT_S]


def seen(kind: str, **changes: Any) -> RunRecord:
    return client_sees({"kind": kind, "at_s": AT_S, **changes}, workload__duration_s=80)


@pytest.mark.parametrize("kind", SHOWN_IN)
def test_a_gradual_one_shows_in_telemetry_and_a_sudden_one_does_not(kind: str) -> None:
    gradual = readings(seen(kind, lead_s=LEAD_S), SHOWN_IN[kind])
    sudden = readings(seen(kind), SHOWN_IN[kind])
    assert gradual[:3] == sudden[:3], "nothing before its signs"
    assert gradual[-1] > gradual[2]
    assert gradual[-1] > max(sudden) + 0.5 * (max(sudden) - min(sudden))
    assert max(sudden) - min(sudden) < 0.2 * (gradual[-1] - gradual[2])


@pytest.mark.parametrize("kind", ["runner_hang", "runner_crash", "gpu_off_the_bus"])
def test_tokens_come_slower_before_these(kind: str) -> None:
    def slowest_s(record: RunRecord) -> float:
        rows = record.table("requests").to_pylist()
        ended = [row for row in rows if row["outcome"] == "succeeded" and row["end_s"] < AT_S]
        return max(row["eval_duration_s"] / row["tokens_received"] for row in ended)

    assert slowest_s(seen(kind, lead_s=LEAD_S)) > 1.15 * slowest_s(seen(kind))


@pytest.mark.parametrize("kind", [*SHOWN_IN, "runner_hang"])
def test_a_look_alike_shows_the_same_and_then_nothing_happens(kind: str) -> None:
    gradual = seen(kind, lead_s=LEAD_S)
    look_alike = seen(kind, lead_s=LEAD_S, comes_to_nothing=True)
    column = SHOWN_IN.get(kind, "gpu_utilisation")
    assert readings(look_alike, column) == readings(gradual, column)
    assert look_alike.table("faults").num_rows == 0
    (signs,) = look_alike.table("signs").to_pylist()
    assert (signs["kind"], signs["began_s"], signs["due_s"]) == (kind, AT_S - LEAD_S, None)
    assert (signs["ended_s"], signs["outcome"]) == (AT_S, "nothing")
    assert {outcome for outcome, _ in outcomes(look_alike).values()} == {"succeeded"}


def test_kinds_without_signs_say_so() -> None:
    without = {kind for kind, fault in FAULT_KINDS.items() if not fault.has_signs()}
    assert without >= {
        "poison_request", "silent_end", "unload_hang", "hang_after_requests", "queue_full", "foreign_load",
        "reload_thrash", "impatient_clients", "gpu_vanished", "scheduler_deadlock",
    }  # fmt: skip
