"""Fault generators become plain faults before a run: `expanded`. The same scenario and seed give the same faults.

Each generator has random streams of its own, named by its place in the list, and by the node where every node has a
clock: to add a generator, a node or a policy shifts nobody else's faults. Times are whole milliseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from twin.errors import OperatorError
from twin.scenario.draws import nodes_of, stream
from twin.scenario.durations import Duration
from twin.scenario.faults.base import Fault
from twin.scenario.generator_kinds import Cascade, Correlated, FaultGenerator, Renewal, Swarm, Swizzle, fault_of
from twin.scenario.schema import Scenario
from twin.scenario.swarm import policy_drawn, swarm

Drawn = TypeVar("Drawn")

DRAWN_MAX = 100_000
"""More faults than this in one run are a mistake in the scenario."""


def expanded(scenario: Scenario, seed: int) -> Scenario:
    """The scenario with the faults and the policy that its generators draw for this seed, and without generators.

    The drawn faults follow those of the scenario's own list, in order of time; a parameter that is drawn takes the place
    of one that is given. Raises `OperatorError` where what is drawn
    does not stand.
    """
    if not scenario.fault_generators:
        return scenario
    drawn = [
        fault for place, it in enumerate(scenario.fault_generators) for fault in _faults_of(scenario, seed, place, it)
    ]
    drawn.sort(key=lambda fault: fault.at_s)
    document = scenario.model_dump(mode="json", by_alias=True, exclude_unset=True)
    del document["fault_generators"]
    document["faults"] = [
        *document.get("faults", []),
        *(fault.model_dump(mode="json", exclude_unset=True, exclude_none=True) for fault in drawn),
    ]
    overrides = drawn_policy(scenario, seed)
    if overrides:
        chosen = document.get("policy", {})
        document["policy"] = {**chosen, "overrides": {**chosen.get("overrides", {}), **overrides}}
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise OperatorError(
            f"fault_generators of {scenario.name}: seed {seed} draws what cannot be: {reason}"
        ) from error


def drawn_faults(scenario: Scenario, seed: int) -> list[dict[str, Any]]:
    """What the generators draw for this seed, as plain data for the manifest."""
    whole = expanded(scenario, seed)
    return [it.model_dump(mode="json", exclude_none=True) for it in whole.faults[len(scenario.faults) :]]


def drawn_policy(scenario: Scenario, seed: int) -> dict[str, Any]:
    """The policy's parameters that the generators draw for this seed, as `policy.overrides` has them."""
    drawn: dict[str, Any] = {}
    for place, it in enumerate(scenario.fault_generators):
        if isinstance(it, Swarm):
            drawn |= policy_drawn(it, seed, f"generator:{place}")
    return drawn


def _faults_of(scenario: Scenario, seed: int, place: int, generator: FaultGenerator) -> list[Fault]:
    name = f"generator:{place}"
    found: Iterable[Fault]
    if isinstance(generator, Renewal):
        found = _renewal(scenario, generator, seed, name)
    elif isinstance(generator, Cascade):
        found = _cascade(scenario, generator, seed, name)
    elif isinstance(generator, Correlated):
        found = _correlated(scenario, generator, seed, name)
    elif isinstance(generator, Swizzle):
        found = _swizzle(scenario, generator, seed, name)
    else:
        found = swarm(scenario, generator, seed, name)
    return [fault for fault in found if fault.at_s < scenario.end_of_load_s]


def _bounded(name: str, found: Iterable[Drawn]) -> Iterator[Drawn]:
    """The same, as long as they are not too many."""
    for count, it in enumerate(found):
        if count >= DRAWN_MAX:
            number = name.removeprefix("generator:")
            raise OperatorError(
                f"fault_generators[{number}] draws more than {DRAWN_MAX} faults; make failures rarer or the run shorter"
            )
        yield it


def _one(duration: Duration, random: np.random.Generator) -> float:
    return float(duration.seconds(random, 1)[0])


def _events(gap: Duration, random: np.random.Generator, from_s: float, until_s: float) -> Iterator[float]:
    """Times of a renewal process, at least a millisecond apart."""
    now = from_s
    while (now := round(now + max(0.001, _one(gap, random)), 3)) < until_s:
        yield now


def _repair_s(duration: Duration | None, random: np.random.Generator) -> float | None:
    """A repair takes at least a millisecond."""
    return None if duration is None else max(0.001, round(_one(duration, random), 3))


# -- renewal ------------------------------------------------------------------------------------------------------


def _renewal(scenario: Scenario, it: Renewal, seed: int, name: str) -> Iterator[Fault]:
    nodes = nodes_of(scenario, it.target, stream(seed, f"{name}:target"))
    from_s = it.from_s if it.from_s is not None else scenario.workload.warmup_s
    if it.clock == "node":
        clocks = (_failures_of_node(scenario, it, seed, f"{name}:{node}", node, from_s) for node in nodes)
        failures = sorted(_bounded(name, itertools.chain.from_iterable(clocks)))
    else:
        failures = list(_failures_of_cluster(scenario, it, seed, name, nodes, from_s))
    down: list[float] = []  # when each of those that are down is repaired
    for at_s, node, lasts_s in failures:
        down = [until_s for until_s in down if until_s > at_s]
        if it.at_most_down is not None and len(down) >= it.at_most_down:
            continue
        down.append(np.inf if lasts_s is None else at_s + lasts_s)
        yield fault_of(it.fault, at_s, node, lasts_s)


def _failures_of_node(
    scenario: Scenario, it: Renewal, seed: int, name: str, node: str, now: float
) -> Iterator[tuple[float, str, float | None]]:
    works, fails = stream(seed, f"{name}:works"), stream(seed, f"{name}:repair")
    while True:
        now = round(now + max(0.001, _one(it.time_between_failures, works)), 3)
        if now >= scenario.end_of_load_s:
            return
        lasts_s = _repair_s(it.repair, fails)
        yield now, node, lasts_s
        if lasts_s is None:
            return
        now += lasts_s


def _failures_of_cluster(
    scenario: Scenario, it: Renewal, seed: int, name: str, nodes: list[str], from_s: float
) -> Iterator[tuple[float, str, float | None]]:
    gaps, choice, fails = (stream(seed, f"{name}:{purpose}") for purpose in ("gap", "node", "repair"))
    down_until_s = dict.fromkeys(nodes, 0.0)
    for now in _bounded(name, _events(it.time_between_failures, gaps, from_s, scenario.end_of_load_s)):
        order, lasts_s = choice.permutation(len(nodes)).tolist(), _repair_s(it.repair, fails)
        standing = [nodes[index] for index in order if down_until_s[nodes[index]] <= now]
        if standing:
            down_until_s[standing[0]] = np.inf if lasts_s is None else now + lasts_s
            yield now, standing[0], lasts_s


# -- cascade ------------------------------------------------------------------------------------------------------


def _cascade(scenario: Scenario, it: Cascade, seed: int, name: str) -> Iterator[Fault]:
    choice, delays, fails = (stream(seed, f"{name}:{purpose}") for purpose in ("node", "delay", "repair"))
    names = scenario.cluster.node_names()
    tie = {node: draw for node, draw in zip(names, choice.random(len(names)).tolist(), strict=True)}
    first = nodes_of(scenario, it.target, stream(seed, f"{name}:target"))[0]
    fallen: list[str] = []
    at_s, victim = it.at_s, first
    while True:
        fallen.append(victim)
        yield fault_of(it.fault, round(at_s, 3), victim, _repair_s(it.repair, fails))
        if len(fallen) >= min(it.victims, len(names)):
            return
        load = expected_load(scenario, fallen)
        victim = max(load, key=lambda node: (round(load[node], 9), tie[node]))
        at_s += _one(it.delay, delays)


def expected_load(scenario: Scenario, fallen: list[str]) -> dict[str, float]:
    """Share of the requests that each node still standing gets: each model's, spread over its replicas that stand.

    A model without any is loaded by those that stand: its share is spread over all of them.
    """
    spec = scenario.cluster.spec()
    shares = scenario.workload.models or {model.name: 1.0 for model in spec.models if model.replicas}
    standing = [node.name for node in spec.nodes if node.name not in fallen]
    load = dict.fromkeys(standing, 0.0)
    for model, share in (shares or dict.fromkeys(scenario.cluster.models, 1.0)).items():
        holders = [node for node in standing if model in spec.placement.get(node, ())] or standing
        for node in holders:
            load[node] += share / len(holders)
    return load


# -- correlated, swizzle ------------------------------------------------------------------------------------------


def _correlated(scenario: Scenario, it: Correlated, seed: int, name: str) -> Iterator[Fault]:
    events, choice, spread, fails = (
        stream(seed, f"{name}:{purpose}") for purpose in ("event", "target", "spread", "repair")
    )
    busy_until_s: dict[str, float] = {}
    times: Iterable[float] = [it.at_s] if it.at_s is not None else []
    if it.time_between_events is not None:
        from_s, until_s = scenario.workload.warmup_s, scenario.end_of_load_s
        times = _bounded(name, _events(it.time_between_events, events, from_s, until_s))
    for at_s in times:
        for node in nodes_of(scenario, it.target, choice):
            struck_s = round(at_s + it.spread_s * float(spread.random()), 3)
            lasts_s = _repair_s(it.repair, fails)
            if struck_s < busy_until_s.get(node, 0.0):
                continue  # an earlier event still holds it
            busy_until_s[node] = np.inf if lasts_s is None else struck_s + lasts_s
            yield fault_of(it.fault, struck_s, node, lasts_s)


def _swizzle(scenario: Scenario, it: Swizzle, seed: int, name: str) -> Iterator[Fault]:
    choice, gaps = stream(seed, f"{name}:order"), stream(seed, f"{name}:gap")
    nodes = nodes_of(scenario, it.target, stream(seed, f"{name}:target"))
    count = len(nodes)
    stops = it.at_s + np.concatenate(([0.0], np.cumsum(it.stop_gap.seconds(gaps, count)[: count - 1])))
    returns_from_s = float(stops[-1]) + _one(it.hold, gaps)
    returns = returns_from_s + np.cumsum(it.return_gap.seconds(gaps, count))
    stop_order, return_order = choice.permutation(count).tolist(), choice.permutation(count).tolist()
    returned = {nodes[index]: float(at_s) for index, at_s in zip(return_order, returns, strict=True)}
    for index, at_s in zip(stop_order, stops.tolist(), strict=True):
        node = nodes[index]
        struck_s = round(at_s, 3)
        yield fault_of(it.fault, struck_s, node, max(0.001, round(returned[node] - struck_s, 3)))
