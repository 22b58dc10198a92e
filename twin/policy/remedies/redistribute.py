"""Ask less of a node."""

from __future__ import annotations

from typing import Final

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy

SHIFTED_S: Final = 120.0
"""How long the others are preferred, less and less."""


class Redistribute(Remedy):
    """The node is chosen after the others, and little by little as any other: it cools, and less of it would be lost."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="redistribute",
                action="shift",
                what="prefer the other nodes for two minutes, less and less",
                mends={"overheating": Prior(0.4)},
                hard=False,
                drains=False,
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Moving load is allowed."""
        return parameters.redistribution

    def model(self, case: Case) -> str | None:
        """The whole node, where it is not preferred last already and somebody else could serve."""
        if case.node.rising:
            return None
        for name, replica in case.node.replicas.items():
            if replica.resident and any(other.node is not case.node for other in case.view.serving_replicas(name)):
                return ""
        return None

    def takes_s(self, case: Case) -> float:
        """At once."""
        return 0.0

    def cost(self, case: Case) -> float:
        """The others are busier: a request waits a little longer, none is lost."""
        return 0.1 * case.rate_rps
