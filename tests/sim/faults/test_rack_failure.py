"""F06, correlated: a rack loses its power."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.scenario.schema import Scenario

RACKS = {"nodes": 6, "models": {"llama3.1:8b": {"replicas": 6}}, "network": {"racks": 3}, "slots_per_model": 2}


def powerless(**changes: object) -> Scenario:
    fault = {"kind": "rack_failure", "at_s": 10, "target": {"rack": "r2"}, "duration_s": 20}
    return scenario(
        **{"cluster": RACKS, "policy": {"preset": "none"}, "workload__deadline_s": 8, "faults": [fault]} | changes
    )


def test_all_nodes_of_the_rack_fall_silent_at_once_and_come_back_cold() -> None:
    world, record = simulate(powerless())
    faults = record.table("faults").to_pylist()
    assert [(row["node"], row["injected_s"], row["struck"]) for row in faults] == [
        ("node-1", 10.0, "r2"),
        ("node-4", 10.0, "r2"),
    ]
    lost = [row for row in record.table("requests").to_pylist() if row["outcome"] != "succeeded"]
    assert {row["node"] for row in lost} == {"node-1", "node-4"}
    assert {row["error"] for row in lost if row["end_s"] < 30} == {"deadline"}, "no connection was closed"
    assert all(world.nodes[name].started_s == 30.0 for name in ("node-1", "node-4"))
    late = [row for row in record.table("requests").to_pylist() if row["node"] == "node-1" and row["arrival_s"] > 30]
    assert late[0]["load_duration_s"] > 1.0
    assert late[0]["outcome"] == "succeeded"


def test_without_a_name_the_rack_is_drawn_and_another_seed_draws_another() -> None:
    it = powerless(faults=[{"kind": "rack_failure", "at_s": 10}])
    struck = {simulate(it, seed)[1].table("faults").to_pylist()[0]["struck"] for seed in range(1, 8)}
    assert struck == {"r1", "r2", "r3"}


def test_no_agent_restarts_a_machine_without_power() -> None:
    _, record = simulate(powerless(policy={"preset": "default"}, workload__duration_s=80, workload__deadline_s=30))
    orders = [row for row in record.table("actions").to_pylist() if row["kind"] == "restart" and row["time_s"] < 30]
    assert {row["status"] for row in orders} <= {"failed"}
    assert {row["outcome"] for row in record.table("requests").to_pylist()} == {"succeeded"}


def test_it_strikes_a_rack_or_a_zone_and_nothing_else() -> None:
    with pytest.raises(ValidationError, match="rack_failure strikes a rack or a zone"):
        powerless(faults=[{"kind": "rack_failure", "at_s": 10, "target": "node-1"}])
    with pytest.raises(ValidationError, match=r"the cluster has no racks; give cluster\.network\.racks"):
        powerless(cluster={**RACKS, "network": {}}, faults=[{"kind": "rack_failure", "at_s": 10}])
