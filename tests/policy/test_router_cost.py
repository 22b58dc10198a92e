"""Picking a node does the same work in a fleet of any size: counted, not timed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import AttemptEnded, ClusterSpec, ModelSpec, NodeSpec, RequestSpec, Route

SLOTS = 4


def fleet(nodes: int, preset_name: str = "default") -> ClusterPolicy:
    names = [f"node-{index}" for index in range(nodes)]
    models = (ModelSpec("m", 5.0, nodes, SLOTS),)
    return ClusterPolicy(
        ClusterSpec(tuple(NodeSpec(name, 24.0) for name in names), models, {name: ("m",) for name in names}),
        preset(preset_name),
    )


def lines_run(function: Callable[[], object]) -> int:
    """Lines of Python executed by a call, in whatever function: loops count with every turn."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # a collection in between would run what others have asked to be called then
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def work(nodes: int, load: float, preset_name: str) -> tuple[int, int]:
    """The most lines that one of 20 routes, and one of 20 ends, takes at a load (share of all slots taken)."""
    policy = fleet(nodes, preset_name)
    running: list[tuple[int, str]] = []

    def arrive(number: int) -> Route:
        route = policy.route(0.0, RequestSpec(number, "m", 100, True, 0.0, 60.0), 0)
        if route.kind == "dispatch":
            running.append((number, route.node))
        return route

    def end() -> None:
        number, node = running.pop(0)
        policy.observe(1.0, AttemptEnded(number, 0, node, "m", "succeeded", "", 0.0, 0.1, 20, 0.0, 0.1, 0.5, 0.6))
        policy.released(1.0)

    for number in range(int(nodes * SLOTS * load)):
        arrive(number)
    policy.decide(0.5)
    routes = max(lines_run(lambda number=number: arrive(10**6 + number)) for number in range(20))  # type: ignore[misc]
    return routes, max(lines_run(end) for _ in range(20))


@pytest.mark.parametrize("preset_name", ["default", "reactive", "none"])
@pytest.mark.parametrize("load", [0.25, 0.9, 1.0])
def test_routing_and_ending_cost_the_same_with_15_and_with_1000_nodes(preset_name: str, load: float) -> None:
    small, large = work(15, load, preset_name), work(1000, load, preset_name)
    assert large[0] <= small[0] + 5
    assert large[1] <= small[1] + 5
    assert max(large) < 500  # nowhere near a turn for each node


def test_when_the_first_nodes_do_not_have_the_model_waiting_still_costs_the_same() -> None:
    def cost(nodes: int) -> int:
        names = [f"node-{index}" for index in range(nodes)]
        spec = ClusterSpec(
            tuple(NodeSpec(name, 24.0) for name in names), (ModelSpec("m", 5.0, 1, 1),), {names[-1]: ("m",)}
        )
        policy = ClusterPolicy(spec, preset("default"))
        policy.route(0.0, RequestSpec(1, "m", 100, True, 0.0, 60.0), 0)
        policy.route(0.0, RequestSpec(2, "m", 100, True, 0.0, 60.0), 0)
        return lines_run(lambda: policy.released(0.0))

    assert cost(1000) <= cost(15) + 5
