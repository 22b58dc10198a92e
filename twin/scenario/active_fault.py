"""A fault as it was really done to a node: what both worlds keep of it, and the row that it leaves in the record."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from twin.scenario.faults.base import Fault, Step

SignsOutcome: TypeAlias = Literal["", "failed", "averted", "nothing", "teardown"]
EndedBy: TypeAlias = Literal["", "schedule", "action", "teardown"]

OPERATIONS_SHOWN = 8


class ActiveFault:
    """One fault on one node, from injection to its end. Times are on the run's clock; nan: not yet."""

    def __init__(self, place: int, fault: Fault, node: str, struck: str = "") -> None:
        self.place = place  # in the scenario's list
        self.fault = fault
        self.node = node
        self.struck = struck or node  # or the rack, zone or gateway whose uplink is broken
        self.signs_s = math.nan  # when its signs began
        self.signs_ended_s = math.nan
        self.signs_outcome: SignsOutcome = ""
        self.armed_s = math.nan  # when its onset was performed
        self.injected_s = math.nan  # the same, or later where the failure emerges out of the load
        self.ended_s = math.nan
        self.ended_by: EndedBy = ""
        self.results: list[str] = []  # what became of operations that take their time
        self.done: list[str] = []  # operations, as they were performed

    @property
    def begun(self) -> bool:
        """It was injected."""
        return not math.isnan(self.injected_s)

    @property
    def active(self) -> bool:
        """Armed, and not ended."""
        return not math.isnan(self.armed_s) and not self.ended_by

    def begin(self, now: float, *, waits: bool = False) -> None:
        """Its onset is performed; `waits`: the failure itself is told later, by `emerged`."""
        self.armed_s = now
        if not waits:
            self.injected_s = now

    def emerged(self, now: float) -> None:
        """The failure itself has come, for the first time or again."""
        if self.active and not self.begun:
            self.injected_s = now

    @property
    def showing(self) -> bool:
        """Its signs are there, and it has not come."""
        return not math.isnan(self.signs_s) and not self.signs_outcome

    def end_signs(self, now: float, outcome: SignsOutcome) -> None:
        """The signs passed into the failure, were averted, or came to nothing."""
        self.signs_ended_s = now
        self.signs_outcome = outcome

    def signs_row(self) -> tuple[object, ...]:
        """In the order of the table `signs`."""
        due_s = None if self.fault.comes_to_nothing else self.fault.at_s
        kind = self.fault.about.kind
        return (self.place, kind, self.node, self.signs_s, due_s, self.signs_ended_s, self.signs_outcome)

    def note(self, step: Step, remark: str = "") -> None:
        """An operation was performed."""
        name = step.condition or step.operation
        text = f"{name} {step.argument:g}" if step.argument else name
        if step.link is not None and step.link.blocked in ("to_node", "from_node"):
            text += f" {step.link.blocked}"
        self.done.append(f"{text} ({remark})" if remark else text)

    def pulled(self, model: str, error: str) -> None:
        """A pull ended, well where there is no error."""
        self.results.append(f"pull of {model}: {error or 'success'}")

    def end(self, now: float, by: EndedBy) -> None:
        """It is over."""
        self.ended_s = now
        self.ended_by = by

    def row(self) -> tuple[object, ...]:
        """In the order of the table `faults`."""
        duration_s = self.fault.duration_s
        more = f" ... {len(self.done)} in all" if len(self.done) > OPERATIONS_SHOWN else ""
        return (
            self.place,
            self.fault.about.kind,
            self.node,
            self.injected_s,
            None if duration_s is None else self.armed_s + duration_s,
            self.ended_s,
            self.ended_by,
            "; ".join([", ".join(self.done[:OPERATIONS_SHOWN]) + more, *self.results]),
            self.struck,
        )
