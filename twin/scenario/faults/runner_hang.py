"""The runners hang while every health endpoint stays green."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, Fault, Step, ramp


class RunnerHang(Fault):
    """The runners stop executing. They go on after `duration_s`, if they still exist."""

    about = About(
        kind="runner_hang",
        identifier="F12",
        what="the runner processes stop executing (a hung GPU, a lost mutex)",
        symptom="streams fall silent, new requests hang without end; /, /api/version, /api/tags and /api/ps answer in 1 ms",
        precursor="rising gaps between tokens; none when sudden",
        source="ollama/ollama issues 1863, 12640, 12942, 2176",
        ended_by_restart=True,
        ended_by_kill=True,
        live="SIGSTOP to the runner processes; on your own cluster by a command",
    )
    kind: Literal["runner_hang"]

    def signs(self) -> Iterator[Step]:
        """Tokens come slower and slower."""
        return ramp("step_factor", 1.0, 2.0, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """Stop them."""
        yield Step(0.0, "pause_runner")

    def ending(self) -> Iterator[Step]:
        """Let them go on."""
        yield Step(0.0, "resume_runner")
