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
        ended_by_restart=False,
        live="Toxiproxy passes nothing, and keeps connections open",
    )
    kind: Literal["partition"]

    def onset(self) -> Iterator[Step]:
        """Cut it."""
        yield Step(0.0, "cut_network")

    def ending(self) -> Iterator[Step]:
        """Mend it."""
        yield Step(0.0, "restore_network")
