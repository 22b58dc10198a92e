"""Attempts whose end nobody tells: the policy strikes them off when they are long overdue."""

from __future__ import annotations

from tests.policy.bench import cluster
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import AttemptEnded, RequestSpec


def spec(number: int, arrival_s: float) -> RequestSpec:
    return RequestSpec(number, "m", 10, True, arrival_s, arrival_s + 5.0)


def test_a_place_that_nobody_gave_back_is_free_again_after_the_grace() -> None:
    policy = ClusterPolicy(cluster(1, 1, 1), preset("default", {"router.zombie_grace_s": 10.0}))
    assert policy.route(0.0, spec(1, 0.0), 0).kind == "dispatch"
    assert policy.route(14.0, spec(2, 14.0), 0).kind == "wait"
    policy.decide(14.9)
    assert list(policy.released(14.9)) == []
    policy.decide(20.0)
    (released,) = policy.released(20.0)
    assert (released[0], released[1].kind) == (2, "dispatch")
    assert policy.router.reaped == 1


def test_an_end_that_comes_after_all_is_not_counted_twice() -> None:
    policy = ClusterPolicy(cluster(1, 1, 1), preset("default", {"admission.deadline_aware": False}))
    policy.route(0.0, spec(1, 0.0), 0)
    policy.decide(30.0)
    policy.observe(31.0, AttemptEnded(1, 0, "node-0", "m", "succeeded", "", 0.0, 1.0, 5))
    node = policy.view.nodes["node-0"]
    assert (node.in_flight, node.replicas["m"].in_flight) == (0, 0)
    assert policy.route(32.0, spec(2, 32.0), 0).kind == "dispatch"
    assert policy.route(32.0, spec(3, 32.0), 0).kind == "wait"
