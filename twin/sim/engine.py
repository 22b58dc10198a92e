"""The simulation engine: SimPy's environment, used through callbacks.

A process (generator) for each request costs six times as much as a callback on an event, so nothing here is a process.
Nothing is cancelled either: who no longer wants a call ignores it when it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from simpy import Environment
from simpy.events import Event


class Clock(Protocol):
    """What the node model needs of time, simulated or real."""

    @property
    def now(self) -> float:
        """Seconds."""

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time (at once, but not from within this call, if it has passed)."""


class _Call(Event):
    """A SimPy event that is scheduled as it is made, and calls one function."""

    def __init__(self, environment: Environment, function: Callable[[], None]) -> None:
        self.env = environment
        self.callbacks = [self._run]
        self._ok = True
        self._value = None
        self._function = function

    def _run(self, _event: Any) -> None:
        self._function()


class Engine:
    """Simulated time. Simultaneous calls run in the order in which they were asked for."""

    def __init__(self) -> None:
        self._environment = Environment()
        self._finished = self._environment.event()
        self.calls = 0

    @property
    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._environment.now

    def call_at(self, time_s: float, function: Callable[[], None]) -> None:
        """Call `function` once at that time, at once if it has passed."""
        environment = self._environment
        delay_s = time_s - environment.now
        self.calls += 1
        environment.schedule(_Call(environment, function), delay=delay_s if delay_s > 0.0 else 0.0)

    def finish(self) -> None:
        """End the run after the present call."""
        if not self._finished.triggered:
            self._finished.succeed()

    def run(self) -> None:
        """Run until `finish` is called."""
        self._environment.run(self._finished)
