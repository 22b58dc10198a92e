"""No byte passes between the gateways and a node, a rack or a zone, in one direction or both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Direction, LinkChange, NetworkFault, Step


class Partition(NetworkFault):
    """The path is cut; nothing is closed. The node itself works on.

    `to_node`: requests do not arrive, answers do. `from_node`: requests arrive on the connections that the gateway
    keeps open, and the node works for nobody: its answers do not get through. It is bytes that are blocked, as a proxy
    or a firewall between would; a cut of all packets one way would also stop, after one retransmission timeout, what is
    no longer acknowledged.
    """

    about = About(
        kind="partition",
        identifier="F30",
        what="the network between gateways and node passes nothing, one way or both",
        symptom="streams fall silent, connections are not answered; the node's agent cannot be reached either",
        precursor="none",
        source="no Ollama-specific report found; an assumption from networks in general",
        ended_by_restart=False,
        live="a Toxiproxy timeout on each edge, one way or both; what a node closes is closed; also on your own cluster",
    )
    kind: Literal["partition"]
    direction: Annotated[Direction, Field(description="What is cut off: requests, answers, or both.")] = "both"

    def onset(self) -> Iterator[Step]:
        """Cut it."""
        yield Step(0.0, "cut_network", link=LinkChange(blocked=self.direction))
