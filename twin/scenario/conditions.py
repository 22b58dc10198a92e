"""Conditions: what can be out of order in a node without a process dying. One table; faults set them by name.

A fault sets a condition to a value with the operation `set_condition`; what it set is withdrawn when it ends, so no
fault has to put anything back. Where several faults set the same condition of a node, the values are combined as the
table says. The mechanism that a condition drives stands in the module named in its row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Combination: TypeAlias = Literal["sum", "product", "maximum", "minimum"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of the table."""

    neutral: float  # its value while nobody sets it
    combine: Combination
    what: str  # with the unit
    read_by: str  # the module whose mechanism it drives


CONDITIONS: dict[str, Condition] = {
    "load_failure_share": Condition(0.0, "maximum", "share of loads that die half way through", "twin/sim/node.py"),
}
"""Name to row."""


def combined(name: str, values: Iterable[float]) -> float:
    """The value that holds where these are set at once."""
    row = CONDITIONS[name]
    given = list(values)
    if not given:
        return row.neutral
    if row.combine == "sum":
        return math.fsum(given)
    if row.combine == "product":
        return math.prod(given)
    return max(given) if row.combine == "maximum" else min(given)
