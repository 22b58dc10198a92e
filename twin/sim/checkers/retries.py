"""Further attempts are bounded, per request and in all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.flight import Flight
    from twin.sim.simulation import Simulation

ROUNDING: Final = 1e-6
"""Of a budget that is added up in small shares."""


PAY_NOTHING: Final = frozenset({"aborted", "client_error"})
"""What the policy broke off itself is moved, not retried; and one other node is asked whether a request is really wrong,
which costs a millisecond and must not let clients that ask nonsense use up the budget."""


class Retries(Checker):
    """Counts by itself what the retry budget allows."""

    name = "retries_within_budget"

    def __init__(self) -> None:
        super().__init__()
        self.admitted: dict[str, int] = {}  # by gateway: each has a budget of its own
        self.retries: dict[str, int] = {}
        self.moved: dict[int, int] = {}  # by request: attempts that the policy broke off

    def on_admitted(self, now: float, flight: Flight) -> None:
        """One more, whether it goes at once or waits."""
        self.admitted[flight.gateway] = self.admitted.get(flight.gateway, 0) + 1

    def on_dispatch(self, now: float, flight: Flight, simulation: Simulation) -> None:
        """A further attempt."""
        if not flight.attempt:
            return
        retry = simulation.parameters.retry
        request = flight.spec.request_id
        if flight.error == "aborted":
            self.moved[request] = self.moved.get(request, 0) + 1
        allowed = retry.attempts_max + self.moved.get(request, 0)
        if flight.attempt > allowed:
            self.violated(now, f"attempt {flight.attempt} of request {request}: {allowed} allowed")
        if flight.error not in PAY_NOTHING:
            retries = self.retries[flight.gateway] = self.retries.get(flight.gateway, 0) + 1
            admitted = self.admitted.get(flight.gateway, 0)
            if retries > retry.budget_reserve + retry.budget_ratio * admitted + ROUNDING:
                self.violated(now, f"{retries} retries for {admitted} requests")
