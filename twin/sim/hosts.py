"""Nodes on one host share its processor: when more of their runners work than it has room for, all of them slow down.

Even shares, as the kernel's scheduler gives to processes of one weight. What a runner does not use, others have at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.sim.node import OllamaNode


class Host:
    """One machine with several nodes. `room`: runners' worth of full speed that several have together; one alone has all
    of its own, so with a room below 1 two together get less done than one: switching between them costs."""

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
        share = self._share_of(working)
        if share != self.share:
            self.share = share
            for node in self.nodes:
                node.keep_pace()

    def _share_of(self, working: int) -> float:
        return self.room / working if working > 1 and working > self.room else 1.0

    def share_with(self, node: OllamaNode) -> float:
        """What a node has of its full speed while its server works, whether its runners do or not."""
        working = 1
        for other in self.nodes:
            if other is not node and any([runner.count and not runner.paused for runner in other.runners.values()]):
                working += 1
        return self._share_of(working)
