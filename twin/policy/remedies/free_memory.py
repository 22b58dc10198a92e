"""Make room on a node whose GPU memory runs short."""

from __future__ import annotations

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy


class FreeMemory(Remedy):
    """Unload a model that is idle on the node and served elsewhere as often as is wanted."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="free_memory",
                action="unload",
                what="unload a model that nobody uses on the node and others serve",
                mends={
                    "gpu_memory": Prior(0.5),
                    "host_memory": Prior(0.3),
                    "runner_failing": Prior(0.6, "assumption, where GPU memory is short"),
                },
                hard=False,
                drains=False,
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Reallocating what a node has is allowed."""
        return parameters.reallocation

    def model(self, case: Case) -> str | None:
        """The largest of those."""
        if case.ailment == "runner_failing" and not any(map(case.memory_is_short, case.node.replicas.values())):
            return None  # memory is not what it fails for, or nobody knows
        best: str | None = None
        best_gib = 0.0
        for name, replica in case.node.replicas.items():
            if not replica.resident or replica.in_flight or replica.model.memory_gib <= best_gib:
                continue
            others = sum(other.node is not case.node for other in case.view.serving_replicas(name))
            if others >= replica.model.replicas:
                best, best_gib = name, replica.model.memory_gib
        return best

    def takes_s(self, case: Case) -> float:
        """A moment."""
        return 1.0

    def cost(self, case: Case) -> float:
        """Nobody uses it."""
        return 0.0
