"""Models of which a node has one loaded at a time: loading the one ends the other."""

from __future__ import annotations

import pytest

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import (
    Action,
    AttemptEnded,
    ClusterSpec,
    ModelSpec,
    NodeInventory,
    NodeSpec,
    Probe,
    ProbeResult,
    RequestSpec,
)

ALONE: tuple[str, ...] = ()
TOGETHER = ("m wide",)


def policy(loaded: tuple[str, ...], shares: tuple[str, ...], wide_gib: float = 2.0) -> ClusterPolicy:
    """Two nodes of 12 GiB, node-0 and others with m loaded; m is to be on both, and wide is of the same weights."""
    names = ("node-0", "node-1")
    models = (ModelSpec("m", 5.0, 2, 2), ModelSpec("wide", wide_gib, 0, 2))
    spec = ClusterSpec(tuple(NodeSpec(name, 12.0) for name in names), models, {name: ("m",) for name in loaded})
    it = ClusterPolicy(spec, preset("default"))
    for name in names:
        it.observe(0.0, NodeInventory(name, {"m": 5.0, "wide": wide_gib}, 2, shares))
    return it


def ask(it: ClusterPolicy, number: int, model: str) -> str:
    route = it.route(1.0, RequestSpec(number, model, 10, True, 1.0, 61.0), 0)
    return f"{route.node} loads" if route.loads else route.node or route.kind


def served(it: ClusterPolicy, number: int, model: str) -> None:
    it.observe(2.0, AttemptEnded(number, 0, "node-0", model, "succeeded", "", 1.0, 1.5, 3))


@pytest.mark.parametrize(("shares", "then"), [(ALONE, ["node-1", "node-0"]), (TOGETHER, ["node-1", "node-1", "wait"])])
def test_what_is_loaded_ends_what_had_its_place(shares: tuple[str, ...], then: list[str]) -> None:
    it = policy(("node-0", "node-1"), shares)
    assert ask(it, 1, "wide") == "node-0 loads"
    served(it, 1, "wide")
    assert sorted(ask(it, number, "m") for number in range(2, 2 + len(then))) == sorted(then)


def test_it_is_loaded_where_it_ends_nothing_if_it_can() -> None:
    assert ask(policy(("node-0",), ALONE), 1, "wide") == "node-0 loads"
    assert ask(policy(("node-0",), TOGETHER), 1, "wide") == "node-1 loads"


def test_what_it_ends_takes_no_room_from_it() -> None:
    assert ask(policy(("node-0", "node-1"), ALONE, wide_gib=9.0), 1, "wide") == "wait"
    assert ask(policy(("node-0", "node-1"), TOGETHER, wide_gib=9.0), 1, "wide") == "node-0 loads"


@pytest.mark.parametrize(("shares", "loads"), [(ALONE, ["node-0"]), (TOGETHER, [])])
def test_a_replica_that_is_wanted_is_not_loaded_over_another(shares: tuple[str, ...], loads: list[str]) -> None:
    it = policy(("node-0", "node-1"), shares)
    ordered: list[str] = []
    for second in range(20):
        for command in it.decide(float(second)):
            if isinstance(command, Probe):
                models = ("wide",) if command.node == "node-0" else ("m",)
                said = (command.probe_id, command.node, command.kind, command.model, True, 0.01, "", models)
                it.observe(float(second), ProbeResult(*said))  # type: ignore[arg-type]
            elif isinstance(command, Action) and command.kind == "load":
                ordered.append(command.node)
    assert ordered == loads
