"""The queue at the gateway empties when the load ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class QueueEmpties(Checker):
    """Looks at the end."""

    name = "queue_empties_at_the_end"

    def at_end(self, now: float, simulation: Simulation) -> None:
        """Nobody waits."""
        if simulation.waiting():
            self.violated(now, f"{simulation.waiting()} requests still wait in the policy")
