"""A runner outlives its server, and keeps its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class OrphanRunner(Fault):
    """The server is killed and comes back after `down_s`; a runner of the old one stays, which nobody can reach.

    Beforehand an orphan of an earlier kill may be seen: it takes room, and hurts nobody until the next load.
    """

    about = About(
        kind="orphan_runner",
        identifier="F19",
        what="a server that was killed leaves a runner behind (or an upgrade two of one name)",
        symptom="after the restart loads get fewer layers on the GPU, or fail; GPU memory is held by an unknown process",
        precursor="runner processes beyond those of the loaded models; GPU memory beyond what /api/ps lists",
        source="ollama/ollama issues 5642, 7927, 9496; notes of ollama-herd, 2026-10-10",
        ended_by_restart=False,
        ended_by_kill=True,
    )
    kind: Literal["orphan_runner"]
    held_gib: Annotated[float, Field(gt=0, le=1000, description="GPU memory that it holds, on each GPU.")] = 20.0
    down_s: Annotated[float, Field(ge=0, le=3600, description="How long the server is down.")] = 2.0

    def signs(self) -> Iterator[Step]:
        """One is there already, with half of the memory."""
        yield Step(0.0, "set_condition", 1.0, "orphan_processes")
        yield Step(0.0, "set_condition", 0.5 * self.held_gib, "vram_foreign_gib")

    def onset(self) -> Iterator[Step]:
        """The server is killed, and its runner is not."""
        yield Step(0.0, "set_condition", 2.0 if self.lead_s else 1.0, "orphan_processes")
        yield Step(0.0, "set_condition", self.held_gib, "vram_foreign_gib")
        yield Step(0.0, "kill_server")
        yield Step(self.down_s, "start_server")

    def ending(self) -> Iterator[Step]:
        """Somebody kills it, and has the models loaded again."""
        yield Step(0.0, "start_server")
        yield Step(0.0, "expire_models")
