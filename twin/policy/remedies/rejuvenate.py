"""Restart a node before it fails, at a time that suits."""

from __future__ import annotations

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy


class Rejuvenate(Remedy):
    """A planned restart: drained first, and at a time of low load where the failure leaves time for that."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="rejuvenate",
                action="restart",
                what="drain the node and restart its service before it fails, when little is asked of it",
                mends={
                    "gpu_memory": Prior(0.8, "ollama/ollama issue 10597: what the server leaked goes with it"),
                    "host_memory": Prior(0.8, "assumption; the leak of ollama/ollama issue 9685 goes with its process"),
                    "scheduler_stuck": Prior(0.9, "ollama/ollama issue 17408"),
                    "runner_failure": Prior(0.6),
                    "server_failure": Prior(0.5),
                    "gpu_fault": Prior(0.2),
                    "overheating": Prior(0.1),
                },
                patient=True,
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """It is a restart."""
        return parameters.restart

    def takes_s(self, case: Case) -> float:
        """The restart, and a load."""
        return case.restart_s + case.load_s
