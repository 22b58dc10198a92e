"""An incident: one failure of one node, from detection to its verified end, as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from twin.policy.vocabulary import NEVER_S, Incident, IncidentState

IncidentEvent: TypeAlias = Literal[
    "acted",  # a disruptive action was ordered
    "action_done",
    "action_failed",
    "passed",  # an independent generation came through
    "failed",  # one did not, or requests failed again
    "held",  # nothing failed for the hold time
    "exhausted",  # no remedy is left
]

TRANSITIONS: Final[dict[tuple[IncidentState, IncidentEvent], IncidentState]] = {
    ("open", "acted"): "acting",
    ("open", "passed"): "holding",  # it came back by itself
    ("open", "exhausted"): "given_up",
    ("acting", "action_done"): "verifying",
    ("acting", "action_failed"): "open",
    ("verifying", "passed"): "holding",
    ("verifying", "failed"): "open",
    ("holding", "failed"): "open",  # a relapse: the same incident, the next remedy
    ("holding", "held"): "closed",
    ("given_up", "passed"): "holding",
}
"""What is not listed changes nothing."""


@dataclass(slots=True)
class OpenIncident:
    """An incident with what its handling needs to remember."""

    incident: Incident
    not_before_s: float = -math.inf  # no further action before
    verify_by_s: float = NEVER_S  # the verifying generation must have passed
    hold_until_s: float = NEVER_S
    pending_action: int | None = None
    drained_at_s: float = math.nan
    earlier_actions: int = 0  # on the same node, in earlier incidents that this one follows soon

    def happened(self, event: IncidentEvent) -> bool:
        """Advance the state; true where it changed."""
        state = TRANSITIONS.get((self.incident.state, event), self.incident.state)
        changed = state != self.incident.state
        self.incident.state = state
        return changed
