"""F30: a cut in one direction, of a rack, and for one gateway only."""

from __future__ import annotations

from functools import partial

import pytest

from tests.scenario.documents import scenario
from tests.sim.test_faults import client_sees, outcomes, rows, took_s
from tests.sim.worlds import simulate
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.vocabulary import Probe
from twin.record.writer import Recorder
from twin.sim.simulation import Simulation


def test_requests_that_are_cut_off_never_arrive_and_answers_under_way_come() -> None:
    record = client_sees({"kind": "partition", "direction": "to_node", "duration_s": 12})
    assert [took_s(record)[second] for second in (19, 20)] == pytest.approx([2.001, 2.001]), "they were there already"
    assert {outcomes(record)[second] for second in range(21, 33)} == {("deadline", "deadline")}
    assert took_s(record)[33] == pytest.approx(2.001)
    (fault,) = record.table("faults").to_pylist()
    assert fault["detail"] == "cut_network to_node, restore_network"


def test_answers_that_are_cut_off_are_real_work_and_come_out_at_the_end_with_the_nodes_own_timings() -> None:
    record = client_sees({"kind": "partition", "direction": "from_node", "duration_s": 12})
    for second in range(19, 31):
        assert took_s(record)[second] == pytest.approx(32.501 - second, abs=0.002)
    requests = rows(record)
    assert requests[19]["arrival_s"] == 20.0
    assert {round(row["eval_duration_s"], 3) for row in requests[17:35]} == {1.99}, "the node was as fast as ever"
    assert requests[20]["first_token_s"] == pytest.approx(32.5), "made at 21.01, seen when the path was mended"
    heard = {row["time_s"]: row["gpu_utilisation"] for row in record.table("telemetry").to_pylist()}
    assert heard[20.0] > 0.9
    assert heard[25.0] is heard[30.0] is None, "nor does its agent get through"


def test_a_generation_probe_behind_a_one_way_cut_is_work_and_its_answer_never_comes() -> None:
    it = scenario(
        workload__arrivals={"kind": "constant", "rate_rps": 0.001},
        policy={"preset": "none"},
        faults=[{"kind": "partition", "direction": "from_node", "at_s": 5, "target": "node-0"}],
    )
    parameters = it.policy.parameters()
    recorder = Recorder(None)
    world = Simulation(it, 1, [ClusterPolicy(it.cluster.spec(), parameters)], recorder, parameters=parameters)
    for number, kind in enumerate(("liveness", "generation")):
        probe = Probe(number, "node-0", kind, "llama3.1:8b", 2.0)  # type: ignore[arg-type]
        world.engine.call_at(10.0 + number, partial(world.gateways[0].probing.perform, probe))
    world.run()
    assert world.nodes["node-0"].busy_s() > 0.001
    assert world.nodes["node-1"].busy_s() == 0.0
    ended = {"scenario": it.model_dump(mode="json", by_alias=True), "simulated_s": 40.0, "wall_s": 0.0}
    probes = recorder.close(ended).table("probes").to_pylist()
    assert [(row["time_s"], row["kind"], row["error"]) for row in probes] == [
        (12.0, "liveness", "first_token_timeout"),
        (13.0, "generation", "first_token_timeout"),
    ]


def test_an_order_through_a_one_way_cut_is_carried_out_and_its_result_lost() -> None:
    it = scenario(
        cluster__nodes=3,
        workload__duration_s=110,
        faults=[{"kind": "partition", "direction": "from_node", "at_s": 5, "target": "node-0"}],
    )
    _, record = simulate(it)
    orders = [row for row in record.table("actions").to_pylist() if row["kind"] == "restart"]
    assert [(row["node"], row["status"]) for row in orders][:1] == [("node-0", "timed_out")]
    unreachable = scenario(
        cluster__nodes=3, workload__duration_s=110, faults=[it.faults[0].model_dump() | {"direction": "to_node"}]
    )
    _, record = simulate(unreachable)
    orders = [row for row in record.table("actions").to_pylist() if row["kind"] == "restart"]
    assert orders[0]["status"] == "failed"
    assert orders[0]["detail"] == "the node's agent cannot be reached"


def test_a_cut_rack_is_a_row_of_each_of_its_nodes_and_leaves_the_others_alone() -> None:
    it = scenario(
        cluster={"nodes": 4, "models": {"llama3.1:8b": {"replicas": 4}}, "network": {"racks": 2}},
        policy={"preset": "none"},
        workload__deadline_s=5,
        faults=[{"kind": "partition", "at_s": 10, "target": {"rack": "r2"}, "duration_s": 20}],
    )
    _, record = simulate(it)
    assert [(row["node"], row["struck"]) for row in record.table("faults").to_pylist()] == [
        ("node-1", "r2"),
        ("node-3", "r2"),
    ]
    lost = {row["node"] for row in record.table("requests").to_pylist() if row["outcome"] != "succeeded"}
    assert lost == {"node-1", "node-3"}


@pytest.mark.parametrize("fault", [{"target": {"gateway": "gateway-1"}}, {"target": "all", "seen_from": "gateway-1"}])
def test_a_gateway_that_is_cut_off_loses_all_and_the_other_one_nothing(fault: dict[str, object]) -> None:
    it = scenario(
        cluster__gateways=2,
        policy={"preset": "none"},
        workload__deadline_s=5,
        faults=[{"kind": "partition", "at_s": 0, "duration_s": 60, **fault}],
    )
    _, record = simulate(it)
    ends = {(row["gateway"], row["outcome"]) for row in record.table("requests").to_pylist()}
    assert ends == {("gateway-0", "succeeded"), ("gateway-1", "deadline")}
