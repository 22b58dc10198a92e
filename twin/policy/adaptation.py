"""Learns settings: what was seen points at a parameter, a world tries other values of it, and what is applied is watched.

This part proposes and judges; it simulates nothing and applies nothing. `propose` is asked once an interval with what was
seen in it; whoever drives it has each proposal tried (`twin.experiment.adapt` does so in the twin, on the recent load) and
says by `tried` which one was better with confidence. That one is applied, and after a time of watching `watched` says
whether it is kept or rolled back. What was rolled back is not proposed again for a long time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from twin.policy.parameters import Parameters, Value, find

Phase: TypeAlias = Literal["idle", "trying", "watching"]
AdaptationEvent: TypeAlias = Literal["proposed", "none_better", "applied", "kept", "rolled_back"]

TRANSITIONS: Final[dict[tuple[Phase, AdaptationEvent], Phase]] = {
    ("idle", "proposed"): "trying",
    ("trying", "none_better"): "idle",
    ("trying", "applied"): "watching",
    ("watching", "kept"): "idle",
    ("watching", "rolled_back"): "idle",
}
"""What is not listed changes nothing."""

WORSE_SHARE: Final = 0.1
"""Assumption: while it is watched, a setting is rolled back where a tenth more requests are bad than before ..."""

WORSE_BEYOND: Final = 2.0
"""... and that is beyond this many standard deviations of chance (counts of rare events: Poisson)."""

BANNED_S: Final = 86400.0
"""Assumption: what was rolled back is not tried again for a day."""

SYMPTOM_SHARE: Final = 0.005
"""A symptom that fewer requests than this share show is no reason to change anything."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An interval, in counts. `symptoms`: how many attempts ended with which error, and what else was counted."""

    requests: int
    bad: int  # lost, or turned away
    symptoms: dict[str, int]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Another value of one parameter."""

    key: str
    value: Value
    was: Value
    reason: str


@dataclass(frozen=True, slots=True)
class Lever:
    """A symptom and the parameter that may cause it. `factors`: what its value is multiplied by, each to be tried."""

    symptom: str
    key: str
    factors: tuple[float, ...]
    why: str


LEVERS: Final[tuple[Lever, ...]] = (
    Lever(
        "first_token_timeout",
        "router.first_token_deadline_s",
        (2.0, 4.0, 0.5),
        "attempts were given up before their first token",
    ),
    Lever("stall_timeout", "router.stall_timeout_s", (2.0, 4.0, 0.5), "attempts were given up between two tokens"),
    Lever("attempts_failed", "retry.attempts_max", (2.0, 0.0), "requests failed after all their attempts"),
    Lever("budget_spent", "retry.budget_ratio", (2.0, 0.5), "the retry budget was spent"),
    Lever("queue_full", "admission.queue_max", (4.0, 0.25), "requests were turned away from a full queue"),
    Lever("false_actions", "slowness.failing_ratio", (1.5,), "nodes were disturbed that nothing was wrong with"),
    Lever("false_suspicions", "probes.generation_suspect_s", (2.0, 4.0), "nodes were suspected and found well"),
    Lever("slow_detection", "probes.generation_period_s", (0.5,), "failures were found late"),
    Lever("slow_detection", "probes.period_s", (0.5,), "failures were found late"),
)
"""Where to look. Adding one is a row here."""


ADAPTABLE: Final = frozenset({lever.key for lever in LEVERS})
"""What a policy takes another value of while it runs."""

REASONS: Final[tuple[tuple[str, str], ...]] = (
    ("attempts failed", "attempts_failed"),
    ("budget is spent", "budget_spent"),
    ("queue", "queue_full"),
)
"""What stands in the reason with which a request was turned away, and the symptom that it is."""


def symptom_of(reason: str) -> str:
    """The symptom that the reason of a request's end stands for; empty: none."""
    for said, symptom in REASONS:
        if said in reason:
            return symptom
    return ""


class Adaptation:
    """Proposes, one change at a time."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.phase: Phase = "idle"
        self.due_s = 0.0
        self.asked_s = 0.0  # when something was proposed last
        self.applied: Proposal | None = None
        self.before: Seen | None = None  # what the applied change is held against
        self.not_before_s: dict[str, float] = {}
        self.history: list[str] = []  # what was done, in words

    def _happened(self, event: AdaptationEvent) -> None:
        self.phase = TRANSITIONS.get((self.phase, event), self.phase)

    def propose(self, now: float, seen: Seen) -> list[Proposal]:
        """What to try, for the symptoms of the interval, the most frequent first; empty: nothing."""
        settings = self.parameters.config_adaptation
        if not settings.enabled or self.phase != "idle" or not seen.requests or now < self.due_s:
            return []
        self.due_s = now + settings.interval_s
        values = self.parameters.values()
        found: list[Proposal] = []
        for lever in sorted(LEVERS, key=lambda it: -seen.symptoms.get(it.symptom, 0)):
            count = seen.symptoms.get(lever.symptom, 0)
            if count < SYMPTOM_SHARE * seen.requests or not count:
                continue
            was = values[lever.key]
            for factor in lever.factors:
                value = _moved(lever.key, was, factor)
                name = f"{lever.key}={value}"
                if value == was or now < self.not_before_s.get(name, 0.0):
                    continue
                reason = f"{lever.why}: {count} of {seen.requests} requests"
                found.append(Proposal(lever.key, value, was, reason))
        if found:
            self.asked_s = now
            self._happened("proposed")
            self.before = seen
        return found

    def tried(self, best: Proposal | None, evidence: str, *, advised: bool = False) -> None:
        """What the trials gave: the proposal that was better than what is, with confidence; None: none was.

        `advised`: it is said, and not applied; nor is it tried again for a day.
        """
        if self.phase != "trying":
            return
        if best is None:
            self._happened("none_better")
            self.history.append(f"nothing changed: {evidence}")
            return
        if advised:
            self._happened("none_better")
            self.not_before_s[f"{best.key}={best.value}"] = self.asked_s + BANNED_S
            self.history.append(f"advice: {best.key} {best.was} -> {best.value}, because {best.reason}; {evidence}")
            return
        self.parameters = self.parameters.with_values({best.key: best.value})
        self.applied = best
        self._happened("applied")
        self.history.append(f"{best.key} {best.was} -> {best.value}, because {best.reason}; {evidence}")

    def watched(self, now: float, seen: Seen) -> bool:
        """Whether the applied change stays, by what was seen since. Where not, the parameters are what they were."""
        applied, before = self.applied, self.before
        if self.phase != "watching" or applied is None or before is None or not seen.requests:
            return True
        expected = before.bad * seen.requests / max(1, before.requests)
        limit = expected * (1.0 + WORSE_SHARE) + WORSE_BEYOND * max(1.0, expected) ** 0.5
        self.applied = None
        said = f"{seen.bad} of {seen.requests} requests were bad, {expected:.1f} expected"
        if seen.bad <= limit:
            self._happened("kept")
            self.history.append(f"{applied.key} {applied.value} is kept: {said}")
            return True
        self.parameters = self.parameters.with_values({applied.key: applied.was})
        self.not_before_s[f"{applied.key}={applied.value}"] = now + BANNED_S
        self._happened("rolled_back")
        self.history.append(f"{applied.key} {applied.value} -> {applied.was}, rolled back: {said}")
        return False


def _moved(key: str, was: Value, factor: float) -> Value:
    """The value times the factor, within the parameter's bounds; a whole number moves by one at least."""
    parameter = find(key)
    assert isinstance(was, (int, float))
    moved = was * factor
    if parameter.low is not None:
        moved = max(parameter.low, moved)
    if parameter.high is not None:
        moved = min(parameter.high, moved)
    if isinstance(parameter.default, int):
        whole = round(moved)
        return whole if whole != was or factor <= 1.0 else min(int(parameter.high or whole), whole + 1)
    return round(moved, 6)
