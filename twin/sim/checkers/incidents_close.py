"""Once the faults are over, no incident stays open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class IncidentsClose(Checker):
    """Looks at the end."""

    name = "no_incident_stays_open"
    needs_settling = True

    def at_end(self, now: float, simulation: Simulation) -> None:
        """All are verified and closed."""
        if simulation.aborted:
            return
        for gateway in simulation.gateways:
            for incident in gateway.policy.incidents:
                if incident.state != "closed":
                    self.violated(now, f"incident {incident.incident_id} on {incident.node} is {incident.state}")
