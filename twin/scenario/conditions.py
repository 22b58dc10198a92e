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
Part: TypeAlias = Literal["node", "gateway", "clients"]
"""What a condition, and so a fault, belongs to."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of the table."""

    neutral: float  # its value while nobody sets it
    combine: Combination
    what: str  # with the unit
    read_by: str  # the module whose mechanism it drives
    part: Part = "node"


CONDITIONS: dict[str, Condition] = {
    "load_failure_share": Condition(0.0, "maximum", "share of loads that die half way through", "twin/sim/node.py"),
    "ends_forgotten_share": Condition(
        0.0,
        "maximum",
        "share of clients' disconnects that the gateway does not notice",
        "twin/sim/gateway.py",
        "gateway",
    ),
    "alias_share": Condition(
        0.0,
        "maximum",
        "share of requests that call their model by another of its names",
        "twin/sim/clients.py",
        "clients",
    ),
    "disk_filled_gib": Condition(0.0, "sum", "disk space that others take, GiB", "twin/sim/machine.py"),
    "clock_offset_s": Condition(0.0, "sum", "the machine's clock is this much ahead", "twin/sim/machine.py"),
    "loads_stalled": Condition(0.0, "maximum", "1: loads make no progress", "twin/sim/node.py"),
    "model_files_truncated": Condition(
        0.0, "maximum", "1: the files are too short to be loaded", "twin/sim/model_files.py"
    ),
    "model_files_missing": Condition(0.0, "maximum", "1: the files are gone from the disk", "twin/sim/model_files.py"),
    "models_incompatible": Condition(
        0.0, "maximum", "1: this version of Ollama cannot read the files", "twin/sim/model_files.py"
    ),
    "pull_damaged_share": Condition(
        0.0, "maximum", "share of pulls that end with another digest", "twin/sim/model_files.py"
    ),
    "registry_unresolvable": Condition(
        0.0, "maximum", "1: the registry's name cannot be resolved", "twin/sim/model_files.py"
    ),
    "registry_untrusted": Condition(
        0.0, "maximum", "1: the registry's certificate is not accepted", "twin/sim/model_files.py"
    ),
    "context_limit_tokens": Condition(1e9, "minimum", "longest context that runners keep", "twin/sim/answers.py"),
    "runaway_share": Condition(0.0, "maximum", "share of generations that never end", "twin/sim/answers.py"),
    "prompt_count_factor": Condition(
        1.0, "product", "prompt tokens that are reported for each one that was evaluated", "twin/sim/answers.py"
    ),
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
