"""An incident: one failure of one node, from detection to its verified end, as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from twin.policy.choice import Option
from twin.policy.vocabulary import NEVER_S, Incident, IncidentState

IncidentEvent: TypeAlias = Literal[
    "set_aside",  # a node that still serves gets nothing more, and is repaired once it is idle
    "withheld",  # it is given back without a repair: too few others serve what it has
    "acted",  # a disruptive action was ordered
    "action_done",
    "action_failed",
    "passed",  # an independent generation came through
    "failed",  # one did not, or requests failed again
    "held",  # nothing failed for the hold time
    "exhausted",  # no remedy is left
    "dropped",  # what was to be forestalled has come as an incident of its own, or there is nothing more to do about it
    "left_behind",  # the failure left something behind that must be mended, too
]

TRANSITIONS: Final[dict[tuple[IncidentState, IncidentEvent], IncidentState]] = {
    ("open", "set_aside"): "draining",
    ("open", "acted"): "acting",
    ("open", "passed"): "holding",  # it came back by itself
    ("open", "exhausted"): "given_up",
    ("open", "dropped"): "closed",
    ("draining", "acted"): "acting",
    ("draining", "withheld"): "open",
    ("draining", "exhausted"): "given_up",
    ("draining", "dropped"): "closed",
    ("acting", "action_done"): "verifying",
    ("acting", "action_failed"): "open",
    ("verifying", "passed"): "holding",
    ("verifying", "failed"): "open",
    ("verifying", "dropped"): "closed",
    ("holding", "dropped"): "closed",
    ("holding", "failed"): "open",  # a relapse: the same incident, the next remedy
    ("holding", "held"): "closed",
    ("given_up", "passed"): "holding",
    ("given_up", "dropped"): "closed",
    ("verifying", "left_behind"): "open",
    ("holding", "left_behind"): "open",
    ("given_up", "left_behind"): "open",
    ("closed", "left_behind"): "open",  # a short while ago: it was not yet over
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
    acted_before_s: float = -math.inf  # when its node had an action before the last one
    drained_at_s: float = math.nan
    withheld: bool = False  # the floor of replicas kept its node from being set aside, at least for a while
    earlier_actions: int = 0  # on the same node, in earlier incidents that this one follows soon
    relapses: int = 0  # earlier incidents that this one follows soon, each the last
    ailment: str = ""  # what remedies are chosen by: the diagnosis, or the failure class that was foretold
    foreseen: bool = False  # nothing has failed so far
    no_orphan: bool = False  # whoever was to kill a runner that outlived its server has found none
    lost_server: bool = False  # its server process ended, by the failure or by a repair: a runner may have outlived it
    probability: float = 1.0  # that it is so, or would be
    harm: float = 0.0  # requests that a foreseen failure would cost
    choice: Option | None = None  # what is being done, or was last
    reason: str = ""  # why that, and not something else
    tried: dict[str, int] = field(default_factory=dict)  # remedies that did not help, and how often
    rest_until_s: float = NEVER_S
    drop_at_s: float = NEVER_S  # a foreseen failure about which nothing could be done until then
    question: int = 0  # to who looks ahead; 0: none was asked
    answer_by_s: float = NEVER_S

    @property
    def trouble(self) -> str:
        """What is wrong, or is expected to be, in one word. In the course of an incident it may become another."""
        return self.incident.diagnosis if self.foreseen else self.ailment

    def happened(self, event: IncidentEvent) -> bool:
        """Advance the state; true where it changed."""
        state = TRANSITIONS.get((self.incident.state, event), self.incident.state)
        changed = state != self.incident.state
        self.incident.state = state
        return changed
