"""Telemetry of the simulated nodes, at the scenario's period."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class Sampling:
    """Reads every node once a period, and writes the rows of the table `telemetry`."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._busy_s = dict.fromkeys(simulation.nodes, 0.0)
        self._sampled_s = 0.0

    def sample(self, now: float) -> None:
        """Read every node."""
        simulation = self.simulation
        known = [gateway.policy.snapshot().parts.get("nodes", {}) for gateway in simulation.gateways]
        passed_s = now - self._sampled_s
        waiting = simulation.waiting()
        in_flight = dict.fromkeys(simulation.nodes, 0)
        for flight in simulation.flights():
            if flight.job is not None:
                in_flight[flight.node] += 1
        for name, node in simulation.nodes.items():
            busy_s = node.busy_s()
            used = (busy_s - self._busy_s[name]) / passed_s
            self._busy_s[name] = busy_s
            views = {view.get(name, {}).get("health"): None for view in known}
            health = next(iter(views)) if len(views) == 1 else "/".join(str(view) for view in views)
            simulation.recorder.telemetry.add(
                (now, name, in_flight[name], waiting, node.vram_used_gib(), len(node.runners), used, health)
            )
        self._sampled_s = now
