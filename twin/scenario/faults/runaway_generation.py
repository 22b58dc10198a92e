"""Generations that never end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class RunawayGeneration(Fault):
    """Of the generations that begin on the node this share never ends, and keeps its slot as long as its client waits.

    In a drill the limit that the load sets (`num_predict`) stands for where the model would have stopped by itself, so it
    does not cap them.
    """

    about = About(
        kind="runaway_generation",
        identifier="F23",
        what="the model does not stop by itself, and nobody set num_predict",
        symptom="the stream never ends; its slot is held until the client goes away",
        precursor="none beforehand; then far more tokens than usual",
        source="ollama/ollama issues 9617, 1863, 7645",
        ended_by_restart=False,
    )
    kind: Literal["runaway_generation"]
    share: Annotated[float, Field(gt=0, le=1, description="Share of the generations that never end.")] = 0.2

    def onset(self) -> Iterator[Step]:
        """From now on some do not stop."""
        yield Step(0.0, "set_condition", self.share, "runaway_share")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
