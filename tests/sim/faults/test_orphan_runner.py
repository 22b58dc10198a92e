"""F19: a runner outlives its server."""

from __future__ import annotations

from tests.scenario.documents import scenario
from tests.sim.faults.test_vram_leak import SHORT, pace_ms
from tests.sim.test_faults import client_sees, outcomes
from tests.sim.worlds import restart_at, simulate
from twin.record.reader import RunRecord


def processes(record: RunRecord) -> dict[float, float]:
    return {row["time_s"]: row["ollama_processes"] for row in record.table("telemetry").to_pylist()}


def test_the_new_server_finds_too_little_room_until_somebody_kills_the_orphan() -> None:
    record = client_sees({"kind": "orphan_runner", "duration_s": 20}, **SHORT)
    assert outcomes(record)[22][1].startswith("refused")
    assert pace_ms(record, 24.0, 38.0) > 20.0
    assert pace_ms(record, 48.0, 60.0) < 11.0
    count = processes(record)
    assert (count[15.0], count[35.0], count[55.0]) == (2.0, 3.0, 2.0)


def test_a_restart_of_the_service_does_not_reach_it() -> None:
    cluster = {"nodes": 1, "models": {"llama3.1:8b": {"replicas": 1}}}
    document = scenario(faults=[{"kind": "orphan_runner", "at_s": 10, "target": "node-0"}], cluster=cluster)
    _, record = simulate(document, prepare=restart_at(20.0, "node-0"))
    (fault,) = record.table("faults").to_pylist()
    assert fault["ended_by"] == "teardown"


def test_an_orphan_that_is_seen_beforehand_hurts_nobody() -> None:
    record = client_sees({"kind": "orphan_runner", "at_s": 50, "lead_s": 30, "comes_to_nothing": True}, **SHORT)
    assert processes(record)[40.0] == 3.0
    assert pace_ms(record, 0.0, 60.0) < 11.0
