"""No dispatch to a node that the gateway's own policy has drained or is restarting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.policy.vocabulary import Action
from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.flight import Flight
    from twin.sim.simulation import Simulation


class DrainedNode(Checker):
    """Follows the policy's own orders."""

    name = "no_dispatch_to_a_drained_node"

    def __init__(self) -> None:
        super().__init__()
        self.drained: set[tuple[str, str]] = set()  # gateway and node

    def on_action(self, now: float, action: Action, simulation: Simulation, gateway: str) -> None:
        """A drain begins or ends."""
        if action.advice:
            return
        if action.kind == "drain":
            self.drained.add((gateway, action.node))
        elif action.kind == "return":
            self.drained.discard((gateway, action.node))

    def on_dispatch(self, now: float, flight: Flight, simulation: Simulation) -> None:
        """Nobody may go there."""
        if self.drained and (flight.gateway, flight.node) in self.drained:
            self.violated(now, f"request {flight.spec.request_id} was sent to {flight.node}, which is drained")
