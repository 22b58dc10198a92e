"""The simulation engine: SimPy's queue and order, used through callbacks.

A process (generator) for each request costs six times as much as a callback, so nothing here is a process; and a callback
needs no event object of its own, so a function, or a `Timer`, stands in the queue as it is. Nothing is cancelled: who no
longer wants a call ignores it when it comes. SimPy's own processes and events (`Engine.environment`) run beside the calls,
in the one order of (time, priority, sequence).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

from mypy_extensions import mypyc_attr
from simpy import Environment
from simpy.core import SimTime
from simpy.events import NORMAL, Event, EventPriority

from twin.policy.vocabulary import NEVER_S

PRIORITY: Final = int(NORMAL)

FAR_S: Final = 1e9
FAR_BUCKET: Final = 1 << 60
"""What is later than `FAR_S`, if it ever comes, is in one bucket after all others."""

Call: TypeAlias = tuple[float, int, int, object]
"""When, priority, sequence, and what: a timer, a function or a SimPy event."""


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
    """Simulated time. Simultaneous calls run in the order in which they were asked for.

    `bucket_s`: the width of a bucket, a power of two, so that which bucket a time is in is exact. It is a matter of speed
    alone; about ten calls a bucket are best.
    """

    def __init__(self, bucket_s: float = 0.25) -> None:
        if math.frexp(bucket_s)[0] != 0.5:  # the mantissa of every power of two
            raise ValueError(f"the width of a bucket must be a power of two, not {bucket_s}")
        self.now = 0.0
        self.calls = 0  # made so far
        self._sequence = 0
        self._due: list[Call] = []  # a heap: all that is to be done before `_edge_s`
        self._edge_s = 0.0
        self._later: dict[int, list[Call]] = {}  # by number of the bucket
        self._numbers: list[int] = []  # a heap of these
        self._bucket_s = bucket_s
        self._finished = False

    def environment(self) -> Environment:
        """A SimPy environment on this clock and queue, for processes that run beside the calls."""
        return SharedEnvironment(self)

    def time(self) -> float:
        """Seconds since the start of the run."""
        return self.now

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time, at once if it has passed."""
        self.put(time_s, PRIORITY, function)

    def wake_at(self, time_s: float, timer: Timer) -> None:
        """Fire `timer` once at that time, at once if it has passed."""
        self.put(time_s, PRIORITY, timer)

    def put(self, time_s: float, priority: int, item: object) -> None:
        """Queue a timer, a function or a SimPy event."""
        time_s = max(time_s, self.now)
        self._sequence += 1
        if time_s < self._edge_s:
            heappush(self._due, (time_s, priority, self._sequence, item))
            return
        number = int(time_s / self._bucket_s) if time_s < FAR_S else FAR_BUCKET
        bucket = self._later.get(number)
        if bucket is None:
            self._later[number] = [(time_s, priority, self._sequence, item)]
            heappush(self._numbers, number)
        else:
            bucket.append((time_s, priority, self._sequence, item))

    def finish(self) -> None:
        """End the run after the present call."""
        self._finished = True

    def run_calls(self) -> None:
        """Run until `finish` is called or nothing is left to do."""
        while not self._finished:
            due = self._due
            if not due:
                if not self._numbers:
                    return
                number = heappop(self._numbers)
                due = self._due = self._later.pop(number)
                heapify(due)
                self._edge_s = (number + 1) * self._bucket_s if number < FAR_BUCKET else NEVER_S
            self.now, _, _, item = heappop(due)
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

    @property
    def now(self) -> SimTime:
        """Seconds since the start of the run."""
        return self.engine.now

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: SimTime = 0) -> None:
        """Put an event into the engine's queue."""
        self.engine.put(self.engine.now + delay, int(priority), event)


def _run_event(event: Event) -> None:
    """What SimPy's `step` does with an event."""
    callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]  # SimPy marks it as processed so
    for callback in callbacks:
        callback(event)
    if not event._ok and not hasattr(event, "_defused"):
        raise event._value
