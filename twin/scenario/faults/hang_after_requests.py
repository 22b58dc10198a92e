"""Runners that hang after some number of requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class HangAfterRequests(Fault):
    """From `at_s` on each runner hangs when it has taken `requests` in all since its start; a new runner counts anew."""

    about = About(
        kind="hang_after_requests",
        identifier="F12",
        what="a leak in the runner lets it hang after a number of requests, each runner again",
        symptom="streams fall silent, new requests hang without end, behind green endpoints; a reload helps for a while",
        precursor="none in telemetry; the requests since the runner's start can be counted at the gateway",
        source="ollama/ollama issues 1863, 12640, 12942; seen on real nodes after 16 to 46 cancelled streams",
        ended_by_restart=False,
        emerges="hang_after_requests",
    )
    kind: Literal["hang_after_requests"]
    requests: Annotated[int, Field(ge=1, description="That a runner takes before it hangs.")] = 200

    def onset(self) -> Iterator[Step]:
        """From now on they count."""
        yield Step(0.0, "set_condition", self.requests, "hang_after_requests")

    def ending(self) -> Iterator[Step]:
        """Those that hang go on; what was set is withdrawn."""
        yield Step(0.0, "resume_runner")
