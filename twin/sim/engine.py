"""The simulation engine: SimPy's environment, used through callbacks.

A process (generator) for each request costs six times as much as a callback, so nothing here is a process; and a callback
needs no event object of its own, so a function stands in SimPy's queue as it is. Nothing is cancelled: who no longer
wants a call ignores it when it comes. SimPy's own events (of a process that somebody adds) run beside the calls, in the
one order of (time, priority, sequence).
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol

from simpy import Environment
from simpy.events import NORMAL, Event


class Clock(Protocol):
    """What the node model needs of time, simulated or real."""

    @property
    def now(self) -> float:
        """Seconds."""

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time (at once, but not from within this call, if it has passed)."""


class Engine(Environment):
    """Simulated time. Simultaneous calls run in the order in which they were asked for."""

    now: float = 0.0  # a plain attribute where SimPy has a property: it is read several times a call

    def __init__(self) -> None:
        super().__init__()
        self._finished = False
        self.calls = 0

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time, at once if it has passed."""
        now = self.now
        heappush(self._queue, (time_s if time_s > now else now, NORMAL, next(self._eid), function))  # type: ignore[misc]

    def finish(self) -> None:
        """End the run after the present call."""
        self._finished = True

    def run_calls(self) -> None:
        """Run until `finish` is called or nothing is left to do."""
        queue: list[Any] = self._queue
        calls = 0
        while queue and not self._finished:
            self.now, _, _, item = heappop(queue)
            self._now = self.now
            calls += 1
            if isinstance(item, Event):
                _run_event(item)
            else:
                item()
        self.calls += calls


def _run_event(event: Event) -> None:
    """What SimPy's `step` does with an event."""
    callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]  # SimPy marks it as processed so
    for callback in callbacks:
        callback(event)
    if not event._ok and not hasattr(event, "_defused"):
        raise event._value
