"""Grey failure: a node that works, but slower than it was, or farther away than its peers.

Decoding is compared with the node's own normal at the same number of concurrent requests (the batch shares the GPU, so
a token's time depends on it); the network with the fleet's median. A slow node is set back in the router's order by
two levels for each doubling, so that it gets less, not nothing.
"""

from __future__ import annotations

import math
from typing import Final

from twin.policy.parameters import SlownessParameters
from twin.policy.views import BATCH_SIZES, ClusterView, NodeView, Pace, Replica
from twin.policy.vocabulary import AttemptEnded

NORMAL_WEIGHT: Final = 0.02
RECENT_WEIGHT: Final = 0.2
LATENCY_WEIGHT: Final = 0.3
FAR_LEVELS: Final = 16
"""Levels that a node with a slow network, or without its GPU, is set back."""


class Slowness:
    """Sets slow nodes back."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.parameters = view.parameters.slowness
        self.enabled: bool = self.parameters.enabled
        self.ratio: float = self.parameters.ratio
        self.samples_min: int = self.parameters.samples_min
        self.ratio_max: float = 2.0 * self.parameters.failing_ratio  # one outlier alone is no failure
        self.latency_floor_s: float = self.parameters.latency_floor_s
        self.paces = {name: node.pace for name, node in view.nodes.items()}
        self.without_gpu: set[str] = set()  # nodes that serve from their processor, as far as is known; the healer's
        self.slow: dict[str, str] = {}  # node to evidence, while it decodes slowly

    def configure(self, parameters: SlownessParameters) -> None:
        """Take other values of what may change while nodes are watched."""
        self.parameters = parameters
        self.ratio_max = 2.0 * parameters.failing_ratio

    def attempt(self, replica: Replica, ended: AttemptEnded) -> None:
        """A request that ended well says how fast its node decodes."""
        if not self.enabled or ended.tokens < 8 or ended.eval_duration_s <= 0.0:
            return
        pace = replica.node.pace
        batch = replica.in_flight + 1
        batch = min(batch, BATCH_SIZES)
        per_token_s = ended.eval_duration_s / ended.tokens
        normal_s = pace.normal_s[batch]
        known = pace.known[batch]
        if known < self.samples_min:
            known += 1
            pace.known[batch] = known
            pace.normal_s[batch] = normal_s + (per_token_s - normal_s) / known
            return
        pace.samples += 1
        ratio = min(per_token_s / normal_s, self.ratio_max)
        pace.ratio += RECENT_WEIGHT * (ratio - pace.ratio)
        if ratio < self.ratio:
            pace.normal_s[batch] = normal_s + NORMAL_WEIGHT * (per_token_s - normal_s)
        if pace.ratio >= self.ratio or replica.node.penalty:
            self._judge(replica.node, pace)

    def idle(self, now: float, node: NodeView) -> None:
        """A generation passed on a node without requests: what was slow is forgotten by and by, or it never got another."""
        if not self.enabled or not node.penalty:
            return
        pace = self.paces[node.name]
        pace.ratio += RECENT_WEIGHT * (1.0 - pace.ratio)
        self._judge(node, pace)
        self.view.replace(node, now)

    def liveness(self, now: float, node: NodeView, latency_s: float) -> None:
        """An answer to a liveness probe says how far a node is."""
        if not self.enabled:
            return
        pace = self.paces[node.name]
        if math.isnan(pace.latency_s):
            pace.latency_s = latency_s
        else:
            pace.latency_s += LATENCY_WEIGHT * (latency_s - pace.latency_s)
        if pace.latency_s > self.latency_floor_s or node.penalty:
            before = node.penalty
            self._judge(node, pace)
            if node.penalty != before:
                self.view.replace(node, now)

    def _judge(self, node: NodeView, pace: Pace) -> None:
        """How far a node is set back, and whether its slowness is a failure.

        Where all nodes slow down together it is the load, or what they share, and no node's failure.
        """
        penalty = 0
        ratio = pace.ratio / max(1.0, _median([peer.ratio for peer in self._peers(pace) if peer.samples]))
        if pace.samples >= self.parameters.samples_min and ratio >= self.parameters.ratio:
            penalty = round(2.0 * math.log2(ratio))
        if penalty and ratio >= self.parameters.failing_ratio:
            self.slow[node.name] = f"a token takes {pace.ratio:.1f} times its normal time on this node"
        else:
            self.slow.pop(node.name, None)
        latencies = [peer.latency_s for peer in self.paces.values() if not math.isnan(peer.latency_s)]
        if pace.latency_s > self.parameters.latency_floor_s and (
            pace.latency_s > self.parameters.ratio * _median(latencies)
        ):
            penalty += FAR_LEVELS
        node.penalty = penalty + (FAR_LEVELS if node.name in self.without_gpu else 0)

    def _peers(self, pace: Pace) -> list[Pace]:
        return [peer for peer in self.paces.values() if peer is not pace]

    def forget(self, node: str) -> None:
        """After a restart: what is recent starts anew; what is normal stays."""
        pace = self.paces[node]
        pace.ratio = 1.0
        pace.samples = 0
        pace.latency_s = math.nan
        self.slow.pop(node, None)
        self.view.nodes[node].penalty = FAR_LEVELS if node in self.without_gpu else 0

    def serves_from_processor(self, now: float, node: NodeView, serves: bool) -> None:
        """A node has lost its GPU, or has it again: it is chosen after all others, or as any."""
        if serves is (node.name in self.without_gpu):
            return
        if serves:
            self.without_gpu.add(node.name)
        else:
            self.without_gpu.discard(node.name)
        self._judge(node, self.paces[node.name])
        self.view.replace(node, now)


def _median(values: list[float]) -> float:
    """The middle value, the lower of two; 0 of none."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0
