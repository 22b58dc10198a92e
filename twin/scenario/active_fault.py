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

    def __init__(self, place: int, fault: Fault, node: str) -> None:
        self.place = place  # in the scenario's list
        self.fault = fault
        self.node = node
        self.signs_s = math.nan  # when its signs began
        self.signs_ended_s = math.nan
        self.signs_outcome: SignsOutcome = ""
        self.injected_s = math.nan
        self.ended_s = math.nan
        self.ended_by: EndedBy = ""
        self.done: list[str] = []  # operations, as they were performed

    @property
    def begun(self) -> bool:
        """It was injected."""
        return not math.isnan(self.injected_s)

    @property
    def active(self) -> bool:
        """Begun, and not ended."""
        return self.begun and not self.ended_by

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
        self.done.append(f"{text} ({remark})" if remark else text)

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
            None if duration_s is None else self.injected_s + duration_s,
            self.ended_s,
            self.ended_by,
            ", ".join(self.done[:OPERATIONS_SHOWN]) + more,
        )
