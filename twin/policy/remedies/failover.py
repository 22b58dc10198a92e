"""Have a standby ready before a node fails."""

from __future__ import annotations

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy
from twin.policy.views import NodeView

CLASSES = (
    "gpu_memory",
    "host_memory",
    "overheating",
    "gpu_fault",
    "scheduler_stuck",
    "disk_full",
    "runner_failure",
    "server_failure",
)


class Failover(Remedy):
    """Load on another node what this one has, before it fails; the redundancy part does it, and unloads it again."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="failover",
                action="load",
                what="load the node's models on others that have room, so that its failure costs less",
                mends={
                    name: Prior(0.3, "assumption: the share of the harm that a warm standby takes away")
                    for name in CLASSES
                },
                hard=False,
                drains=False,
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Failing over is allowed."""
        return parameters.failover

    def has_hand(self, node: NodeView) -> bool:
        """Nothing is done to the node itself; `model` asks who can load elsewhere."""
        return True

    def model(self, case: Case) -> str | None:
        """The wanted model for which the others lack most, where somebody has room for it."""
        for name, replica in case.node.replicas.items():
            if not replica.resident or not replica.model.replicas:
                continue
            others = sum(other.node is not case.node for other in case.view.serving_replicas(name))
            if others < replica.model.replicas and self._room(case, name):
                return name
        return None

    def _room(self, case: Case, model: str) -> bool:
        for node in case.view.nodes.values():
            replica = node.replicas[model]
            free = node is not case.node and node.health == "serving" and replica.stored and "load" in node.hands
            if free and not replica.resident and node.free_gib() >= replica.model.memory_gib:
                return True
        return False

    def takes_s(self, case: Case) -> float:
        """A load."""
        return case.load_s

    def cost(self, case: Case) -> float:
        """Nothing is taken from anybody; the load competes a little with what runs there."""
        return 0.1 * case.rate_rps
