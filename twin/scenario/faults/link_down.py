"""A link is down, and the router before it says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, LinkChange, NetworkFault, Step


class LinkDown(NetworkFault):
    """Whoever connects is refused at once, and open connections are reset: not the silence of a partition."""

    about = About(
        kind="link_down",
        identifier="F30",
        what="the link to a node is down, and whoever tries it is told so",
        symptom="streams break, new connections are refused at once, as if the server had died; the node works on",
        precursor="none",
        source="no Ollama-specific report found; an assumption from networks in general",
        ended_by_restart=False,
        live="the node's Toxiproxy edge is disabled",
    )
    kind: Literal["link_down"]

    def onset(self) -> Iterator[Step]:
        """Take it down."""
        yield Step(0.0, "refuse_network", link=LinkChange(refuses=True))
