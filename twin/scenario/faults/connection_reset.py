"""All open connections to a node are reset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, NetworkFault, Step


class ConnectionReset(NetworkFault):
    """Something on the way forgets its connections, once (a firewall or a load balancer that starts again)."""

    about = About(
        kind="connection_reset",
        identifier="F30",
        what="every connection that is open on the path is reset, once",
        symptom="streams break without a terminal record; new connections work at once",
        precursor="none",
        source="no Ollama-specific report found; an assumption from networks in general",
        ended_by_restart=False,
        instant=True,
        live="the node's Toxiproxy edge closes its connections and opens again",
    )
    kind: Literal["connection_reset"]

    def onset(self) -> Iterator[Step]:
        """Reset them."""
        yield Step(0.0, "reset_connections")

    def ending(self) -> Iterator[Step]:
        """Nothing is left to end."""
        yield from ()
