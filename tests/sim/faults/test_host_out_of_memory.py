"""F06: main memory runs full, and the kernel kills who leaks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.test_faults import client_sees, failed_of, outcomes
from twin.record.reader import RunRecord


def memory_used(record: RunRecord) -> dict[float, float]:
    rows = record.table("telemetry").to_pylist()
    return {row["time_s"]: row["memory_used_gib"] + row["swap_used_gib"] for row in rows if row["memory_used_gib"]}


def test_a_leak_in_the_server_ends_as_a_crash_of_the_server() -> None:
    record = client_sees({"kind": "host_out_of_memory", "at_s": 30.5, "lead_s": 25, "duration_s": 10})
    seen = outcomes(record)
    assert {second for second, it in seen.items() if it[1].startswith("reset")} == {29, 30}
    assert {second for second, it in seen.items() if it[1].startswith("refused")} == set(range(31, 41))
    used = memory_used(record)
    assert used[5.0] < used[10.0] < used[15.0] < used[20.0] < used[25.0]
    assert used[30.0] > 10 * used[5.0]
    assert used[50.0] == pytest.approx(used[5.0], rel=0.2), "the leak went with the process"
    (signs,) = record.table("signs").to_pylist()
    assert (signs["began_s"], signs["due_s"], signs["ended_s"], signs["outcome"]) == (5.5, 30.5, 30.5, "failed")


def test_a_leak_in_a_runner_costs_its_requests_and_a_load() -> None:
    record = client_sees({"kind": "host_out_of_memory", "leaks": "runner"})
    assert failed_of(record) == {19, 20}
    assert {outcomes(record)[second][1].split(":")[0] for second in (19, 20)} == {"error_record"}
    (fault,) = record.table("faults").to_pylist()
    assert (fault["injected_s"], fault["ended_s"]) == (20.5, 20.5)


def test_a_restart_before_its_time_averts_it() -> None:
    faults: list[dict[str, Any]] = [
        {"kind": "host_out_of_memory", "at_s": 70.0, "lead_s": 60, "target": "node-0"},
        {"kind": "runner_hang", "at_s": 20.0, "target": "node-0"},
    ]
    record = client_sees({}, faults=faults, policy={"preset": "default"}, cluster__nodes=2, workload__duration_s=100)
    assert [(row["outcome"], row["kind"]) for row in record.table("signs").to_pylist()] == [
        ("averted", "host_out_of_memory")
    ]
    assert [row["kind"] for row in record.table("faults").to_pylist()] == ["runner_hang"]
