"""Once the load and the faults are over, nothing is left at the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class NodeQueuesEmpty(Checker):
    """Looks at the end; the queue at the gateway has a checker of its own."""

    name = "node_queues_empty_after_settling"
    needs_settling = True

    def at_end(self, now: float, simulation: Simulation) -> None:
        """Neither at the loader nor at a runner."""
        if simulation.aborted:
            return
        for name, node in simulation.nodes.items():
            waiting = len(node.pending) + sum(len(runner.queue) for runner in node.runners.values())
            if waiting:
                self.violated(now, f"{waiting} jobs still wait on {name}")
