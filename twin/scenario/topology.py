"""The network of a scenario: links, racks, zones, and where the gateways stand.

    network: {latency_ms: 0.3}                                  # a star: gateway, core, nodes
    network: {latency_ms: 0.3, racks: 3}                        # nodes dealt out in turn: r1, r2, r3, r1 ...
    network:
      zones:                                                    # core, zones, racks, nodes
        - {name: east, latency_ms: 0.5, racks: [{name: e1, nodes: 4}, {name: e2, nodes: [node-7, node-9]}]}
        - {name: west, latency_ms: 8, nodes: 4, bandwidth_mbps: 1000}
    gateways: [{zone: east}, {zone: west}]                      # or: gateways: 2, both at the core

What stands at `network` itself holds for each node's own link, what stands at a rack or a zone for its uplink. A number
of nodes means the next ones of those that no rack names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


def number_or_list(value: Any) -> str:
    """Which of the two was meant, so that only its own errors are shown."""
    return "List" if isinstance(value, list) else "Number"


NodesHere: TypeAlias = Annotated[
    Annotated[int, Field(ge=1), Tag("Number")] | Annotated[list[str], Field(min_length=1), Tag("List")],
    Discriminator(number_or_list),
]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Link(_Closed):
    """What a link does to what passes it. The same in both directions."""

    latency_ms: Annotated[float, Field(ge=0, le=60_000, description="One way.")] = 0.0
    jitter_ms: Annotated[
        float, Field(ge=0, le=60_000, description="Latency varies by as much, evenly, up and down.")
    ] = 0.0
    bandwidth_mbps: Annotated[
        float | None, Field(gt=0, description="Megabits per second, each way, shared; null: more than enough.")
    ] = None
    loss: Annotated[float, Field(ge=0, lt=1, description="Share of the packets that are lost, each way.")] = 0.0


class Rack(Link):
    """Nodes behind one switch. The link is its uplink."""

    name: Name
    nodes: Annotated[NodesHere, Field(description="How many (the next ones), or which.")]


Racks: TypeAlias = Annotated[
    Annotated[int, Field(ge=1), Tag("Number")] | Annotated[list[Rack], Field(min_length=1), Tag("List")],
    Discriminator(number_or_list),
]


class Zone(Link):
    """Racks, or nodes, that share an uplink to the core."""

    name: Name
    racks: Annotated[list[Rack] | None, Field(min_length=1)] = None
    nodes: Annotated[NodesHere | None, Field(description="How many (the next ones), or which; without racks.")] = None

    @model_validator(mode="after")
    def _one_way_to_say_what_is_here(self) -> Zone:
        if (self.racks is None) == (self.nodes is None):
            raise ValueError(f"zone {self.name}: give either racks or nodes")
        return self


Zones: TypeAlias = Annotated[
    Annotated[int, Field(ge=1), Tag("Number")] | Annotated[list[Zone], Field(min_length=1), Tag("List")],
    Discriminator(number_or_list),
]


class Network(Link):
    """The network between the gateways and the nodes."""

    latency_ms: Annotated[float, Field(ge=0, le=60_000, description="One way, on each node's own link.")] = 0.3
    racks: Annotated[
        Racks | None,
        Field(description="How many (r1, r2 ...; nodes are dealt out in turn), or which."),
    ] = None
    zones: Annotated[
        Zones | None,
        Field(description="How many (z1, z2 ...; nodes are dealt out in turn), or which."),
    ] = None


class GatewayPlace(_Closed):
    """Where a gateway stands."""

    zone: Annotated[str | None, Field(description="Behind this zone's uplink; absent: at the core.")] = None


Gateways: TypeAlias = Annotated[
    Annotated[int, Field(ge=1, le=100), Tag("Number")]
    | Annotated[list[GatewayPlace], Field(min_length=1, max_length=100), Tag("List")],
    Discriminator(number_or_list),
]


class Topology:
    """The tree of a cluster: every network element with the element above it, and its uplink.

    `parents`: node, rack, zone or gateway to what is above it, in the order core to nodes; the core is above all.
    Raises ValueError, with what is wrong, where names do not fit together.
    """

    CORE = "core"

    def __init__(self, network: Network, nodes: Sequence[str], gateways: Sequence[GatewayPlace]) -> None:
        self.nodes = list(nodes)
        self.gateways = [f"gateway-{place}" for place in range(len(gateways))]
        self.parents: dict[str, str] = {}
        self.uplinks: dict[str, Link] = {}
        self.racks: dict[str, list[str]] = {}
        self.zones: dict[str, list[str]] = {}
        own = Link.model_validate({name: getattr(network, name) for name in Link.model_fields})
        if network.racks is not None and network.zones is not None:
            raise ValueError("network: give either racks or zones (a zone may have racks)")
        self._place(network, nodes)
        for node in nodes:
            self.uplinks[node] = own
            self.parents.setdefault(node, self.CORE)
        for name, place in zip(self.gateways, gateways, strict=True):
            if place.zone is not None and place.zone not in self.zones:
                raise ValueError(
                    f"gateways: unknown zone {place.zone!r}; {suggestion(place.zone, self.zones, 'zones')}"
                )
            self.parents[name] = place.zone or self.CORE
            self.uplinks[name] = Link()

    def _place(self, network: Network, nodes: Sequence[str]) -> None:
        if isinstance(network.racks, int) or isinstance(network.zones, int):
            self._deal_out(network, nodes)
            return
        racks: list[tuple[Rack | Zone, str]] = []
        for zone in network.zones or []:
            assert isinstance(zone, Zone)
            self._add(zone.name, self.CORE, zone, self.zones)
            racks += [(rack, zone.name) for rack in zone.racks] if zone.racks is not None else [(zone, zone.name)]
        racks += [(rack, self.CORE) for rack in network.racks or [] if isinstance(rack, Rack)]
        if not racks:
            return
        named = self._named(rack for rack, _ in racks)
        left = [node for node in nodes if node not in named]
        for rack, above in racks:
            if isinstance(rack.nodes, int):
                here, left = left[: rack.nodes], left[rack.nodes :]
                if len(here) < rack.nodes:
                    raise ValueError(f"network: {rack.name} wants {rack.nodes} nodes and only {len(here)} are left")
            else:
                here = list(rack.nodes or [])
            if isinstance(rack, Rack):
                self._add(rack.name, above, rack, self.racks)
                self.racks[rack.name] = here
            for node in here:
                self.parents[node] = rack.name
            if above != self.CORE:
                self.zones[above] += here
        if left:
            raise ValueError(
                f"network: {left[0]} is in no rack or zone ({len(left)} of {len(nodes)} nodes are left over)"
            )

    def _deal_out(self, network: Network, nodes: Sequence[str]) -> None:
        of_racks = isinstance(network.racks, int)
        count = network.racks if of_racks else network.zones
        assert isinstance(count, int)
        if count > len(nodes):
            raise ValueError(f"network: {count} {'racks' if of_racks else 'zones'} for {len(nodes)} nodes")
        groups = self.racks if of_racks else self.zones
        for place in range(count):
            name = f"{'r' if of_racks else 'z'}{place + 1}"
            self._add(name, self.CORE, Link(), groups)
            groups[name] = list(nodes[place::count])
            for node in groups[name]:
                self.parents[node] = name

    def _add(self, name: str, above: str, link: Link, group: dict[str, list[str]]) -> None:
        if name in self.uplinks or name in (*self.nodes, self.CORE) or name.startswith("gateway-"):
            raise ValueError(f"network: the name {name} is taken; give each rack and zone one of its own")
        self.parents[name] = above
        self.uplinks[name] = link
        group[name] = []

    def _named(self, racks: Iterable[Rack | Zone]) -> set[str]:
        named: set[str] = set()
        known = set(self.nodes)
        for rack in racks:
            for node in rack.nodes if isinstance(rack.nodes, list) else []:
                if node not in known:
                    raise ValueError(
                        f"network: unknown node {node!r} in {rack.name}; {suggestion(node, self.nodes, 'nodes')}"
                    )
                if node in named:
                    raise ValueError(f"network: {node} is in two places, one of them {rack.name}")
                named.add(node)
        return named


def suggestion(name: str, known: Iterable[str], what: str) -> str:
    """What to write instead of an unknown name."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    if not known:
        return f"the cluster has no {what}"
    shown = ", ".join(known) if len(known) <= 8 else f"{known[0]} to {known[-1]}"
    return f"there are {shown}"
