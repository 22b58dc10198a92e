"""Many time limits with one timer of the event loop: nearly all of them are taken back before they are due."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from twin.policy.vocabulary import NEVER_S

SWEEP_MIN = 256
"""Limits that were taken back are thrown away once they are this many, and more than the others."""


class Limit:
    """A call that is to be made at a time, unless it is taken back."""

    __slots__ = ("at_s", "call")

    def __init__(self, at_s: float, call: Callable[[], None]) -> None:
        self.at_s = at_s
        self.call: Callable[[], None] | None = call

    def __lt__(self, other: Limit) -> bool:
        return self.at_s < other.at_s


class Timers:
    """Makes calls when they are due. A timer of the loop for each would cost more than all else that a limit needs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[Limit] = []
        self._taken_back = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = NEVER_S

    def at(self, at_s: float, call: Callable[[], None]) -> Limit:
        """Call at this time, on the loop's clock, or a little later."""
        limit = Limit(at_s, call)
        heapq.heappush(self._heap, limit)
        if at_s < self._timer_s:
            self._arm(at_s)
        return limit

    def take_back(self, limit: Limit) -> None:
        """Make the call no more."""
        if limit.call is None:
            return
        limit.call = None
        self._taken_back += 1
        if self._taken_back > SWEEP_MIN and self._taken_back * 2 > len(self._heap):
            self._heap = [each for each in self._heap if each.call is not None]
            heapq.heapify(self._heap)
            self._taken_back = 0

    def close(self) -> None:
        """Make no call any more."""
        self._heap.clear()
        self._disarm()

    def __len__(self) -> int:
        return len(self._heap) - self._taken_back

    def _arm(self, at_s: float) -> None:
        self._disarm()
        self._timer_s = at_s
        self._timer = self._loop.call_at(at_s, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_s = NEVER_S

    def _due(self) -> None:
        self._timer = None
        # What was added while calls are made arms no timer: that is done once, at the end.
        fired_s, self._timer_s = self._timer_s, -NEVER_S
        now_s = max(self._loop.time(), fired_s)
        try:
            while self._heap and self._heap[0].at_s <= now_s:
                limit = heapq.heappop(self._heap)
                call, limit.call = limit.call, None
                if call is None:
                    self._taken_back -= 1
                else:
                    call()
            while self._heap and self._heap[0].call is None:
                heapq.heappop(self._heap)
                self._taken_back -= 1
        finally:
            self._timer_s = NEVER_S
            if self._heap:
                self._arm(self._heap[0].at_s)
