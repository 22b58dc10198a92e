"""Random draws of a scenario, the same in both worlds: one named stream for each purpose.

A stream depends on the seed and its name alone, so that changing one thing does not shift the draws of another (common
random numbers).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from twin.scenario.faults.base import Fault
from twin.scenario.schema import Scenario
from twin.scenario.targets import RANDOM

CHUNK = 4096


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of that name."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


class Arrival(NamedTuple):
    """One request of the workload."""

    arrival_s: float
    model: str
    prompt_tokens: int
    output_tokens: int
    stream: bool


def arrivals(scenario: Scenario, seed: int) -> Iterator[Arrival]:
    """The workload's requests in order of arrival, up to the end of the load."""
    workload = scenario.workload
    shares = workload.models or {name: 1.0 for name, model in scenario.cluster.models.items() if model.replicas}
    if not shares:
        shares = dict.fromkeys(scenario.cluster.models, 1.0)
    names = list(shares)
    weights = np.array([shares[name] for name in names])
    weights = weights / weights.sum()
    gaps, prompts, outputs, streams, models = (
        stream(seed, f"workload:{purpose}") for purpose in ("gaps", "prompt", "output", "stream", "model")
    )
    now = 0.0
    end_s = scenario.end_of_load_s
    while True:
        times = now + np.cumsum(workload.arrivals.gaps_s(gaps, CHUNK))
        now = float(times[-1])
        chosen = models.choice(len(names), CHUNK, p=weights).tolist() if len(names) > 1 else [0] * CHUNK
        rows = zip(
            times.tolist(),
            chosen,
            workload.prompt_tokens.tokens(prompts, CHUNK).tolist(),
            workload.output_tokens.tokens(outputs, CHUNK).tolist(),
            (streams.random(CHUNK) < workload.streaming).tolist(),
            strict=True,
        )
        for arrival_s, model, prompt, output, streams_it in rows:
            if arrival_s >= end_s:
                return
            yield Arrival(arrival_s, names[model], prompt, output, streams_it)


def strikes(scenario: Scenario, place: int, fault: Fault, seed: int) -> list[tuple[str, str]]:
    """The nodes that a fault strikes, each with the network element whose uplink a network fault breaks for it.

    That element is the node itself, or the rack, zone or gateway that the target names. `place`: the fault's place in
    the scenario's list. What is done to a part that is no node strikes that part.
    """
    if fault.about.part != "node":
        return [(fault.about.part, fault.about.part)]
    topology = scenario.cluster.topology()
    names = topology.nodes
    target = fault.target
    groups = {**topology.racks, **topology.zones, **dict.fromkeys(topology.gateways, names)}
    if isinstance(target, dict):
        (element,) = target.values()
        return [(node, element) for node in groups[element]]
    drawn = RANDOM.fullmatch(target)
    if target in ("random_rack", "random_zone"):
        known = list(topology.racks if target == "random_rack" else topology.zones)
        element = known[int(stream(seed, f"fault:{place}:target").permutation(len(known))[0])]
        return [(node, element) for node in groups[element]]
    if target == "all":
        return [(name, name) for name in names]
    if drawn is None:
        return [(target, target)]
    chosen = stream(seed, f"fault:{place}:target").permutation(len(names))[: int(drawn[1] or 1)]
    return [(names[index], names[index]) for index in sorted(chosen.tolist())]


def targets(scenario: Scenario, place: int, fault: Fault, seed: int) -> list[str]:
    """The nodes that a fault strikes."""
    return [node for node, _ in strikes(scenario, place, fault, seed)]
