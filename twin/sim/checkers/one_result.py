"""Every action gets exactly one result, by its deadline: none goes unanswered, none is answered twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.policy.vocabulary import Action, ActionResult
from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class OneResult(Checker):
    """Follows actions by gateway and id. Those that are only advised get a result as all others do."""

    name = "every_action_gets_one_result"

    def __init__(self) -> None:
        super().__init__()
        self.ordered: dict[tuple[str, int], Action] = {}
        self.results: set[tuple[str, int]] = set()

    def on_action(self, now: float, action: Action, simulation: Simulation, gateway: str) -> None:
        """From now on a result is due."""
        key = (gateway, action.action_id)
        if key in self.ordered:
            self.violated(now, f"action {action.action_id} of {gateway} was ordered twice")
        self.ordered[key] = action

    def on_action_result(self, now: float, result: ActionResult, gateway: str) -> None:
        """The first one, and of the action that was ordered. What is refused for want of the lease was never ordered."""
        key = (gateway, result.action_id)
        what = f"action {result.action_id} ({result.kind}) of {gateway}"
        if key in self.results:
            self.violated(now, f"{what} got a second result: {result.status}")
        self.results.add(key)
        action = self.ordered.get(key)
        if action is None:
            if result.status != "no_lease":
                self.violated(now, f"{what} is {result.status}, and was not ordered")
        elif (action.kind, action.node) != (result.kind, result.node):
            self.violated(now, f"{what} on {result.node} was ordered as a {action.kind} on {action.node}")
        elif now > action.deadline_s:
            self.violated(now, f"{what} got its result after its deadline")

    def at_end(self, now: float, simulation: Simulation) -> None:
        """None is overdue."""
        for (gateway, number), action in self.ordered.items():
            if (gateway, number) not in self.results and action.deadline_s < now:
                self.violated(now, f"action {number} ({action.kind}) of {gateway} got no result")
