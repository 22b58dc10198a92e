"""A link that carries only so much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, LinkChange, NetworkFault, Step


class BandwidthLimit(NetworkFault):
    """The link carries no more than `kb_per_s`, each way. All that goes over it shares it."""

    about = About(
        kind="bandwidth_limit",
        identifier="F30",
        what="a link carries only so many bytes per second (a mistaken shaper, a failed-over line, a full uplink)",
        symptom="prompts arrive late, tokens come at the pace of the link, though the node's own timings are good",
        precursor="none",
        source="no Ollama-specific report found; an assumption from networks in general",
        ended_by_restart=False,
        live="a Toxiproxy bandwidth on each node's edge, which limits each connection by itself",
    )
    kind: Literal["bandwidth_limit"]
    kb_per_s: Annotated[float, Field(ge=1, description="Kilobytes (1,000 bytes) per second, each way.")] = 10.0

    def onset(self) -> Iterator[Step]:
        """Limit it."""
        change = LinkChange(bandwidth_kb_per_s=self.kb_per_s)
        yield Step(0.0, "limit_bandwidth", self.kb_per_s, link=change)
