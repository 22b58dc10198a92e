"""A runner process dies, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, Fault, Step, merged, ramp


class RunnerCrash(Fault):
    """The runners die in whatever they are doing. The server stays and loads the model again for the next request."""

    about = About(
        kind="runner_crash",
        identifier="F03",
        what="the runner process of every loaded model dies",
        symptom="status 200, part of the answer, then an error record (on /v1: no [DONE]); the next request pays a load",
        precursor="rising gaps between tokens, a context near its limit, VRAM near full; none when sudden",
        source="ollama/ollama issues 8258, 8948, 9064",
        ended_by_restart=False,
        instant=True,
        live="SIGKILL to the runner processes; on your own cluster by a command or the agent",
    )
    kind: Literal["runner_crash"]

    def signs(self) -> Iterator[Step]:
        """Tokens come slower, and the GPU's memory fills."""
        return merged(ramp("step_factor", 1.0, 1.5, self.lead_s), ramp("vram_grabbed_share", 0.0, 0.9, self.lead_s))

    def onset(self) -> Iterator[Step]:
        """Kill them."""
        yield Step(0.0, "kill_runner")

    def ending(self) -> Iterator[Step]:
        """Nothing is left to end."""
        yield from ()
