"""Let a model go, and load it anew."""

from __future__ import annotations

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy


class Reload(Remedy):
    """What Ollama's own API can do about a runner: it works where nobody can touch the node's processes."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="reload",
                action="unload",
                what="let a failing model go; the generation that verifies the node loads it anew",
                mends={
                    "runner_hung": Prior(0.4, "assumption: a server that waits for a hung runner does not end it"),
                    "runner_failing": Prior(0.5),
                    "crash_loop": Prior(0.2),
                    "runner_failure": Prior(
                        0.4, "assumption; seen to help for a while on real nodes that hang after a count"
                    ),
                },
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Reallocating what a node has is allowed."""
        return parameters.reallocation

    def model(self, case: Case) -> str | None:
        """The one that failed most, of those that are loaded."""
        worst: str | None = None
        failures = -1
        for name, replica in case.node.replicas.items():
            if (replica.resident or replica.failures_in_row) and replica.failures_in_row > failures:
                worst, failures = name, replica.failures_in_row
        return worst

    def takes_s(self, case: Case) -> float:
        """A load, after a moment for the old one to go."""
        return 2.0 + case.load_s
