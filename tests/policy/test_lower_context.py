"""A model that fails for want of GPU memory is loaded again with less, and asked for no more than it has."""

from __future__ import annotations

import math

import pytest

from tests.policy.bench import cluster
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.remedies.base import Case
from twin.policy.remedies.lower_context import LowerContext, lowered
from twin.policy.vocabulary import ClusterSpec, ModelSpec, RequestSpec


def policy(context_tokens: int = 8192, **overrides: object) -> ClusterPolicy:
    spec = cluster(2, 4, 2)
    models = (ModelSpec("m", 5.0, 2, 4, context_tokens),)
    named = {f"healer.{name}": value for name, value in overrides.items()}
    return ClusterPolicy(ClusterSpec(spec.nodes, models, spec.placement), preset("default", named))


def case(it: ClusterPolicy, free_gib: float) -> Case:
    return Case(it.view, it.view.nodes["node-0"], "runner_failing", 0.95, 100.0, 1.0, 5.0, 4.0, {}, free_gib)


@pytest.mark.parametrize(("free_gib", "model"), [(0.2, "m"), (6.0, None), (math.nan, None)])
def test_it_is_possible_where_the_machine_says_that_memory_is_short(free_gib: float, model: str | None) -> None:
    assert LowerContext().model(case(policy(), free_gib)) == model


def test_a_model_that_is_not_loaded_counts_with_what_its_load_would_take() -> None:
    it = policy()
    it.view.nodes["node-0"].replicas["m"].resident = False
    assert LowerContext().model(case(it, 5.1)) == "m"
    assert LowerContext().model(case(it, 9.0)) is None


def test_it_stops_at_the_operators_least_and_zero_forbids_it() -> None:
    assert LowerContext().model(case(policy(context_min_tokens=8192), 0.2)) is None
    assert LowerContext().model(case(policy(context_tokens=2048), 0.2)) is None
    assert LowerContext().model(case(policy(context_tokens=0), 0.2)) is None
    assert not LowerContext().allowed(policy(context_min_tokens=0).view.parameters.healer)
    assert lowered(8192) == 4096
    assert lowered(3000) == 2048


def request(number: int, prompt_tokens: int, context_tokens: int = 0) -> RequestSpec:
    return RequestSpec(number, "m", prompt_tokens, True, 0.0, 60.0, context_tokens)


def test_what_fits_is_asked_with_its_context_and_what_does_not_goes_elsewhere() -> None:
    it = policy()
    replica = it.view.nodes["node-0"].replicas["m"]
    replica.load_with(2048, it.view.parameters)
    routes = [it.route(0.0, request(number, 100), 0) for number in range(2)]
    assert {(route.node, route.context_tokens) for route in routes} == {("node-0", 2048), ("node-1", 0)}
    long = [it.route(0.0, request(10 + number, 2000), 0) for number in range(2)]
    asked = it.route(0.0, request(20, 10, context_tokens=8192), 0)
    assert {route.node for route in [*long, asked]} == {"node-1"}


def test_where_nobody_else_can_take_it_the_model_is_loaded_anew_before_a_prompt_is_cut() -> None:
    it = policy()
    for node in it.view.nodes.values():
        node.replicas["m"].load_with(2048, it.view.parameters)
    assert it.route(0.0, request(1, 2000), 0).kind == "wait"
    ((_, route),) = it.released(1.0)
    assert (route.context_tokens, route.loads) == (0, True)
    assert it.view.nodes[route.node].replicas["m"].context_tokens == 0


def test_a_restart_gives_it_its_own_context_again() -> None:
    it = policy()
    node = it.view.nodes["node-0"]
    node.replicas["m"].load_with(2048, it.view.parameters)
    it.detection.restarted(1.0, node)
    assert node.replicas["m"].hot_route.context_tokens == 0
