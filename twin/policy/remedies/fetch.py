"""Have a node fetch a model's files anew."""

from __future__ import annotations

from typing import Final

from twin.policy.parameters import HealerParameters
from twin.policy.remedies.base import About, Case, Prior, Remedy

FETCH_GIB_PER_S: Final = 0.1
"""Assumption: a line of nearly 1 Gbit/s to the registry. What a model takes when it is loaded stands for its size."""

PATIENCE: Final = 3.0
"""An order may take so many times what is expected."""


class Fetch(Remedy):
    """For a model that a server refuses at once: its files are cut short, gone, or of another version's format.

    Nothing but the same files helps, whoever restarts what. A load that dies half way is another matter: it had read them.
    """

    def __init__(self) -> None:
        super().__init__(
            About(
                name="fetch",
                action="pull",
                what="have the node fetch a model anew that its server refuses at once",
                mends={
                    "runner_failing": Prior(
                        0.7, "assumption, where it is refused at once; a restart is quicker to try (issues 941, 9846)"
                    ),
                    "load_failing": Prior(0.7, "assumption, where it is refused at once"),
                    "crash_loop": Prior(0.3),
                },
                drains=False,
            )
        )

    def allowed(self, parameters: HealerParameters) -> bool:
        """Fetching models is allowed."""
        return parameters.fetch

    def model(self, case: Case) -> str | None:
        """Of those that are refused at once (and not because GPU memory is short, as far as that is known) the one that was
        not fetched for longest, the largest of several."""
        here = [it for it in case.node.replicas.values() if it.refused and it.stored and not it.resident]
        refused = [it for it in here if not case.memory_is_short(it)]
        if not refused:
            return None
        return min(refused, key=lambda it: (it.fetched_s, -it.model.memory_gib, it.model.name)).model.name

    def takes_s(self, case: Case) -> float:
        """The download, and a load."""
        model = self.model(case)
        size_gib = case.node.replicas[model].model.memory_gib if model else 0.0
        return size_gib / FETCH_GIB_PER_S + case.load_s

    def timeout_s(self, takes_s: float, parameters: HealerParameters) -> float:
        """A download takes its time."""
        return max(parameters.action_timeout_s, PATIENCE * takes_s)
