"""The scheduler's one loading routine deadlocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, Fault, Step


class SchedulerDeadlock(Fault):
    """Nothing can be loaded any more on the node; what is loaded goes on. Only a restart ends it."""

    about = About(
        kind="scheduler_deadlock",
        identifier="F10",
        what="the scheduler's loading routine waits for ever",
        symptom="requests for models that are not loaded hang without end; loaded models, /api/tags and /api/ps work",
        precursor="only once it is there: the oldest pending cold request is older than any load takes",
        source="ollama/ollama issue 17408",
        ended_by_restart=True,
    )
    kind: Literal["scheduler_deadlock"]

    def onset(self) -> Iterator[Step]:
        """Stick the loader."""
        yield Step(0.0, "stick_loader")

    def ending(self) -> Iterator[Step]:
        """An operator notices at last, and restarts the service."""
        yield Step(0.0, "kill_server")
        yield Step(0.0, "start_server")
