"""Time never runs backwards, and nothing ends before it began."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.flight import Flight


class MonotonicClock(Checker):
    """Looks at each end of a request."""

    name = "clock_is_monotonic"

    def __init__(self) -> None:
        super().__init__()
        self.last_s = 0.0

    def on_request_end(self, now: float, flight: Flight, outcome: str) -> None:
        """Later than the last, and after its own arrival."""
        if now < self.last_s or now < flight.spec.arrival_s:
            self.violated(now, f"request {flight.spec.request_id} ended in the past")
        self.last_s = now
