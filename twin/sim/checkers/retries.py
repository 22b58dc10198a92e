"""Further attempts are bounded, per request and in all."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.flight import Flight
    from twin.sim.simulation import Simulation

ROUNDING: Final = 1e-6
"""Of a budget that is added up in small shares."""


class Retries(Checker):
    """Counts by itself what the retry budget allows."""

    name = "retries_within_budget"

    def __init__(self) -> None:
        super().__init__()
        self.admitted: Counter[str] = Counter()  # by gateway: each has a budget of its own
        self.retries: Counter[str] = Counter()

    def on_admitted(self, now: float, flight: Flight) -> None:
        """One more, whether it goes at once or waits."""
        self.admitted[flight.gateway] += 1

    def on_dispatch(self, now: float, flight: Flight, simulation: Simulation) -> None:
        """Attempts that the policy broke off itself are moved, not retried."""
        if not flight.attempt:
            return
        retry = simulation.parameters.retry
        if flight.attempt > retry.attempts_max:
            self.violated(
                now, f"attempt {flight.attempt} of request {flight.spec.request_id}: {retry.attempts_max} allowed"
            )
        if flight.error != "aborted":
            self.retries[flight.gateway] += 1
            retries, admitted = self.retries[flight.gateway], self.admitted[flight.gateway]
            if retries > retry.budget_reserve + retry.budget_ratio * admitted + ROUNDING:
                self.violated(now, f"{retries} retries for {admitted} requests")
