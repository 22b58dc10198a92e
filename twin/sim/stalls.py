"""Loads that stand still: the disk or the network share gives no weights any more, for a while or for good."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from twin.sim.node import OllamaNode

LOAD_TIMEOUT_S: Final = 300.0
"""OLLAMA_LOAD_TIMEOUT: a load that makes no progress for this long has failed."""

ROUNDING_S: Final = 1e-9


class Stalls:
    """Watches the condition `loads_stalled` of one node, and moves the end of the load that is under way."""

    def __init__(self, node: OllamaNode) -> None:
        self.node = node
        self.since_s: float | None = None  # since when loads make no progress; None: they do

    def hold(self) -> bool:
        """Whether the load that was to end now stands still, or stood, and so ends later."""
        return self.since_s is not None or self.node.clock.time() < self.node.reading_s[1] - ROUNDING_S

    def load_begun(self) -> None:
        """A load begins; while nothing is read, it has its own five minutes."""
        if self.since_s is not None:
            self._arm(self.since_s)

    def conditions_changed(self) -> None:
        """The disk falls silent, or speaks again."""
        stalled = bool(self.node.conditions.values["loads_stalled"])
        if stalled == (self.since_s is not None):
            return
        node = self.node
        now = node.clock.time()
        if stalled:
            self.since_s = now
            if node.loading is not None:
                self._arm(now)
            return
        since_s, self.since_s = self.since_s, None
        if node.loading is not None and since_s is not None:
            begin_s, end_s = node.reading_s
            stood_s = now - max(since_s, begin_s)
            if stood_s > 0.0:  # else the runner was still starting
                node.reading_s = (begin_s + stood_s, end_s + stood_s)
            node.clock.call_at(node.reading_s[1], partial(node.loaded, node.load_version))

    def _arm(self, since_s: float) -> None:
        node = self.node
        node.clock.call_at(node.clock.time() + LOAD_TIMEOUT_S, partial(self._timed_out, node.load_version, since_s))

    def _timed_out(self, version: int, since_s: float) -> None:
        if self.since_s == since_s:
            self.node.load_failed(version)
