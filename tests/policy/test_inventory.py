"""Models that appear on a node, or go from it, while the policy runs."""

from __future__ import annotations

import pytest

from tests.policy.bench import cluster
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import NodeInventory, RequestSpec


def ask(policy: ClusterPolicy, number: int, model: str) -> str:
    route = policy.route(1.0, RequestSpec(number, model, 10, True, 1.0, 61.0), 0)
    return route.node or route.kind


def test_a_model_that_is_pulled_onto_a_node_is_served_there_and_nowhere_else() -> None:
    policy = ClusterPolicy(cluster(3, 2, 3), preset("default"))
    assert ask(policy, 1, "new") == "shed"
    policy.observe(1.0, NodeInventory("node-1", {"m": 5.0, "new": 2.0}, 2))
    assert [ask(policy, number, "new") for number in (2, 3)] == ["node-1", "wait"]  # one loads it, the other waits


def test_a_model_that_is_gone_from_a_disk_is_not_loaded_there() -> None:
    policy = ClusterPolicy(cluster(2, 2, 0), preset("default"))
    policy.observe(1.0, NodeInventory("node-0", {"s": 1.0}, 2))
    assert ask(policy, 1, "m") == "node-1"
    policy.observe(1.0, NodeInventory("node-1", {}, 2))
    assert ask(policy, 2, "s") == "node-0"


@pytest.mark.parametrize("name", ["none", "reactive"])
def test_a_plain_proxy_learns_new_models_too(name: str) -> None:
    policy = ClusterPolicy(cluster(2, 2, 2), preset(name))
    policy.observe(1.0, NodeInventory("node-1", {"new": 2.0}, 2))
    assert ask(policy, 1, "new").startswith("node-")
