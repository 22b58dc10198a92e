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
    "load_failure_share": Condition(0.0, "maximum", "share of loads that die half way", "twin/sim/malfunctions.py"),
    "step_factor": Condition(
        1.0, "product", "times that every step and prefill takes as long", "twin/sim/malfunctions.py"
    ),
    "fatal_request_share": Condition(
        0.0, "maximum", "share of requests whose content kills the runner", "twin/sim/malfunctions.py"
    ),
    "fatal_prompt_tokens": Condition(
        math.inf, "minimum", "a prompt of more tokens kills the runner", "twin/sim/malfunctions.py"
    ),
    "silent_end_share": Condition(
        0.0, "maximum", "share of generations that end without a terminal record", "twin/sim/malfunctions.py"
    ),
    "hang_after_requests": Condition(
        math.inf, "minimum", "a runner hangs when it has taken so many requests", "twin/sim/malfunctions.py"
    ),
    "gpu_lost": Condition(0.0, "maximum", "1: whatever needs the GPU fails at once", "twin/sim/malfunctions.py"),
    "runner_unkillable": Condition(
        0.0, "maximum", "1: a runner that is to be let go does not die", "twin/sim/malfunctions.py"
    ),
    "unload_holds_lock": Condition(
        0.0,
        "maximum",
        "1: while it does not die, the server's lock on what is loaded is held",
        "twin/sim/malfunctions.py",
    ),
    "gpu_fault_event_rate_per_s": Condition(
        0.0, "sum", "lines a second in the kernel's log that tell of a GPU fault", "twin/sim/machine.py"
    ),
    "error_line_rate_per_s": Condition(0.0, "sum", "error lines a second in Ollama's log", "twin/sim/machine.py"),
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
