"""No gateway has more disruptive actions under way at once than its healer's cap allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.policy.vocabulary import DISRUPTIVE_ACTIONS, OPERATOR_REASON, Action, ActionResult
from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class RepairsAtOnce(Checker):
    """Counts from the order to the result. What an operator orders is not held against the policy."""

    name = "repairs_at_once_within_the_cap"

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[str, dict[int, str]] = {}  # by gateway: action to node

    def on_action(self, now: float, action: Action, simulation: Simulation, gateway: str) -> None:
        """One more."""
        if action.advice or action.kind not in DISRUPTIVE_ACTIONS or action.reason == OPERATOR_REASON:
            return
        running = self.running.setdefault(gateway, {})
        running[action.action_id] = action.node
        cap = simulation.parameters.healer.concurrent_max
        if len(running) > cap:
            nodes = ", ".join(running.values())
            self.violated(now, f"{gateway} disturbs {nodes} at once: {cap} allowed")

    def on_action_result(self, now: float, result: ActionResult, gateway: str) -> None:
        """One less."""
        self.running.get(gateway, {}).pop(result.action_id, None)
