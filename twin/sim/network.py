"""The network between gateways and nodes: a graph whose edges have latency, jitter, bandwidth and loss.

The graph is the scenario's tree (gateways, core, zones, racks, nodes); networkx finds the way from each gateway to each
node once. A fault changes an edge; what a path is like then is worked out anew for the paths that cross it, and only
then: the hot path reads `Path.plain` and `Path.round_trip_s`. Of edges in a row

- latencies add up, and the round trip is twice their sum;
- jitter is even in [-j, +j] on each edge, independently; its variances add up, so j of the path is the root of the sum
  of squares (drawn as one even number for each direction);
- of the packets, the share 1 - product of (1 - loss) is lost, each way;
- the narrowest edge limits the bandwidth, shared by all that crosses it (`twin/sim/traffic.py`);
- a blocked edge blocks the path.

What TCP makes of loss: a segment that is lost is sent again after the retransmission timeout, which doubles each time
(RFC 6298: RTO = SRTT + max(200 ms, 4 RTTVAR) in Linux, at most 120 s), so that k losses in a row delay it by
RTO (2^k - 1), and k has the chance p^k (1 - p). Tail loss probes and fast retransmits, which mend a first loss sooner,
are left out: it is an upper bound. Connections are taken as open: gateways keep them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

import networkx
import numpy as np

from twin.policy.vocabulary import NEVER_S
from twin.scenario.draws import stream
from twin.scenario.faults.base import LinkChange
from twin.scenario.topology import Link, Topology

INLINE_ROUND_TRIP_S: Final = 0.002
"""A round trip shorter than this is added to what the client sees, without an event of its own; what it leaves out is
that the slot at the node is taken and freed that much later."""

AMPLE_BYTES_PER_S: Final = 40e6
"""A path this wide limits nothing: a thousand streams of 200 tokens per second fit (see `traffic.TOKEN_BYTES`)."""

RTO_VARIANCE_MIN_S: Final = 0.2
RTO_MAX_S: Final = 120.0
SEGMENT_BYTES: Final = 1448  # of payload in an Ethernet frame with TCP timestamps
DRAWS_AT_ONCE: Final = 256
LOSSES_MAX: Final = 64  # after so many in a row, whoever waits has long given up


class Lane:
    """One direction of an edge."""

    __slots__ = ("blocked", "bytes_per_s", "transfers")

    def __init__(self) -> None:
        self.bytes_per_s = NEVER_S
        self.blocked = False
        self.transfers = 0  # that share it now


class Edge:
    """The uplink of a network element: what it is by itself, what faults do to it, and what follows."""

    __slots__ = ("_changes", "_link", "down", "jitter_ms", "latency_ms", "loss", "refuses", "up")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changes: dict[object, tuple[LinkChange, bool]] = {}
        self.up = Lane()  # towards the core
        self.down = Lane()
        self.work_out()

    def change(self, owner: object, change: LinkChange, towards_core: bool) -> None:
        """A fault adds to what is wrong; `towards_core`: requests go up here (a gateway's edge)."""
        known = self._changes.get(owner)
        self._changes[owner] = (change if known is None else _both(known[0], change), towards_core)
        self.work_out()

    def restore(self, owner: object) -> bool:
        """Take back what a fault did. Whether it did anything."""
        known = self._changes.pop(owner, None)
        self.work_out()
        return known is not None

    def work_out(self) -> None:
        """What the edge is like now."""
        link = self._link
        self.latency_ms, self.jitter_ms = link.latency_ms, link.jitter_ms
        passing = 1.0 - link.loss
        bytes_per_s = NEVER_S if link.bandwidth_mbps is None else link.bandwidth_mbps * 1e6 / 8.0
        self.refuses = up_blocked = down_blocked = False
        for change, towards_core in self._changes.values():
            self.latency_ms += change.latency_ms
            self.jitter_ms += change.jitter_ms
            passing *= 1.0 - change.loss
            if change.bandwidth_kb_per_s is not None:
                bytes_per_s = min(bytes_per_s, change.bandwidth_kb_per_s * 1000.0)
            self.refuses = self.refuses or change.refuses
            requests, answers = change.blocked in ("both", "to_node"), change.blocked in ("both", "from_node")
            up_blocked = up_blocked or (requests if towards_core else answers)
            down_blocked = down_blocked or (answers if towards_core else requests)
        self.loss = 1.0 - passing
        self.up.bytes_per_s = self.down.bytes_per_s = bytes_per_s
        self.up.blocked, self.down.blocked = up_blocked, down_blocked


def _both(first: LinkChange, second: LinkChange) -> LinkChange:
    """What one fault does in several steps. A later value replaces an earlier one."""
    return LinkChange(
        second.latency_ms or first.latency_ms,
        second.jitter_ms or first.jitter_ms,
        second.loss or first.loss,
        first.bandwidth_kb_per_s if second.bandwidth_kb_per_s is None else second.bandwidth_kb_per_s,
        second.blocked or first.blocked,
        second.refuses or first.refuses,
    )


class Path:
    """The way from a gateway to a node, as it is now.

    `plain`: nothing is to be done but to add `round_trip_s` to what the client sees. `carries`: bytes take their time or
    get lost. `silent_since_s`: since when nothing comes back over it, `NEVER_S` where the node speaks.
    """

    __slots__ = (
        "_drawn",
        "_draws",
        "_generator",
        "_stream",
        "answer_lanes",
        "answers_pass",
        "bytes_per_s",
        "carries",
        "edges",
        "gateway",
        "held_back",
        "jitter_s",
        "loss",
        "node",
        "plain",
        "refuses",
        "request_lanes",
        "requests_pass",
        "retransmission_s",
        "round_trip_s",
        "silent_since_s",
    )

    def __init__(self, gateway: str, node: str, edges: list[Edge], climbs: int, draws: tuple[int, str]) -> None:
        self.gateway = gateway
        self.node = node
        self.edges = edges  # from the gateway to the node; the first `climbs` lead up to the core or a zone
        self.request_lanes = [edge.up for edge in edges[:climbs]] + [edge.down for edge in edges[climbs:]]
        self.answer_lanes = [edge.down for edge in edges[:climbs]] + [edge.up for edge in edges[climbs:]]
        self.held_back: list[Callable[[], None]] = []  # what a node said into a cut path
        self.silent_since_s = NEVER_S
        self._stream = draws
        self._generator: np.random.Generator | None = None
        self._draws: list[float] = []
        self._drawn = 0
        self.work_out()

    def work_out(self) -> None:
        """What follows from the edges."""
        edges = self.edges
        self.round_trip_s = 2.0 * sum(edge.latency_ms for edge in edges) / 1000.0
        self.jitter_s = math.sqrt(sum(edge.jitter_ms**2 for edge in edges)) / 1000.0
        self.loss = 1.0 - math.prod(1.0 - edge.loss for edge in edges)
        self.bytes_per_s = min(lane.bytes_per_s for lane in self.request_lanes)
        self.refuses = any(edge.refuses for edge in edges)
        self.requests_pass = not any(lane.blocked for lane in self.request_lanes)
        self.answers_pass = not any(lane.blocked for lane in self.answer_lanes)
        self.carries = self.loss > 0.0 or self.bytes_per_s < AMPLE_BYTES_PER_S
        self.retransmission_s = self.round_trip_s + max(RTO_VARIANCE_MIN_S, 4.0 * self.jitter_s)
        self.plain = (
            self.requests_pass
            and self.answers_pass
            and not self.refuses
            and not self.carries
            and self.jitter_s == 0.0
            and self.round_trip_s < INLINE_ROUND_TRIP_S
        )

    def draw(self) -> float:
        """The next number in [0, 1) of this path's own random stream."""
        if self._drawn == len(self._draws):
            if self._generator is None:
                self._generator = stream(*self._stream)
            self._draws = self._generator.random(DRAWS_AT_ONCE).tolist()
            self._drawn = 0
        self._drawn += 1
        return self._draws[self._drawn - 1]

    def trip_s(self) -> float:
        """One round trip, jitter included."""
        if self.jitter_s == 0.0:
            return self.round_trip_s
        return max(0.0, self.round_trip_s + self.jitter_s * (2.0 * (self.draw() + self.draw()) - 2.0))

    def share_bytes_per_s(self, lanes: list[Lane]) -> float:
        """What one more message would get of these lanes (the path's own, one way)."""
        return min(lane.bytes_per_s / (lane.transfers + 1) for lane in lanes)

    def loss_delay_s(self, segments: int = 1) -> float:
        """By how much the last of so many segments, sent at once, comes later because some are lost."""
        if self.loss == 0.0:
            return 0.0
        return self.retransmitted_s(self.losses_in_a_row(segments))

    def losses_in_a_row(self, segments: int) -> int:
        """The most losses that one of so many segments meets: P(k or fewer) = (1 - p^(k + 1))^segments."""
        rest = -math.expm1(math.log(max(self.draw(), 1e-300)) / segments)  # p^(k + 1) must not be above this
        if rest <= 0.0:
            return LOSSES_MAX
        return min(LOSSES_MAX, max(0, math.ceil(math.log(rest) / math.log(self.loss)) - 1))

    def retransmitted_s(self, losses: int) -> float:
        """How long a segment takes longer that is lost so many times: RTO (2^k - 1), each wait at most 120 s."""
        return sum(min(RTO_MAX_S, self.retransmission_s * 2.0**again) for again in range(losses))

    def loss_delay_mean_s(self) -> float:
        """The mean delay of one segment."""
        delay_s, total_s, chance = 0.0, 0.0, 1.0 - self.loss
        for again in range(LOSSES_MAX):
            total_s += chance * delay_s
            delay_s += min(RTO_MAX_S, self.retransmission_s * 2.0**again)
            chance *= self.loss
        return total_s


class SimulatedNetwork:
    """The graph, and the path from each gateway to each node."""

    def __init__(self, topology: Topology, seed: int) -> None:
        self.topology = topology
        self.graph: networkx.Graph[str] = networkx.Graph()
        self.edges: dict[str, Edge] = {}  # by the element whose uplink it is
        for element, above in topology.parents.items():
            edge = self.edges[element] = Edge(topology.uplinks[element])
            self.graph.add_edge(element, above, edge=edge)
        self.paths: dict[str, dict[str, Path]] = {}  # gateway to node to path
        self._crossing: dict[int, list[Path]] = {}  # by the edge's identity
        self._private: dict[object, list[Edge]] = {}
        for gateway in topology.gateways:
            ways = networkx.single_source_shortest_path(self.graph, gateway)
            self.paths[gateway] = {node: self._path(gateway, node, ways[node], seed) for node in topology.nodes}

    def _path(self, gateway: str, node: str, way: list[str], seed: int) -> Path:
        edges = [self.graph.edges[step]["edge"] for step in itertools.pairwise(way)]
        climbs = sum(self.topology.parents.get(low) == high for low, high in itertools.pairwise(way))
        path = Path(gateway, node, edges, climbs, (seed, f"network:{gateway}:{node}"))
        for edge in edges:
            self._crossing.setdefault(id(edge), []).append(path)
        return path

    def change(self, owner: object, element: str, change: LinkChange, seen_from: str | None = None) -> list[Path]:
        """A fault does something to the uplink of an element; the paths that it touches.

        `seen_from`: only the paths from this gateway to the nodes behind the element, as a rule in a switch would.
        """
        if seen_from is None:
            edge = self.edges[element]
            edge.change(owner, change, element in self.paths)
            return self._worked_out(edge)
        touched = self.behind(element, seen_from)
        for path in touched:
            private = Edge(Link())
            private.change(owner, change, towards_core=False)
            self._private.setdefault((owner, element), []).append(private)
            path.edges.append(private)
            path.request_lanes.append(private.down)
            path.answer_lanes.append(private.up)
            path.work_out()
        return touched

    def restore(self, owner: object, element: str) -> list[Path]:
        """What a fault did there is taken back; the paths that it had touched."""
        touched: list[Path] = []
        if self.edges[element].restore(owner):
            touched += self._worked_out(self.edges[element])
        gone = self._private.pop((owner, element), [])
        for path in (each for paths in self.paths.values() for each in paths.values()) if gone else ():
            mine = [edge for edge in path.edges if edge in gone]
            for edge in mine:
                path.edges.remove(edge)
                path.request_lanes.remove(edge.down)
                path.answer_lanes.remove(edge.up)
            if mine:
                path.work_out()
                touched.append(path)
        return touched

    def behind(self, element: str, seen_from: str | None = None) -> list[Path]:
        """The paths that cross the uplink of an element, or of these those of one gateway."""
        crossing = self._crossing.get(id(self.edges[element]), [])
        return [path for path in crossing if seen_from in (None, path.gateway)]

    def reaches_core(self, gateway: str) -> bool:
        """Whether the gateway and the core hear each other."""
        element = gateway
        while element != Topology.CORE:
            edge = self.edges[element]
            if edge.up.blocked or edge.down.blocked or edge.refuses:
                return False
            element = self.topology.parents[element]
        return True

    def _worked_out(self, edge: Edge) -> list[Path]:
        touched = self._crossing.get(id(edge), [])
        for path in touched:
            path.work_out()
        return touched
