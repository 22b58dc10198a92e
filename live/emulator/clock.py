"""Wall-clock time for the node model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from twin.sim.engine import Clock, Timer


class LoopClock(Clock):
    """The `Clock` of the node model on an asyncio event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        """Seconds, monotonic."""
        return self._loop.time()

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time or a moment later, never before; soon if it has passed."""
        self._loop.call_at(time_s, self._run, time_s, function)

    def wake_at(self, time_s: float, timer: Timer) -> None:
        """The same for `timer.fire`."""
        self.call_at(time_s, timer.fire)

    def _run(self, time_s: float, function: Callable[[], None]) -> None:
        # An event loop calls up to its clock's resolution too early. The node model takes a call that is early for one
        # that is out of date, and would never look again.
        if self._loop.time() < time_s:
            self._loop.call_soon(self._run, time_s, function)
        else:
            function()
