"""A server that is started finds no GPU, or looks for it for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import ALL_GPUS, About, Fault, Step


class GpuDiscovery(Fault):
    """The service is restarted for some other reason.

    From then on each new server process needs `looks_for_s` until it answers, and, where `finds_none`, loads everything
    into main memory.
    """

    about = About(
        kind="gpu_discovery",
        identifier="F29",
        what="an old driver: the search for GPUs at the start fails or takes half a minute",
        symptom="after a restart nothing listens for long; then status 200, and tokens many times slower",
        precursor="none; size_vram is 0 in /api/ps from then on",
        source="Ollama's docs/troubleshooting.mdx (AMD)",
        ended_by_restart=False,
    )
    kind: Literal["gpu_discovery"]
    looks_for_s: Annotated[float, Field(ge=0, le=600, description="From a start until the server answers.")] = 30.0
    finds_none: Annotated[bool, Field(description="In the end it has found none.")] = True

    def onset(self) -> Iterator[Step]:
        """A restart."""
        yield Step(0.0, "set_condition", self.looks_for_s, "start_added_s")
        if self.finds_none:
            yield Step(0.0, "set_condition", float(ALL_GPUS), "gpus_lost")
        yield Step(0.0, "kill_server")
        yield Step(0.0, "start_server")

    def ending(self) -> Iterator[Step]:
        """A new driver, and a restart."""
        yield Step(0.0, "set_condition", 0.0, "start_added_s")
        yield Step(0.0, "set_condition", 0.0, "gpus_lost")
        yield Step(0.0, "kill_server")
        yield Step(0.0, "start_server")
