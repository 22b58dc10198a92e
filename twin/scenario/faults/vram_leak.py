"""GPU memory is not given back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, ramp


class VramLeak(Fault):
    """The server leaks GPU memory: a staircase over `lead_s`, a step more with each unload, and `leaked_gib` by `at_s`.

    Then the models are let go once, and what is loaded anew finds too little room: layers go to main memory, or the load
    fails. A new server process has all of it.
    """

    about = About(
        kind="vram_leak",
        identifier="F18",
        what="GPU memory that unloads do not give back, about 0.3 GiB a cycle",
        symptom="later loads get fewer layers on the GPU and are many times slower, or fail; nothing shows in /api/ps",
        precursor="GPU memory in use beyond what /api/ps lists: a staircase",
        source="ollama/ollama issues 10597 (453 to 5835 MB in 20 cycles), 7606, 10433, 12922",
        ended_by_restart=True,
    )
    kind: Literal["vram_leak"]
    leaked_gib: Annotated[float, Field(gt=0, le=1000, description="Leaked on each GPU by at_s.")] = 20.0
    per_unload_gib: Annotated[float, Field(ge=0, le=100, description="Leaked by each unload besides.")] = 0.27

    def signs(self) -> Iterator[Step]:
        """The staircase."""
        yield Step(0.0, "set_condition", self.per_unload_gib, "vram_leaked_gib_per_unload")
        yield from ramp("vram_leaked_gib", 0.0, 0.9 * self.leaked_gib, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """Too much is gone for the next load."""
        yield Step(0.0, "set_condition", self.per_unload_gib, "vram_leaked_gib_per_unload")
        yield Step(0.0, "set_condition", self.leaked_gib, "vram_leaked_gib")
        yield Step(0.0, "expire_models")

    def ending(self) -> Iterator[Step]:
        """An operator restarts the service."""
        yield Step(0.0, "kill_server")
        yield Step(0.0, "start_server")
