"""Several gateways: each with its policy, its view and its budget; together they share the nodes and a lease."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.experiment.replay import replay
from twin.experiment.run import run_scenario
from twin.experiment.twin_world import TwinWorld
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.vocabulary import Action
from twin.record.reader import RunRecord, RunUnreadable, record_digest
from twin.scenario.faults.base import LinkChange
from twin.scenario.schema import Scenario
from twin.scenario.topology import GatewayPlace, Network, Topology
from twin.sim.coordination import Coordination
from twin.sim.network import SimulatedNetwork

ZONES = {
    "nodes": 6,
    "models": {"llama3.1:8b": {"replicas": 6}},
    "slots_per_model": 2,
    "network": {"zones": [{"name": "east", "nodes": 2}, {"name": "west", "nodes": 4}]},
    "gateways": [{"zone": "east"}, {"zone": "west"}],
}


def parted(**changes: Any) -> Scenario:
    """The east is cut off from 10 s to 40 s."""
    fault = {"kind": "partition", "at_s": 10, "target": {"zone": "east"}, "duration_s": 30}
    return scenario(**{"cluster": ZONES, "workload__duration_s": 60, "faults": [fault]} | changes)


def run(it: Scenario, seed: int = 1) -> RunRecord:
    return TwinWorld().run(it, seed, None, lambda line: None)


def rows(record: RunRecord, table: str, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in record.table(table).to_pylist() if all(row[key] == value for key, value in wanted.items())]


def test_requests_go_to_the_gateways_in_turn_and_the_first_one_is_drawn() -> None:
    it = scenario(cluster__gateways=3)
    firsts = set()
    for seed in range(8):
        order = [row["gateway"] for row in sorted(rows(run(it, seed), "requests"), key=lambda row: row["arrival_s"])]
        firsts.add(order[0])
        assert all(order[place] == order[place + 3] for place in range(len(order) - 3))
        assert len(set(order)) == 3
    assert firsts == {"gateway-0", "gateway-1", "gateway-2"}


def test_a_second_gateway_shifts_no_draw_of_the_load() -> None:
    def arrived(gateways: int) -> list[Any]:
        keys = ("request_id", "arrival_s", "model", "prompt_tokens", "output_tokens", "stream")
        return sorted(
            tuple(row[key] for key in keys) for row in rows(run(scenario(cluster__gateways=gateways)), "requests")
        )

    assert arrived(1) == arrived(2)


def test_together_they_exceed_a_nodes_slots_and_it_shows_as_a_hidden_wait() -> None:
    def hidden_s(gateways: int) -> float:
        it = scenario(
            cluster={
                "nodes": 1,
                "models": {"llama3.1:8b": {"replicas": 1}},
                "slots_per_model": 1,
                "gateways": gateways,
            },
            workload__arrivals={"kind": "poisson", "rate_rps": 0.8},
        )
        parts = ("load_duration_s", "prompt_eval_duration_s", "eval_duration_s")
        served = rows(run(it), "requests", outcome="succeeded")
        return max(row["total_duration_s"] - sum(row[part] for part in parts) for row in served)

    assert hidden_s(1) < 1e-6
    assert hidden_s(2) > 0.1


def test_through_a_partition_each_sees_other_nodes_and_loses_nothing() -> None:
    record = run(parted())
    assert {row["outcome"] for row in rows(record, "requests")} == {"succeeded"}
    seen = {(row["gateway"], row["node"]) for row in rows(record, "incidents", diagnosis="unreachable")}
    east, west = ["node-0", "node-1"], ["node-2", "node-3", "node-4", "node-5"]
    assert seen == {("gateway-0", node) for node in west} | {("gateway-1", node) for node in east}
    views = {row["health"] for row in rows(record, "telemetry", node="node-0") if 25 < row["time_s"] < 38}
    assert views == {"serving/down"}, "gateway-0's view, then gateway-1's"
    for gateway, zone in (("gateway-0", east), ("gateway-1", west)):
        cut_off = [row for row in rows(record, "requests", gateway=gateway) if 20 < row["arrival_s"] < 38]
        assert {row["node"] for row in cut_off} <= set(zone)


@pytest.mark.parametrize("preset", ["none", "reactive", "default"])
def test_each_gateways_calls_replay_through_its_own_policy(preset: str) -> None:
    it = parted(policy={"preset": preset})
    record = run(it)
    assert {row["gateway"] for row in rows(record, "observations")} == {"gateway-0", "gateway-1"}
    assert [row["sequence"] for row in rows(record, "observations")] == list(
        range(record.manifest["rows"]["observations"])
    )
    policies = [ClusterPolicy(it.cluster.spec(), it.policy.parameters()) for _ in range(2)]
    again = replay(record, *policies)
    assert (again.differing, again.differences) == (0, [])
    assert again.compared > 100


def test_a_run_of_two_gateways_is_not_replayed_through_one_policy() -> None:
    it = parted()
    with pytest.raises(RunUnreadable, match="has calls of gateway-1, which its scenario lacks"):
        replay(run(it), ClusterPolicy(it.cluster.spec(), it.policy.parameters()))


def test_the_same_seed_gives_the_same_record() -> None:
    assert record_digest(run(parted(), 3)) == record_digest(run(parted(), 3)) != record_digest(run(parted(), 4))


def test_the_checkers_find_nothing_with_several_gateways() -> None:
    faults = [
        {"kind": "server_crash", "at_s": 8, "target": "random", "duration_s": 15},
        {"kind": "partition", "at_s": 15, "target": {"gateway": "gateway-0"}, "duration_s": 20},
        {"kind": "runner_hang", "at_s": 25, "target": "random", "duration_s": 30},
    ]
    for preset in ("none", "reactive", "default"):
        world, _ = simulate(parted(policy={"preset": preset}, faults=faults), 4)
        assert {it.name: it.first for it in world.checkers if it.violations} == {}


def crashed(coordination: str) -> RunRecord:
    cluster = {"nodes": 3, "models": {"llama3.1:8b": {"replicas": 3}}, "gateways": 2, "coordination": coordination}
    it = scenario(cluster=cluster, faults=[{"kind": "server_crash", "at_s": 10, "target": "node-0"}])
    return run(it)


def test_with_a_lease_one_gateway_restarts_a_node_and_the_other_is_told_who_holds_it() -> None:
    record = crashed("lease")
    orders = rows(record, "actions", kind="restart")
    assert {(row["gateway"], row["status"]) for row in orders} == {("gateway-0", "done"), ("gateway-1", "no_lease")}
    assert {row["detail"] for row in orders if row["gateway"] == "gateway-1"} == {"gateway-0 holds the lease"}
    assert {row["state"] for row in rows(record, "incidents")} == {"closed"}, "both see that it is well again"


def test_without_a_lease_both_restart_the_same_node() -> None:
    orders = rows(crashed("none"), "actions", kind="restart", node="node-0")
    assert {(row["gateway"], row["status"]) for row in orders} == {("gateway-0", "done"), ("gateway-1", "done")}


def test_the_figures_count_over_all_gateways(tmp_path: Path) -> None:
    result = run_scenario(TwinWorld(), parted(), tmp_path, lambda line: None)
    record = result.replications[0].record
    assert result.summary["figures"]["incidents"] == 6
    assert result.summary["invariants"]["run_equals_its_replay"] == 0
    passed = record.manifest["counters"]["probes_passed_liveness"]
    alone = run(scenario(cluster={**ZONES, "gateways": 1}, workload__duration_s=60)).manifest["counters"]
    assert passed > 1.2 * alone["probes_passed_liveness"]


class LeaseBench:
    """Two gateways at the core, and the lease between them."""

    def __init__(self) -> None:
        places = [GatewayPlace(), GatewayPlace()]
        self.network = SimulatedNetwork(Topology(Network(), ["node-0"], places), seed=1)
        self.lease = Coordination(self.network, ["gateway-0", "gateway-1"], "lease", 15.0)

    def cut(self, now: float, gateway: str) -> None:
        self._change(now, partial(self.network.change, gateway, gateway, LinkChange(blocked="from_node")))

    def mend(self, now: float, gateway: str) -> None:
        self._change(now, partial(self.network.restore, gateway, gateway))

    def _change(self, now: float, change: Any) -> None:
        self.lease.network_changes(now)
        change()
        self.lease.network_changed(now)

    def may(self, now: float, gateway: str, kind: Any = "restart") -> bool:
        return not self.lease.holder_instead_of(gateway, Action(1, kind, "node-0", "", "", 0.0, 0.0), now)


def test_the_first_gateway_holds_the_lease_and_only_disruptive_actions_need_it() -> None:
    it = LeaseBench()
    assert (it.may(1.0, "gateway-0"), it.may(1.0, "gateway-1")) == (True, False)
    assert all(it.may(1.0, "gateway-1", kind) for kind in ("drain", "return", "abort", "load"))
    assert not it.may(1.0, "gateway-1", "unload")


def test_the_lease_passes_on_when_its_holder_was_cut_off_long_enough_and_does_not_come_back() -> None:
    it = LeaseBench()
    it.cut(10.0, "gateway-0")
    assert (it.may(24.9, "gateway-0"), it.may(24.9, "gateway-1")) == (True, False)
    assert (it.may(25.0, "gateway-0"), it.may(25.0, "gateway-1")) == (False, True)
    it.mend(30.0, "gateway-0")
    assert it.lease.holder(60.0) == "gateway-1"
    assert it.lease.handed_over == [(25.0, "gateway-1")]


def test_a_short_cut_leaves_the_lease_where_it_is() -> None:
    it = LeaseBench()
    it.cut(10.0, "gateway-0")
    it.mend(20.0, "gateway-0")
    assert it.lease.holder(100.0) == "gateway-0"


def test_nobody_holds_it_while_nobody_reaches_the_core() -> None:
    it = LeaseBench()
    it.cut(10.0, "gateway-0")
    it.cut(12.0, "gateway-1")
    assert it.lease.holder(26.0) == ""
    assert (it.may(26.0, "gateway-0"), it.may(26.0, "gateway-1")) == (False, False)
    it.mend(40.0, "gateway-1")
    assert it.lease.holder(45.0) == "gateway-1"
    assert it.lease.handed_over == [(40.0, "gateway-1")]


def test_one_gateway_alone_needs_no_lease() -> None:
    network = SimulatedNetwork(Topology(Network(), ["node-0"], [GatewayPlace()]), seed=1)
    lease = Coordination(network, ["gateway-0"], "lease", 15.0)
    network.change("a", "gateway-0", LinkChange(blocked="both"))
    lease.network_changed(0.0)
    assert not lease.holder_instead_of("gateway-0", Action(1, "restart", "node-0", "", "", 0.0, 0.0), 100.0)
