"""A model is loaded partly into main memory, without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, ramp


class CpuOffload(Fault):
    """For `slow_for_s` the driver gives memory back `return_s` late, and the loaded models are let go once: who is loaded
    anew meanwhile finds too little room (the server waits 5 s for it, no longer), and has layers in main memory until it
    is loaded again."""

    about = About(
        kind="cpu_offload",
        identifier="F07",
        what="a load does not wait for the memory of the one before, and puts layers on the processor",
        symptom="status 200, tokens many times slower; size_vram below size in /api/ps",
        precursor="free GPU memory before the load; GPU memory in use while no model is loaded",
        source="ollama/ollama issues 14258, 13002, 12922",
        ended_by_restart=True,
        ended_by_reload=True,
        emerges="vram_return_added_s",
    )
    kind: Literal["cpu_offload"]
    return_s: Annotated[float, Field(gt=0, description="How much later memory comes back.")] = 60.0
    slow_for_s: Annotated[float, Field(gt=0, description="For how long the driver is so slow.")] = 30.0

    def signs(self) -> Iterator[Step]:
        """The driver gets slower."""
        return ramp("vram_return_added_s", 0.0, 3.0, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """Models go, and their memory does not come back in time."""
        yield Step(0.0, "set_condition", self.return_s, "vram_return_added_s")
        yield Step(0.0, "expire_models")
        yield Step(self.slow_for_s, "set_condition", 0.0, "vram_return_added_s")

    def ending(self) -> Iterator[Step]:
        """An operator restarts the service."""
        yield Step(0.0, "kill_server")
        yield Step(0.0, "start_server")
