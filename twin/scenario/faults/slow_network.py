"""The path to a node gets slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class SlowNetwork(Fault):
    """Every byte to and from the node takes `latency_ms` longer, each way."""

    about = About(
        kind="slow_network",
        identifier="F30",
        what="latency is added on the path to a node",
        symptom="everything works, later: time to first token grows by the round trip",
        precursor="none",
        source="no Ollama-specific report found; an assumption from networks in general",
        live="Toxiproxy delays every answer; also on your own cluster",
        ended_by_restart=False,
    )
    kind: Literal["slow_network"]
    latency_ms: Annotated[float, Field(gt=0, le=60_000, description="Added to each direction.")] = 500.0

    def onset(self) -> Iterator[Step]:
        """Slow it down."""
        yield Step(0.0, "slow_network", self.latency_ms)

    def ending(self) -> Iterator[Step]:
        """Back to normal."""
        yield Step(0.0, "restore_network")
