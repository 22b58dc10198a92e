"""The GPU's memory is full while models run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, ramp


class GpuOutOfMemory(Fault):
    """Another program takes all GPU memory that the models leave free. The next request whose batch needs a little more
    kills its runner; the server then lets every loaded model go, and each reload waits 5 s for memory. As long as the
    other program is there, it happens again."""

    about = About(
        kind="gpu_out_of_memory",
        identifier="F05",
        what="a runner runs out of GPU memory at work, and the server expires every loaded model",
        symptom="500 or an error record (out of memory), then cold loads of all models, each 5 s longer than usual",
        precursor="GPU memory in use near what there is; the context of requests grows; a new neighbour on the GPU",
        source="ollama/ollama issues 11997, 9782",
        ended_by_restart=False,
        emerges="vram_grabbed_share",
    )
    kind: Literal["gpu_out_of_memory"]
    taken_share: Annotated[
        float, Field(gt=0, le=1, description="Of the GPU memory that is free at that moment, what it takes.")
    ] = 1.0

    def signs(self) -> Iterator[Step]:
        """It grows."""
        return ramp("vram_grabbed_share", 0.0, 0.9 * self.taken_share, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """It has all."""
        yield Step(0.0, "set_condition", self.taken_share, "vram_grabbed_share")

    def ending(self) -> Iterator[Step]:
        """It ends; what was set is withdrawn."""
        yield from ()
