"""A dead node serves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.flight import Flight
    from twin.sim.simulation import Simulation


class DeadNode(Checker):
    """A terminal record comes only from a live server that was there when the attempt began."""

    name = "no_work_on_a_dead_node"

    def on_served(self, now: float, flight: Flight, simulation: Simulation) -> None:
        """Compare with the truth."""
        node = simulation.nodes[flight.node]
        if not node.alive or node.started_s > flight.started_s:
            self.violated(now, f"request {flight.spec.request_id} was served by {flight.node}, which had died")
