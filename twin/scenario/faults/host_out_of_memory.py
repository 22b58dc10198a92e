"""Main memory runs full, and the kernel kills."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, merged, ramp


class HostOutOfMemory(Fault):
    """The server (or a runner) leaks main memory until, at `at_s`, it wants more than there is with swap: the kernel kills
    it. A restart before that ends the leak. Without `lead_s` it takes all at once."""

    about = About(
        kind="host_out_of_memory",
        identifier="F06",
        what="a process of Ollama leaks main memory, and the kernel's OOM killer ends it",
        symptom="the server: streams break, then connections are refused; a runner: 500 or an error record, then a load",
        precursor="main memory in use grows steadily, then swap; layers in main memory (size above size_vram)",
        source="ollama/ollama issues 9685, 6238, 11231, 10739",
        ended_by_restart=True,
    )
    kind: Literal["host_out_of_memory"]
    leaks: Annotated[Literal["server", "runner"], Field(description="Who leaks, and so is killed.")] = "server"

    def is_instant(self) -> bool:
        """A dead runner is loaded anew; a dead server is dead until somebody starts it."""
        return self.leaks == "runner"

    def signs(self) -> Iterator[Step]:
        """The leak; error lines once swap is near."""
        return merged(
            ramp("ram_grabbed_share", 0.0, 0.97, self.lead_s), ramp("error_line_rate_per_s", 0.0, 0.02, self.lead_s)
        )

    def onset(self) -> Iterator[Step]:
        """It wants more than there is."""
        if self.leaks == "server":
            yield Step(0.0, "set_condition", 1.0, "ram_leak_in_server")
        yield Step(0.0, "set_condition", 1.01, "ram_grabbed_share")

    def ending(self) -> Iterator[Step]:
        """The service manager, or a person, starts the server again."""
        if self.leaks == "server":
            yield Step(0.0, "start_server")
