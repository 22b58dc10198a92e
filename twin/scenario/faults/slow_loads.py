"""Loads take many times as long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, ramp


class SlowLoads(Fault):
    """Weights are read `factor` times as slowly as usual. What is loaded goes on."""

    about = About(
        kind="slow_loads",
        identifier="F17",
        what="a slow disk, or a network share in its place",
        symptom="models that are not loaded answer late; load_duration grows; nothing fails that has the patience",
        precursor="loads get slower; what is read from the disk a second falls",
        source="ollama/ollama issues 4131, 16132",
        ended_by_restart=False,
    )
    kind: Literal["slow_loads"]
    factor: Annotated[float, Field(gt=1, le=1000, description="How many times as long reading takes.")] = 10.0

    def signs(self) -> Iterator[Step]:
        """Loads get slower, up to twice as long."""
        return ramp("load_speed_factor", 1.0, 0.5, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """Slow."""
        yield Step(0.0, "set_condition", 1.0 / self.factor, "load_speed_factor")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
