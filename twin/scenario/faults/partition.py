"""No byte passes between the gateway and a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from twin.scenario.faults.base import About, Fault, Step


class Partition(Fault):
    """The path to the node is cut, both ways; nothing is closed. The node itself works on."""

    about = About(
        kind="partition",
        identifier="F30",
        what="the network between gateway and node passes nothing",
        symptom="streams fall silent, connections are not answered; the node's agent cannot be reached either",
        precursor="none",
        source="no Ollama-specific report found; an assumption from networks in general",
        live="Toxiproxy passes no byte in either direction; a node's agent is cut off with it; also on your own cluster",
        ended_by_restart=False,
    )
    kind: Literal["partition"]

    def onset(self) -> Iterator[Step]:
        """Cut it."""
        yield Step(0.0, "cut_network")

    def ending(self) -> Iterator[Step]:
        """Mend it."""
        yield Step(0.0, "restore_network")
