"""Replicas: in different racks, more where demand asks for them, elsewhere where a node is in danger."""

from __future__ import annotations

from tests.policy.bench import Bench, run
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.redundancy import Factor
from twin.policy.vocabulary import Action, ActionResult, ClusterSpec, Command, ModelSpec, NodeSpec


def policy(racks: str, replicas: int, on: int, **overrides: object) -> ClusterPolicy:
    """Nodes in these racks, one letter each; a model that `on` of them have loaded, and `replicas` are to have."""
    names = [f"node-{index}" for index in range(len(racks))]
    nodes = tuple(NodeSpec(name, 12.0, rack=rack) for name, rack in zip(names, racks, strict=True))
    spec = ClusterSpec(nodes, (ModelSpec("m", 5.0, replicas, 2),), {name: ("m",) for name in names[:on]})
    return ClusterPolicy(spec, preset("default", {key.replace("__", "."): value for key, value in overrides.items()}))


def loads(commands: list[Command]) -> list[str]:
    return [it.node for it in commands if isinstance(it, Action) and it.kind == "load"]


def test_a_second_replica_goes_to_another_rack() -> None:
    assert loads(list(policy("aabb", 2, 1).decide(0.0))) == ["node-2"]
    assert loads(list(policy("aabb", 2, 1, redundancy__spread_racks=False).decide(0.0))) == ["node-1"]


def test_where_every_rack_has_one_the_rest_go_where_there_is_room() -> None:
    assert loads(list(policy("aabb", 4, 1).decide(0.0))) == ["node-2", "node-1", "node-3"]


def test_the_reason_names_the_rack() -> None:
    (order,) = (it for it in policy("ab", 2, 1).decide(0.0) if isinstance(it, Action))
    assert order.reason == "m has 1 of 2 replicas; node-1 in b has room for it"


def test_no_model_gets_fewer_than_the_default_factor_and_what_nobody_serves_gets_none() -> None:
    it = policy("abc", 1, 1, redundancy__default_factor=3)
    assert loads(list(it.decide(0.0))) == ["node-1", "node-2"]
    assert loads(list(policy("abc", 0, 0, redundancy__default_factor=3).decide(0.0))) == []


def test_a_busy_model_gets_one_more_for_a_reason_that_is_written_down_and_it_goes_when_all_is_quiet() -> None:
    seen = "\n".join(
        run(
            [
                "cluster nodes 3 slots 2 replicas 2 redundancy.scale_down_after_s=30.0",
                "requests 1-4",
                "advance 25",
                "load node-2 done",
                *(f"ended {number} succeeded" for number in range(1, 5)),
                "advance 70",
                "unload node-2 done",
                "advance 60",
            ]
        )
    )
    assert "load m on node-2, because m has 2 of 3 replicas (its 2 replicas were busier than 85% for 20 s)" in seen
    assert "unload m on node-2, because m has 3 replicas where 2 are wanted, and was idle for 3" in seen
    assert seen.count("load m on node-2") == 2  # one of them is the unload


def test_what_clients_had_loaded_is_not_let_go() -> None:
    bench = Bench()
    for command in (
        "cluster nodes 3 slots 2 replicas 2 redundancy.scale_down_after_s=30.0",
        "node-2 loads m",
        "advance 200",
    ):
        seen = bench.do(command)
    assert bench.policy.view.nodes["node-2"].replicas["m"].resident
    assert not [line for line in seen if "unload" in line]


def test_an_outage_is_no_demand() -> None:
    bench = Bench()
    for command in ("cluster nodes 3 slots 2 replicas 3", "node-0 refuses", "node-1 refuses", "node-2 refuses"):
        bench.do(command)
    bench.do("advance 5")
    bench.do("requests 1-3")
    bench.do("advance 40")
    assert bench.policy.redundancy.factors["m"].extra == 0


def test_the_factor_and_what_was_loaded_outlive_the_policy() -> None:
    first = policy("aab", 1, 1)
    first.redundancy.factors["m"] = factor = Factor()
    factor.extra, factor.reason = 1, "it was busy"
    first.redundancy.ours.add(("node-1", "m"))
    second = policy("aab", 1, 1)
    second.restore(0.0, first.snapshot())
    assert second.redundancy.wanted(second.view.models["m"]) == 2
    assert second.redundancy.ours == {("node-1", "m")}


def test_a_load_that_failed_is_tried_elsewhere() -> None:
    it = policy("abc", 2, 1)
    (order,) = (command for command in it.decide(0.0) if isinstance(command, Action))
    it.observe(1.0, ActionResult(order.action_id, order.node, "load", "failed"))
    (again,) = loads(list(it.decide(2.0)))
    assert again != order.node


def test_an_unload_that_was_refused_for_want_of_the_lease_is_ordered_again_soon() -> None:
    lines = [
        "cluster nodes 3 slots 2 replicas 2 redundancy.scale_down_after_s=30.0",
        "requests 1-4",
        "advance 25",
        "load node-2 done",
        *(f"ended {number} succeeded" for number in range(1, 5)),
        "advance 70",
    ]
    refused = "\n".join(run([*lines, "unload node-2 no_lease", "advance 100"]))
    failed = "\n".join(run([*lines, "unload node-2 failed", "advance 100"]))
    assert (refused.count("unload m on node-2, because"), failed.count("unload m on node-2, because")) == (2, 1)
