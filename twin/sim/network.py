"""The network between gateway and nodes: a graph whose edges have a latency; a partition is a cut edge."""

from __future__ import annotations

from typing import Final

import networkx

GATEWAY: Final = "gateway"
SWITCH: Final = "switch"


class Path:
    """The way from the gateway to one node, as it is now."""

    __slots__ = ("cut", "round_trip_s")

    def __init__(self) -> None:
        self.round_trip_s = 0.0
        self.cut = False


class SimulatedNetwork:
    """A star: gateway, one switch, the nodes. `paths` is what the hot path reads; the graph is what faults change."""

    def __init__(self, nodes: list[str], latency_ms: float) -> None:
        self.latency_ms = latency_ms
        self.graph: networkx.Graph[str] = networkx.Graph()
        self.graph.add_edge(GATEWAY, SWITCH, latency_ms=0.0)
        self.paths: dict[str, Path] = {}
        for node in nodes:
            self.graph.add_edge(SWITCH, node, latency_ms=latency_ms)
            path = self.paths[node] = Path()
            path.round_trip_s = 2.0 * latency_ms / 1000.0

    def _work_out(self, node: str) -> None:
        path = self.paths[node]
        path.cut = not networkx.has_path(self.graph, GATEWAY, node)
        if not path.cut:
            one_way_ms = networkx.shortest_path_length(self.graph, GATEWAY, node, weight="latency_ms")
            path.round_trip_s = 2.0 * one_way_ms / 1000.0

    def cut(self, node: str) -> None:
        """Nothing passes to or from the node."""
        if self.graph.has_edge(SWITCH, node):
            self.graph.remove_edge(SWITCH, node)
        self._work_out(node)

    def slow(self, node: str, added_ms: float) -> None:
        """Each direction takes this much longer."""
        self.graph.add_edge(SWITCH, node, latency_ms=self.latency_ms + added_ms)
        self._work_out(node)

    def restore(self, node: str) -> None:
        """As it was."""
        self.graph.add_edge(SWITCH, node, latency_ms=self.latency_ms)
        self._work_out(node)
