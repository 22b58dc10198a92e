"""Once the faults are over, a policy that keeps replicas has brought every one of them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class ReplicasReturn(Checker):
    """Counts the nodes that truly have a model, at the end."""

    name = "every_replica_is_back"
    needs_settling = True

    def at_end(self, now: float, simulation: Simulation) -> None:
        """As many as the scenario says, where the policy keeps them and no idle model is let go by itself."""
        scenario = simulation.scenario
        keeps = simulation.parameters.redundancy.enabled and scenario.cluster.keep_alive_s is None
        if simulation.aborted or not keeps:
            return
        for model, wanted in scenario.cluster.models.items():
            found = sum(model in node.resident() for node in simulation.nodes.values())
            if found < wanted.replicas:
                self.violated(now, f"{found} replicas of {model} where {wanted.replicas} should be")
