"""Which failures a run's policy warned of beforehand, and which of its warnings nothing stood behind.

A *warning* stands on a node from a row of `forecasts` to the row that ends it. A failure that *showed* is a row of `signs`
that was to become one: what never shows nobody can foretell, and look-alikes come to nothing. It is foretold by a warning
that began at least `ACTION_S` before it came, or was to come where it was averted, and that stood while it showed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from twin.record.reader import RunRecord

ACTION_S = 30.0
"""A drain, a restart and a load take that long: a later warning is no use."""


@dataclass(slots=True)
class Warned:
    """A warning on a node: from, to, and until when what it foretold was to come."""

    node: str
    began_s: float
    until_s: float
    ended_s: float = math.inf


def foretelling(record: RunRecord) -> dict[str, Any]:
    """The figures `faults_foretold` (None where no failure showed beforehand) and `false_warnings`."""
    warnings = warnings_of(record)
    signs = record.table("signs", ["node", "began_s", "due_s", "ended_s", "outcome"]).to_pylist()
    to_come = [sign for sign in signs if sign["due_s"] is not None]
    held = [(sign["node"], sign["began_s"], sign["ended_s"]) for sign in signs]
    for fault in record.table("faults", ["node", "injected_s", "ended_s"]).to_pylist():
        held.append((fault["node"], fault["injected_s"], fault["ended_s"]))
    return {
        "faults_foretold": sum(_foretold(sign, warnings) for sign in to_come) if to_come else None,
        "false_warnings": sum(
            not any(
                node == warning.node and began_s <= warning.until_s and (ended_s is None or ended_s >= warning.began_s)
                for node, began_s, ended_s in held
            )
            for warning in warnings
        ),
    }


def warnings_of(record: RunRecord) -> list[Warned]:
    """The warnings of a run in the order in which they began; of one that changed its class the first row counts."""
    standing: dict[tuple[str, str], Warned] = {}
    found: list[Warned] = []
    for row in record.table("forecasts", ["time_s", "node", "gateway", "horizon_s", "lead_s"]).to_pylist():
        of = (row["node"], row["gateway"])
        if math.isinf(row["lead_s"]):
            if of in standing:
                standing.pop(of).ended_s = row["time_s"]
        elif of not in standing:
            standing[of] = Warned(row["node"], row["time_s"], row["time_s"] + row["horizon_s"])
            found.append(standing[of])
    return found


def _foretold(sign: dict[str, Any], warnings: list[Warned]) -> bool:
    failed_s = sign["ended_s"] if sign["outcome"] == "failed" else sign["due_s"]
    latest_s = min(failed_s - ACTION_S, sign["ended_s"] if sign["ended_s"] is not None else math.inf)
    return any(
        warning.node == sign["node"] and warning.began_s <= latest_s and warning.ended_s >= sign["began_s"]
        for warning in warnings
    )
