"""Every admitted request ends exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.flight import Flight
    from twin.sim.simulation import Simulation


class EndsOnce(Checker):
    """Keeps its own list of who is there."""

    name = "admitted_request_ends_once"

    def __init__(self) -> None:
        super().__init__()
        self.present: set[int] = set()

    def on_admitted(self, now: float, flight: Flight) -> None:
        """Note it."""
        if flight.spec.request_id in self.present:
            self.violated(now, f"request {flight.spec.request_id} was admitted twice")
        self.present.add(flight.spec.request_id)

    def on_request_end(self, now: float, flight: Flight, outcome: str) -> None:
        """Strike it off."""
        try:
            self.present.remove(flight.spec.request_id)
        except KeyError:
            self.violated(now, f"request {flight.spec.request_id} ended ({outcome}) without being there")

    def at_end(self, now: float, simulation: Simulation) -> None:
        """Nobody may be left."""
        for request_id in sorted(self.present):
            self.violated(now, f"request {request_id} never ended")
