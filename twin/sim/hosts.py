"""Nodes on one host share its processor: when more of their runners work than it has room for, all of them slow down.

Even shares, as the kernel's scheduler gives to processes of one weight. What a runner does not use, others have at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.sim.node import OllamaNode


class Host:
    """One machine with several nodes. `room`: runners that work at once at full speed."""

    def __init__(self, room: float) -> None:
        self.room = room
        self.nodes: list[OllamaNode] = []
        self.share = 1.0  # of full speed that a runner has now

    def look(self) -> None:
        """Who works may have changed."""
        working = 0
        for node in self.nodes:
            for runner in node.runners.values():
                if runner.count and not runner.paused:
                    working += 1
        share = self.room / working if working > self.room else 1.0
        if share != self.share:
            self.share = share
            for node in self.nodes:
                node.keep_pace()
