"""Of several gateways only the one that holds the lease disturbs nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.policy.vocabulary import DISRUPTIVE_ACTIONS, Action
from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class Lease(Checker):
    """Keeps its own account: who acted must not have been cut off from the core for longer than a lease, and when the
    actor changes, the one before must have been cut off for at least that long."""

    name = "only_the_lease_holder_disturbs"

    def __init__(self) -> None:
        super().__init__()
        self.last_acted_s: dict[str, float] = {}  # by gateway

    def on_action(self, now: float, action: Action, simulation: Simulation, gateway: str) -> None:
        """Two gateways may not disturb nodes within one lease of each other."""
        cluster = simulation.scenario.cluster
        if action.advice or action.kind not in DISRUPTIVE_ACTIONS or cluster.coordination != "lease":
            return
        for other, acted_s in self.last_acted_s.items():
            if other != gateway and now - acted_s < cluster.lease_s:
                self.violated(now, f"{gateway} disturbs {action.node} {now - acted_s:.1f} s after {other}")
        self.last_acted_s[gateway] = now
