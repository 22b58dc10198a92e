"""The faults of one seed as a plain list: every fault on one named node, nothing left to be drawn."""

from __future__ import annotations

from typing import Any

from twin.scenario.draws import targets
from twin.scenario.generators import expanded
from twin.scenario.loader import as_document
from twin.scenario.schema import Scenario


def pinned(scenario: Scenario, seed: int) -> Scenario:
    """The same run with every fault drawn: a fault for each node that it strikes, in the order of the list."""
    scenario = expanded(scenario, seed)
    faults: list[dict[str, Any]] = []
    for place, fault in enumerate(scenario.faults):
        plain = fault.model_dump(mode="json", exclude_defaults=True) | {"kind": fault.about.kind}
        faults += [plain | {"target": node} for node in targets(scenario, place, fault, seed)]
    return Scenario.model_validate(as_document(scenario) | {"faults": faults, "seed": seed, "replications": 1})
