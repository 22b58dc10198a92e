"""The path to a node gets slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from twin.scenario.faults.base import About, LinkChange, NetworkFault, Step


class SlowNetwork(NetworkFault):
    """Every byte to and from the node takes `latency_ms` longer, each way, give or take `jitter_ms`."""

    about = About(
        kind="slow_network",
        identifier="F30",
        what="latency is added on the path to a node",
        symptom="everything works, later: time to first token grows by the round trip",
        precursor="none",
        source="no Ollama-specific report found; an assumption from networks in general",
        ended_by_restart=False,
        live="a Toxiproxy latency on each node's edge; also on your own cluster",
    )
    kind: Literal["slow_network"]
    latency_ms: Annotated[float, Field(gt=0, le=60_000, description="Added to each direction.")] = 500.0
    jitter_ms: Annotated[float, Field(ge=0, le=60_000, description="By as much it varies, evenly, up and down.")] = 0.0

    @model_validator(mode="after")
    def _nothing_arrives_before_it_is_sent(self) -> SlowNetwork:
        if self.jitter_ms > self.latency_ms:
            raise ValueError(f"jitter_ms {self.jitter_ms:g} is above latency_ms {self.latency_ms:g}")
        return self

    def onset(self) -> Iterator[Step]:
        """Slow it down."""
        change = LinkChange(latency_ms=self.latency_ms, jitter_ms=self.jitter_ms)
        yield Step(0.0, "slow_network", self.latency_ms, link=change)
