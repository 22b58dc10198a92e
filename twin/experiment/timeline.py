"""The faults of one seed as a plain list: every fault on one named node, nothing left to be drawn."""

from __future__ import annotations

from typing import Any

from twin.scenario.draws import strikes
from twin.scenario.generators import expanded
from twin.scenario.loader import as_document
from twin.scenario.schema import Scenario
from twin.scenario.topology import Topology


def pinned(scenario: Scenario, seed: int) -> Scenario:
    """The same run with every fault drawn: a fault for each node that it strikes, in the order of the list.

    What strikes a rack, a zone or a gateway stays one fault of that; what is done to no node has no target.
    """
    scenario = expanded(scenario, seed)
    topology = scenario.cluster.topology()
    faults: list[dict[str, Any]] = []
    for place, fault in enumerate(scenario.faults):
        plain = fault.model_dump(mode="json", exclude_defaults=True) | {"kind": fault.about.kind}
        if fault.about.part != "node":
            faults.append(plain)
            continue
        struck = dict.fromkeys(element for _, element in strikes(scenario, place, fault, seed))
        faults += [plain | {"target": _target(topology, element)} for element in struck]
    return Scenario.model_validate(as_document(scenario) | {"faults": faults, "seed": seed, "replications": 1})


def _target(topology: Topology, element: str) -> str | dict[str, str]:
    groups = {"rack": topology.racks, "zone": topology.zones, "gateway": topology.gateways}
    return next(({what: element} for what, names in groups.items() if element in names), element)
