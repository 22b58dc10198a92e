"""A node gets slower and slower, without any error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step

RAMP_STEPS = 20


class SlowDecay(Fault):
    """Steps and prefills take longer and longer, up to `factor` times after `ramp_s`; a new server process is fast again."""

    about = About(
        kind="slow_decay",
        identifier="F20",
        what="the node's speed falls and stays down (fragmentation, clocks ratcheting down)",
        symptom="no error; tokens come slower and slower",
        precursor="eval_count / eval_duration falls; the clock falls",
        source="ollama/ollama issues 7717, 7740, 4050",
        live="a CPU quota (cgroup) on server and runners, tightened step by step; needs root",
        ended_by_restart=True,
    )
    kind: Literal["slow_decay"]
    factor: Annotated[float, Field(gt=1, le=1000, description="How many times slower in the end.")] = 4.0
    ramp_s: Annotated[float, Field(ge=0, description="From full speed to the slowest.")] = 60.0

    def onset(self) -> Iterator[Step]:
        """A staircase of twenty steps."""
        for step in range(1, RAMP_STEPS + 1):
            share = step / RAMP_STEPS
            yield Step(self.ramp_s * (share - 1 / RAMP_STEPS), "slow_gpu", 1.0 + (self.factor - 1.0) * share)

    def ending(self) -> Iterator[Step]:
        """Full speed again."""
        yield Step(0.0, "slow_gpu", 1.0)
