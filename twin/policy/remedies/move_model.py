"""Move a model off a node that gets into trouble."""

from __future__ import annotations

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy


class MoveModel(Remedy):
    """Unload the largest of several models, after it is loaded elsewhere; the node goes on with the others."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="move_model",
                action="unload",
                what="unload the largest of the node's models, which others have loaded by then",
                mends={
                    "gpu_memory": Prior(0.4),
                    "host_memory": Prior(0.3),
                    "overheating": Prior(0.2),
                },
                drains=False,
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Reallocating what a node has is allowed."""
        return parameters.reallocation

    def model(self, case: Case) -> str | None:
        """The largest, where it has several and enough others serve it (the healer has it loaded there before)."""
        loaded = [replica for replica in case.node.replicas.values() if replica.resident]
        if len(loaded) < 2:
            return None
        for replica in sorted(loaded, key=lambda it: (-it.model.memory_gib, it.model.name)):
            others = sum(other.node is not case.node for other in case.view.serving_replicas(replica.model.name))
            if others >= max(1, replica.model.replicas):
                return replica.model.name
        return None

    def takes_s(self, case: Case) -> float:
        """Ollama lets a model go when its last request has ended."""
        return 5.0

    def cost(self, case: Case) -> float:
        """The node serves the others meanwhile."""
        loaded = sum(replica.resident for replica in case.node.replicas.values())
        return case.rate_rps * self.takes_s(case) / max(1, loaded)
