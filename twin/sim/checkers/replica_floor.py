"""A repair leaves enough serving replicas of every model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.policy.vocabulary import Action
from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class ReplicaFloor(Checker):
    """Compares each restart of a node that could have served with who else truly can."""

    name = "replica_floor"

    def on_action(self, now: float, action: Action, simulation: Simulation, gateway: str) -> None:
        """Only working nodes can be taken away."""
        if action.advice or action.kind not in ("restart", "kill_runner") or not simulation.works(action.node):
            return
        floor = simulation.parameters.healer.replicas_min
        for model in simulation.nodes[action.node].resident():
            known = simulation.scenario.cluster.models.get(model)
            if known is None or not known.replicas:
                continue
            others = sum(
                model in node.resident() and simulation.works(node.name)
                for node in simulation.nodes.values()
                if node.name != action.node
            )
            if others < floor:
                self.violated(now, f"restarting {action.node} leaves {others} replicas of {model}")
