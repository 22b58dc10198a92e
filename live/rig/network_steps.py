"""Network operations of faults, done to the Toxiproxy edge of a node. A rack or a zone is dealt with as its nodes.

Toxiproxy has one of each kind of toxic on an edge: where two faults do the same to a node at once, the later one's
values hold, and the toxic goes when the last of them ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from live.rig.node import RigNode
from live.rig.toxiproxy import NetworkFault, ToxiproxyNetwork
from twin.scenario.faults.base import Direction, LinkChange, Operation, Step

NOT_LIVE: frozenset[Operation] = frozenset({"lose_packets"})
"""Network operations that Toxiproxy cannot do: it carries bytes, and has no packets to lose."""

_BLACK_HOLES: Mapping[Direction, NetworkFault] = {
    "both": NetworkFault.BLACK_HOLE,
    "to_node": NetworkFault.BLACK_HOLE_REQUESTS,
    "from_node": NetworkFault.BLACK_HOLE_ANSWERS,
}
_UNREACHABLE = frozenset({*_BLACK_HOLES.values(), NetworkFault.REFUSE})


class NetworkSteps:
    """What the faults of a run have done to the edges so far."""

    def __init__(self, network: ToxiproxyNetwork, nodes: Mapping[str, RigNode]) -> None:
        self._network = network
        self._nodes = nodes
        self._done: dict[tuple[object, str], set[NetworkFault]] = {}  # by fault and node

    async def perform(self, owner: object, name: str, step: Step) -> None:
        """Do a step of a fault (`owner`) to the edge of a node. Raises `RigError`."""
        network, change = self._network, step.link or LinkChange()
        if step.operation == "restore_network":
            for kind in self._done.pop((owner, name), set()):
                await self._restore(name, kind)
            return
        if step.operation == "reset_connections":
            if NetworkFault.REFUSE not in await network.faults(name):
                await network.refuse(name)  # closing the listener closes its connections
                await network.restore(name, NetworkFault.REFUSE)
            return
        if step.operation == "cut_network":
            kind = _BLACK_HOLES[change.blocked or "both"]
            await network.black_hole(name, kind)
        elif step.operation == "slow_network":
            kind = NetworkFault.SLOW
            # Toxiproxy delays what comes back; a request and its answer see both directions' delay together, and of
            # two independent jitters the variances add up.
            await network.slow(name, round(2 * change.latency_ms), round(math.sqrt(2) * change.jitter_ms))
        elif step.operation == "limit_bandwidth":
            kind = NetworkFault.BANDWIDTH
            await network.limit_bandwidth(name, round(change.bandwidth_kb_per_s or 1))
        else:
            kind = NetworkFault.REFUSE
            await network.refuse(name)
        self._done.setdefault((owner, name), set()).add(kind)

    async def _restore(self, name: str, kind: NetworkFault) -> None:
        if any(kind in kinds for (_, node), kinds in self._done.items() if node == name):
            return  # another fault still does the same
        if kind is NetworkFault.REFUSE and not self._nodes[name].server_alive():
            return  # nobody listens there anyway; its start will open the edge
        await self._network.restore(name, kind)

    def reachable(self, name: str) -> bool:
        """Whether an agent beside the node could be reached: it shares the node's path, there and back."""
        return not any(kinds & _UNREACHABLE for (_, node), kinds in self._done.items() if node == name)

    def refuses(self, name: str) -> bool:
        """Whether a fault has the edge refuse, whatever the server does."""
        return any(NetworkFault.REFUSE in kinds for (_, node), kinds in self._done.items() if node == name)
