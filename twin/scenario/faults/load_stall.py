"""Loads make no progress."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, Fault, Step, ramp


class LoadStall(Fault):
    """From now on no weight is read on the node; a load that stands still for 5 minutes fails. What is loaded goes on."""

    about = About(
        kind="load_stall",
        identifier="F17",
        what="the disk or network share with the weights gives nothing any more",
        symptom="models that are not loaded do not answer; 500 timed out waiting for llama runner to start after 5 minutes",
        precursor="loads get slower; the progress of the present load stands still",
        source="ollama/ollama issues 4131, 16132",
        ended_by_restart=False,
    )
    kind: Literal["load_stall"]

    def signs(self) -> Iterator[Step]:
        """Loads get slower, up to five times as long."""
        return ramp("load_speed_factor", 1.0, 0.2, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """The disk falls silent."""
        yield Step(0.0, "set_condition", 1.0, "loads_stalled")

    def ending(self) -> Iterator[Step]:
        """It speaks again, and the load that stood still goes on where it was."""
        yield from ()
