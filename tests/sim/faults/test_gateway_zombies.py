"""G01: the gateway's own zombies, and who strikes them off."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, rows
from twin.record.reader import RunRecord


def run(grace_s: float, share: float = 1.0) -> RunRecord:
    """Answers of 2 s on four slots; while the node is ten times as slow for 15 s, clients give up after 5 s."""
    overrides = {
        "router.zombie_grace_s": grace_s,
        "probes.enabled": False,
        "healer.enabled": False,
        "slowness.enabled": False,
    }
    zombies = {"kind": "gateway_zombies", "at_s": 10, "duration_s": 30, "share": share}
    slow = {"kind": "slow_decay", "at_s": 20, "target": "node-0", "factor": 10, "ramp_s": 0, "duration_s": 15}
    return client_sees(
        {},
        workload__deadline_s=5,
        workload__duration_s=90,
        policy={"overrides": overrides},
        faults=[zombies, slow],
    )


def late(record: RunRecord) -> set[str]:
    return {row["outcome"] for row in rows(record) if row["arrival_s"] > 60}


def test_what_is_forgotten_takes_the_places_of_others_for_ever() -> None:
    record = run(grace_s=3600)
    assert "succeeded" not in late(record), "the node has been idle for half a minute, and nothing is sent to it"
    in_flight = [row["in_flight"] for row in record.table("telemetry").to_pylist() if row["time_s"] > 60]
    assert set(in_flight) == {0}
    assert record.table("faults").to_pylist()[0]["node"] == "gateway"


def test_the_policy_strikes_off_what_should_have_ended_long_ago() -> None:
    assert late(run(grace_s=10)) == {"succeeded"}


def test_without_the_fault_nothing_is_forgotten() -> None:
    record = run(grace_s=3600, share=1e-9)
    assert late(record) == {"succeeded"}
