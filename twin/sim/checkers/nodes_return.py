"""Once the faults are over, every node comes back: it works, and the policies send it traffic again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class NodesReturn(Checker):
    """Looks at the end, at the truth and at what each policy takes the node for."""

    name = "every_node_is_back"
    needs_settling = True

    def at_end(self, now: float, simulation: Simulation) -> None:
        """Nobody is missing."""
        if simulation.aborted:
            return
        for name, node in simulation.nodes.items():
            if not simulation.works(name):
                self.violated(now, f"{name} cannot generate")
            elif node.loader_stuck:
                self.violated(now, f"{name} can load nothing")
            for gateway in simulation.gateways:
                path = gateway.paths[name]
                if not path.requests_pass or not path.answers_pass or path.refuses:
                    self.violated(now, f"{gateway.name} cannot reach {name}")
                health = gateway.policy.snapshot().parts["nodes"][name]["health"]
                if health != "serving":
                    self.violated(now, f"{gateway.name} takes {name} for {health}")
