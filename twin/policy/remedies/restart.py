"""Restart the service of a node that fails."""

from __future__ import annotations

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy


class Restart(Remedy):
    """A new server process: what lived in the old one is gone, and what it had loaded is loaded again."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="restart",
                action="restart",
                what="restart the node's Ollama service",
                mends={
                    "server_down": Prior(0.9),
                    "unreachable": Prior(0.2, "assumption: a restart does not mend a network"),
                    "runner_hung": Prior(0.9),
                    "runner_failing": Prior(0.8),
                    "crash_loop": Prior(0.7),
                    "load_path_stuck": Prior(
                        0.95, "ollama/ollama issue 17408: only a new server process frees the loader"
                    ),
                    "without_gpu": Prior(0.4, "ollama/ollama issues 8594, 10257: a new process may find the GPU again"),
                    "slow": Prior(0.6, "assumption: decay goes with the process (issues 7717, 7740), heat does not"),
                },
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Where somebody can, and may."""
        return parameters.restart

    def model(self, case: Case) -> str | None:
        """The whole node. Where another program holds the memory of its GPU, or the GPU is gone, a second new process finds
        no more than the first."""
        if self.name in case.tried:
            taken = case.ailment in ("runner_failing", "crash_loop")
            if case.ailment == "without_gpu" or (taken and any(map(case.memory_is_short, case.node.replicas.values()))):
                return None
        return ""

    def takes_s(self, case: Case) -> float:
        """The restart, and a load."""
        return case.restart_s + case.load_s
