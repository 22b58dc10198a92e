"""Random draws of a scenario, the same in both worlds: one named stream for each purpose.

A stream depends on the seed and its name alone, so that changing one thing does not shift the draws of another (common
random numbers).
"""

from __future__ import annotations

import re
import zlib

import numpy as np

from twin.scenario.faults.base import Fault, Target
from twin.scenario.schema import Scenario


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of that name."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


def targets(scenario: Scenario, place: int, fault: Fault, seed: int) -> list[str]:
    """The nodes that a fault strikes (`place`: its place in the scenario's list)."""
    return nodes_of(scenario, fault.target, stream(seed, f"fault:{place}:target"))


def nodes_of(scenario: Scenario, target: Target, random: np.random.Generator) -> list[str]:
    """The nodes that a target means; `random` draws where it is a random one."""
    names = scenario.cluster.node_names()
    assert isinstance(target, str)
    if target == "all":
        return names
    drawn = re.fullmatch(r"random(?:\((\d+)\))?", target)
    if drawn is None:
        return [target]
    chosen = random.permutation(len(names))[: int(drawn[1] or 1)]
    return [names[index] for index in sorted(chosen.tolist())]
