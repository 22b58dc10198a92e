"""Set a node aside for a while."""

from __future__ import annotations

from typing import Final

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy

REST_S: Final = 120.0
"""Assumption: a GPU has cooled down after two minutes without work."""


class Rest(Remedy):
    """Drained and left alone until it has cooled down; then proved, and returned."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="rest",
                action="drain",
                what="drain the node for two minutes, prove it with a generation, return it",
                mends={
                    "slow": Prior(
                        0.3, "assumption: what heat has slowed (issues 7717, 7740) is fast again when it is cool"
                    ),
                    "overheating": Prior(0.5),
                },
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Moving load is allowed."""
        return parameters.redistribution

    def takes_s(self, case: Case) -> float:
        """Its rest."""
        return REST_S
