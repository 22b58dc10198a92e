"""Random draws of a scenario, the same in both worlds: one named stream for each purpose.

A stream depends on the seed and its name alone, so that changing one thing does not shift the draws of another (common
random numbers).
"""

from __future__ import annotations

import re
import zlib

import numpy as np

from twin.scenario.faults.base import Fault
from twin.scenario.schema import Scenario


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of that name."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


def targets(scenario: Scenario, place: int, fault: Fault, seed: int) -> list[str]:
    """The nodes that a fault strikes (`place`: its place in the scenario's list)."""
    names = scenario.cluster.node_names()
    assert isinstance(fault.target, str)
    if fault.target == "all":
        return names
    drawn = re.fullmatch(r"random(?:\((\d+)\))?", fault.target)
    if drawn is None:
        return [fault.target]
    count = int(drawn[1] or 1)
    chosen = stream(seed, f"fault:{place}:target").permutation(len(names))[:count]
    return [names[index] for index in sorted(chosen.tolist())]
