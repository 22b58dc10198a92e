"""How many replicas of which model, where: what was lost is loaded elsewhere."""

from __future__ import annotations

from typing import Final

from twin.policy.healer import Healer
from twin.policy.health import ROUTABLE
from twin.policy.views import ClusterView, NodeView, Replica
from twin.policy.vocabulary import ActionResult, Command

COUNTED: Final = ROUTABLE | {"suspect"}
"""A suspect node's replicas count as there: the suspicion is settled in seconds, a load takes longer."""

LOAD_COOLDOWN_S: Final = 30.0
"""After a load that failed, before the same one is tried again."""


class Redundancy:
    """Keeps each model's number of replicas."""

    def __init__(self, view: ClusterView, healer: Healer) -> None:
        self.view = view
        self.healer = healer
        self.parameters = view.parameters.redundancy
        self.due_s = 0.0
        self.loads: dict[int, Replica] = {}  # running load actions
        self.not_before_s: dict[tuple[str, str], float] = {}

    def decide(self, now: float, commands: list[Command]) -> None:
        """Order the loads that are missing."""
        if not self.parameters.enabled or now < self.due_s:
            return
        self.due_s = now + self.parameters.update_interval_s
        for name, model in self.view.models.items():
            if not model.replicas:
                continue
            here = 0
            for node in self.view.nodes.values():
                replica = node.replicas[name]
                here += (replica.resident or replica.loading) and node.health in COUNTED and not self._will_go(node)
            while here < model.replicas:
                replica_to_load = self._best(now, name)
                if replica_to_load is None:
                    break
                here += 1
                replica_to_load.loading = True
                node = replica_to_load.node
                reason = f"{name} has {here - 1} of {model.replicas} replicas; {node.name} has room for it"
                order = self.healer.action(
                    now, "load", node, name, reason, self.parameters.load_timeout_s, float(model.slots)
                )
                self.loads[order.action_id] = replica_to_load
                commands.append(order)

    def _will_go(self, node: NodeView) -> bool:
        """A node that still serves, but is to be repaired: what it has is needed elsewhere before."""
        work = self.healer.open.get(node.name)
        return work is not None and work.incident.state == "open"

    def _best(self, now: float, model: str) -> Replica | None:
        best: NodeView | None = None
        for node in self.view.nodes.values():
            replica = node.replicas[model]
            if replica.resident or replica.loading or not replica.stored or node.health not in ROUTABLE:
                continue
            if node.name in self.healer.open and node.health != "proving":
                continue
            if node.free_gib() < replica.model.memory_gib or now < self.not_before_s.get((node.name, model), 0.0):
                continue
            if best is None or node.free_gib() > best.free_gib():
                best = node
        return best.replicas[model] if best is not None else None

    def result(self, now: float, result: ActionResult) -> None:
        """The result of a load."""
        replica = self.loads.pop(result.action_id, None)
        if replica is None:
            return
        replica.loading = False
        if result.status == "done":
            replica.resident = True
        else:
            self.not_before_s[(replica.node.name, replica.model.name)] = now + LOAD_COOLDOWN_S
        self.view.replace(replica.node, now)
