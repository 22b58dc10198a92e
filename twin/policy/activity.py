"""Busy is not dead: whether a node's GPU works while nothing comes from it.

Somebody else's requests may have taken every slot of a node (ollama/ollama issue 7758: what queues inside it is not bounded
and not shown). Its server answers, its runner works, and a token for us comes after them. From outside that looks like a
runner that hangs. A machine that is read tells the two apart: a runner that hangs leaves its GPU idle. (One that spins does
not: so the belief that a node is crowded ends after `CROWDED_MAX_S`.)
"""

from __future__ import annotations

from typing import Final

from twin.policy.views import ClusterView, NodeView
from twin.policy.vocabulary import NEVER_S, TelemetrySample

CROWDED_UTILISATION: Final = 0.9
"""Mean over a sampling period from which on the GPU has worked all the time."""

FRESH_S: Final = 15.0
"""A sample older than this says nothing of now (agents are asked every 5 s unless the operator says otherwise)."""

CROWDED_MAX_S: Final = 1800.0
"""Assumption: a node that gives us nothing for half an hour is repaired, however busy it seems."""


class Activity:
    """The last that was read of each node's GPU."""

    def __init__(self, view: ClusterView) -> None:
        self.utilisation: dict[str, float] = {}
        self.sampled_s: dict[str, float] = {}
        self.crowded_since_s: dict[str, float] = {}
        self.expected: set[str] = set()  # nodes of which samples with a GPU have come
        self.view = view

    def sampled(self, now: float, sample: TelemetrySample) -> None:
        """Take in a sample."""
        utilisation = sample.values.get("gpu_utilisation")
        if utilisation is None:
            self.expected.discard(sample.node)  # nobody can read it (any more)
            return
        self.expected.add(sample.node)
        self.utilisation[sample.node] = utilisation
        self.sampled_s[sample.node] = now
        if utilisation < CROWDED_UTILISATION:
            self.crowded_since_s.pop(sample.node, None)

    def crowded(self, now: float, node: NodeView) -> bool:
        """Whether its GPU has worked without a pause since the node gave something last."""
        sampled_s = self.sampled_s.get(node.name, -NEVER_S)
        if now - sampled_s > FRESH_S or sampled_s <= node.last_passed_s:
            return False
        if self.utilisation[node.name] < CROWDED_UTILISATION:
            return False
        return now - self.crowded_since_s.setdefault(node.name, now) < CROWDED_MAX_S

    def may_tell(self, now: float, node: NodeView, since_s: float) -> bool:
        """Whether a sample that says which of the two it is may still come."""
        sampled_s = self.sampled_s.get(node.name, -NEVER_S)
        return node.name in self.expected and sampled_s < since_s and now - since_s < FRESH_S / 2.0

    def forget(self, node: str) -> None:
        """After a restart."""
        self.crowded_since_s.pop(node, None)
        self.sampled_s.pop(node, None)
