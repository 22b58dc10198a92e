"""Kill the runner processes of a node whose server is well."""

from __future__ import annotations

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy


class KillRunner(Remedy):
    """Quicker than a restart, and less: the server loads the models again when they are asked for."""

    def __init__(self) -> None:
        super().__init__(
            About(
                name="kill_runner",
                action="kill_runner",
                what="kill the node's runner processes; its server loads the models again",
                mends={
                    "runner_hung": Prior(0.7, "assumption: not where it hangs in the kernel (issues 7779, 14364)"),
                    "runner_failing": Prior(0.5),
                    "crash_loop": Prior(0.2),
                    "slow": Prior(0.3),
                    "orphan_runner": Prior(
                        0.9, "ollama/ollama issue 5642: nothing but its end gives back what an orphan holds"
                    ),
                },
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Where somebody can, and may."""
        return parameters.kill_runner

    def model(self, case: Case) -> str | None:
        """The whole node, where it has a runner as far as is known. One that hangs or is an orphan may be in no list."""
        unseen = case.ailment in ("runner_failing", "crash_loop")
        return None if unseen and not any(it.resident for it in case.node.replicas.values()) else ""

    def takes_s(self, case: Case) -> float:
        """A load."""
        return 1.0 + case.load_s
