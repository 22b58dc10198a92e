"""Load a model again with a shorter context, so that it takes less memory."""

from __future__ import annotations

from typing import Final

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy

LEAST_CONTEXT_TOKENS: Final = 2048
"""Ollama's own least default, of its versions before 0.6; less serves nobody."""


def lowered(context_tokens: int) -> int:
    """The next shorter context."""
    return max(LEAST_CONTEXT_TOKENS, context_tokens // 2)


class LowerContext(Remedy):
    """Half of the context: the KV cache halves with it, and what is left over is room for the batch and for others.

    Requests go there with that `num_ctx`, and those that would not fit go elsewhere, until the model is let go or the node
    is restarted.
    """

    def __init__(self) -> None:
        super().__init__(
            About(
                name="lower_context",
                action="load",
                what="load a model again with half of its context, where GPU memory is short",
                mends={
                    "runner_failing": Prior(
                        0.85, "ollama/ollama issues 8271, 11997: it runs out of memory, and needs less of it"
                    ),
                    "crash_loop": Prior(0.75),
                    "load_failing": Prior(
                        0.7, "ollama/ollama issues 8271, 4775, 9782: what is free is less than it needs"
                    ),
                    "gpu_memory": Prior(0.6),
                },
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Reallocating what a node has is allowed."""
        return parameters.reallocation and parameters.context_min_tokens > 0

    def model(self, case: Case) -> str | None:
        """The largest whose context is known and can be shortened, where the machine says that its GPU memory is short."""
        least = max(LEAST_CONTEXT_TOKENS, case.view.parameters.healer.context_min_tokens)
        best: str | None = None
        best_gib = 0.0
        placed = case.view.placement.get(case.node.name, ())
        for name, replica in case.node.replicas.items():
            here = replica.resident or replica.failures_in_row or replica.loads_failed or name in placed
            context_tokens = replica.context_tokens or replica.model.context_tokens
            if not case.memory_is_short(replica):  # or nobody knows
                continue
            can = context_tokens > lowered(context_tokens) >= least
            if here and can and replica.model.memory_gib > best_gib:
                best, best_gib = name, replica.model.memory_gib
        return best

    def takes_s(self, case: Case) -> float:
        """A load."""
        return case.load_s
