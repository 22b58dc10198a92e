"""A node whose runners die again and again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class RunnerCrashLoop(Fault):
    """The runners die every `period_s`. A restart of the service ends it (the driver's state goes with the process)."""

    about = About(
        kind="runner_crash_loop",
        identifier="F02",
        what="the runners of a node die every few seconds",
        symptom="500 before the first token or an error record after it, again and again; health endpoints stay green",
        precursor="only while it lasts: earlier crashes of the same node and model",
        source="ollama/ollama issue 12472",
        ended_by_restart=True,
        live="SIGKILL to the runner processes, again and again; on your own cluster by a command or the agent",
    )
    kind: Literal["runner_crash_loop"]
    period_s: Annotated[float, Field(ge=0.1, description="Between two crashes.")] = 1.0

    def onset(self) -> Iterator[Step]:
        """Kill them, every period."""
        for count in itertools.count():
            after_s = count * self.period_s
            if self.duration_s is not None and after_s >= self.duration_s:
                return
            yield Step(after_s, "kill_runner")

    def ending(self) -> Iterator[Step]:
        """It just stops."""
        yield from ()
