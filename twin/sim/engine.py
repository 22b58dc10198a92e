"""The simulation engine: SimPy's queue and order, used through callbacks.

A process (generator) for each request costs six times as much as a callback, so nothing here is a process; and a callback
needs no event object of its own, so a function, or a `Timer`, stands in the queue as it is. Nothing is cancelled: who no
longer wants a call ignores it when it comes. SimPy's own processes and events (`Engine.environment`) run beside the calls,
in the one order of (time, priority, sequence).
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from mypy_extensions import mypyc_attr
from simpy import Environment
from simpy.core import SimTime
from simpy.events import NORMAL, Event, EventPriority

PRIORITY: Final = int(NORMAL)


@mypyc_attr(allow_interpreted_subclasses=True)
class Timer:
    """Something that is woken: cheaper in the queue than a function."""

    __slots__ = ()

    def fire(self) -> None:
        """The time has come."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class Clock:
    """What the node model needs of time, simulated or real."""

    def time(self) -> float:
        """Seconds."""
        raise NotImplementedError

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time (at once, but not from within this call, if it has passed)."""
        raise NotImplementedError

    def wake_at(self, time_s: float, timer: Timer) -> None:
        """The same for `timer.fire`."""
        raise NotImplementedError


class Engine(Clock):
    """Simulated time. Simultaneous calls run in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0  # made so far
        self.queue: list[tuple[float, int, int, object]] = []
        self.sequence = 0
        self._finished = False

    def environment(self) -> Environment:
        """A SimPy environment on this clock and queue, for processes that run beside the calls."""
        return SharedEnvironment(self)

    def time(self) -> float:
        """Seconds since the start of the run."""
        return self.now

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time, at once if it has passed."""
        self.sequence += 1
        heappush(self.queue, (time_s if time_s > self.now else self.now, PRIORITY, self.sequence, function))

    def wake_at(self, time_s: float, timer: Timer) -> None:
        """Fire `timer` once at that time, at once if it has passed."""
        self.sequence += 1
        heappush(self.queue, (time_s if time_s > self.now else self.now, PRIORITY, self.sequence, timer))

    def finish(self) -> None:
        """End the run after the present call."""
        self._finished = True

    def run_calls(self) -> None:
        """Run until `finish` is called or nothing is left to do."""
        queue = self.queue
        while queue and not self._finished:
            self.now, _, _, item = heappop(queue)
            self.calls += 1
            if isinstance(item, Timer):
                item.fire()
            elif isinstance(item, Event):
                _run_event(item)
            else:
                item()  # type: ignore[operator]  # a function of `call_at`


@mypyc_attr(native_class=False)
class SharedEnvironment(Environment):
    """SimPy's environment on the clock and the queue of an engine, which runs it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        super().__init__()
        self._queue = engine.queue  # type: ignore[assignment]

    @property
    def now(self) -> SimTime:
        """Seconds since the start of the run."""
        return self.engine.now

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: SimTime = 0) -> None:
        """Put an event into the engine's queue."""
        self.engine.sequence += 1
        heappush(self.engine.queue, (self.engine.now + delay, int(priority), self.engine.sequence, event))


def _run_event(event: Event) -> None:
    """What SimPy's `step` does with an event."""
    callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]  # SimPy marks it as processed so
    for callback in callbacks:
        callback(event)
    if not event._ok and not hasattr(event, "_defused"):
        raise event._value
