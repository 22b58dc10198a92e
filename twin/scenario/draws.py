"""Random draws of a scenario, the same in both worlds: one named stream for each purpose.

A stream depends on the seed and its name alone, so that changing one thing does not shift the draws of another (common
random numbers).
"""

from __future__ import annotations

import zlib

import numpy as np

from twin.scenario.faults.base import Fault, Target
from twin.scenario.schema import Scenario
from twin.scenario.targets import RANDOM


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of that name."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


def strikes(scenario: Scenario, place: int, fault: Fault, seed: int) -> list[tuple[str, str]]:
    """The nodes that a fault strikes, each with the network element whose uplink a network fault breaks for it.

    That element is the node itself, or the rack, zone or gateway that the target names. `place`: the fault's place in
    the scenario's list. What is done to a part that is no node strikes that part.
    """
    if fault.about.part != "node":
        return [(fault.about.part, fault.about.part)]
    return _struck(scenario, fault.target, stream(seed, f"fault:{place}:target"))


def targets(scenario: Scenario, place: int, fault: Fault, seed: int) -> list[str]:
    """The nodes that a fault strikes."""
    return [node for node, _ in strikes(scenario, place, fault, seed)]


def nodes_of(scenario: Scenario, target: Target, random: np.random.Generator) -> list[str]:
    """The nodes that a target means; `random` draws where it is a random one."""
    return [node for node, _ in _struck(scenario, target, random)]


def _struck(scenario: Scenario, target: Target, random: np.random.Generator) -> list[tuple[str, str]]:
    topology = scenario.cluster.topology()
    names = topology.nodes
    groups = {**topology.racks, **topology.zones, **dict.fromkeys(topology.gateways, names)}
    if isinstance(target, dict):
        (element,) = target.values()
        return [(node, element) for node in groups[element]]
    if target in ("random_rack", "random_zone"):
        known = list(topology.racks if target == "random_rack" else topology.zones)
        element = known[int(random.permutation(len(known))[0])]
        return [(node, element) for node in groups[element]]
    if target == "all":
        return [(name, name) for name in names]
    drawn = RANDOM.fullmatch(target)
    if drawn is None:
        return [(target, target)]
    chosen = random.permutation(len(names))[: int(drawn[1] or 1)]
    return [(names[index], names[index]) for index in sorted(chosen.tolist())]
