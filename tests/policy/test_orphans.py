"""A runner that outlived its server, in the twin: one crash, one incident, and healing is judged when it is gone."""

from __future__ import annotations

from typing import Any

from tests.scenario.documents import scenario
from twin.experiment.twin_world import TwinWorld
from twin.policy.activity import ORPHANED_S, Activity
from twin.policy.vocabulary import TelemetrySample


def rows(record: Any, table: str) -> list[dict[str, Any]]:
    return [row for row in record.table(table).to_pylist() if row["node"] == "node-0"]


def test_a_crash_and_its_orphan_are_one_incident_that_is_closed_once_both_are_mended() -> None:
    document = scenario(
        cluster__nodes=4,
        cluster__hardware="rtx-4090",
        cluster__models={"llama3.1:8b": {"replicas": 4}},
        workload__arrivals={"kind": "poisson", "rate_rps": 1.0},
        workload__duration_s=600,
        policy={},
        faults=[{"kind": "orphan_runner", "at_s": 60, "target": "node-0", "down_s": 20, "duration_s": 3000}],
    )
    record = TwinWorld().run(document, 1, None, lambda line: None)
    (incident,) = rows(record, "incidents")
    assert incident["diagnosis"] == "server_down"
    assert incident["state"] == "closed"
    assert "then a process of Ollama that no model belongs to" in incident["evidence"]
    (kill,) = [row for row in rows(record, "actions") if row["kind"] == "kill_runner"]
    assert kill["status"] == "done"
    assert incident["closed_s"] > kill["result_s"]
    (fault,) = rows(record, "faults")
    assert fault["ended_by"] == "action"


def sample(orphans: float, *, up: bool = True) -> TelemetrySample:
    values = {"vram_total_gib": 24.0, "vram_used_gib": 6.0 + 10.0 * orphans, "ollama_processes": 2.0 * up + orphans}
    if up:
        values |= {"ollama_resident_models": 1.0, "ollama_vram_gib": 6.0}
    return TelemetrySample("node-0", values)


def watched(*seen: tuple[float, TelemetrySample]) -> str:
    from tests.policy.bench import cluster
    from twin.policy.parameters import preset
    from twin.policy.views import ClusterView

    activity = Activity()
    for now, one in seen:
        activity.sampled(now, one)
    return activity.orphan(seen[-1][0], ClusterView(cluster(1, 1, 1), preset("default")).nodes["node-0"])


def test_a_load_is_no_orphan_and_an_orphan_is_still_one_after_a_restart() -> None:
    assert watched((0.0, sample(1)), (20.0, sample(1))) == "", "a load looks like that"
    assert watched((0.0, sample(1)), (20.0, sample(0)), (80.0, sample(1))) == "", "it was gone meanwhile"
    assert watched((0.0, sample(1)), (ORPHANED_S + 30.0, sample(1))) == "", "nobody looked in between"
    down = ((20.0, sample(1, up=False)), (40.0, sample(1, up=False)))
    assert "for 60 s" in watched((0.0, sample(1)), *down, (60.0, sample(1)))
    assert watched((0.0, sample(0)), (30.0, sample(0)), (60.0, sample(0))) == ""
