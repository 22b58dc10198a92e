"""A dead node serves nothing."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.flight import Flight
    from twin.sim.simulation import Simulation


class DeadNode(Checker):
    """A terminal record is written only by the server process that took the request on. When that process dies, a request
    that a lossy network still carries may reach the next one, and an answer may be under way."""

    name = "no_work_on_a_dead_node"

    def on_served(self, now: float, flight: Flight, simulation: Simulation) -> None:
        """Compare with the truth."""
        node = simulation.nodes[flight.node]
        deaths_s = node.deaths_s
        if not deaths_s:
            return
        reached_s = flight.reached_s
        before = bisect_left(deaths_s, flight.served_s)  # a node of a long run has died often
        died_meanwhile = before > 0 and deaths_s[before - 1] > reached_s
        if died_meanwhile or (not node.alive and reached_s >= deaths_s[-1]):
            self.violated(now, f"request {flight.spec.request_id} was served by {flight.node}, which had died")
