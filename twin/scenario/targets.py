"""Whom a fault strikes: the words of `target`, checked when a scenario is read. `draws.strikes` says who it is."""

from __future__ import annotations

import re

from twin.scenario.faults.base import Fault, NetworkFault
from twin.scenario.topology import Topology, suggestion

RANDOM = re.compile(r"random(?:\((\d+)\))?")
"""`random` and `random(N)`."""


def check_target(topology: Topology, fault: Fault) -> None:
    """Raises ValueError, with what to write instead, where the fault's target does not exist."""
    target, names = fault.target, topology.nodes
    if isinstance(fault, NetworkFault) and fault.seen_from is not None and fault.seen_from not in topology.gateways:
        known = suggestion(fault.seen_from, topology.gateways, "gateways")
        raise ValueError(f"seen_from: unknown gateway {fault.seen_from!r}; {known}")
    if isinstance(target, dict):
        if len(target) != 1:
            raise ValueError("target: name one rack, zone or gateway")
        ((what, name),) = target.items()
        groups = {"rack": topology.racks, "zone": topology.zones, "gateway": topology.gateways}
        if what == "gateway" and not isinstance(fault, NetworkFault):
            raise ValueError(f"target: {fault.about.kind} strikes nodes, and no node runs on a gateway")
        if name not in groups[what]:
            hint = suggestion(name, groups[what], f"{what}s; give cluster.network.{what}s")
            raise ValueError(f"target: unknown {what} {name!r}; {hint}")
        return
    drawn = RANDOM.fullmatch(target)
    if drawn and not 1 <= int(drawn[1] or 1) <= len(names):
        raise ValueError(f"target {target} of a cluster of {len(names)} nodes")
    for what, groups_of_it in (("rack", topology.racks), ("zone", topology.zones)):
        if target == f"random_{what}" and not groups_of_it:
            raise ValueError(f"target: the cluster has no {what}s; give cluster.network.{what}s")
    if not drawn and target not in (*names, "all", "random_rack", "random_zone"):
        groups_known = ", {rack: NAME}, {zone: NAME}" if topology.racks or topology.zones else ""
        raise ValueError(
            f"target {target!r} is no node ({names[0]} to {names[-1]}), random, random(N){groups_known} or all"
        )
