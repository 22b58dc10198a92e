"""What an interval looked like, in counts: what adaptation goes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from twin.policy.adaptation import Seen, symptom_of
from twin.policy.vocabulary import AttemptEnded, Incident, Observation, Route

SILENCES = frozenset({"first_token_timeout", "stall_timeout"})


class Tally:
    """Counts from one `take` to the next."""

    def __init__(self) -> None:
        self._requests = 0
        self._bad = 0
        self._symptoms: Counter[str] = Counter()
        self._since_s = 0.0

    def routed(self, route: Route, attempt: int) -> None:
        """An attempt was routed, or its request turned away or given up."""
        self._requests += not attempt
        self.released(route)

    def released(self, route: Route) -> None:
        """A request that waited goes on, or is turned away."""
        if route.kind == "shed":
            self._bad += 1
            symptom = symptom_of(route.reason)
            if symptom:
                self._symptoms[symptom] += 1

    def observed(self, observation: Observation) -> None:
        """An attempt ended."""
        if isinstance(observation, AttemptEnded):
            if observation.error in SILENCES:
                self._symptoms[observation.error] += 1
            elif observation.error == "deadline":
                self._bad += 1

    def take(self, now: float, incidents: Sequence[Incident]) -> tuple[Seen, list[str]]:
        """The counts since the last time, and the diagnoses of the incidents that were opened in it."""
        fresh = [it for it in incidents if it.opened_s >= self._since_s and not it.diagnosis.startswith("foreseen_")]
        self._symptoms["false_suspicions"] = sum(it.state == "closed" and not it.actions for it in fresh)
        seen = Seen(self._requests, self._bad, dict(self._symptoms))
        self._requests = self._bad = 0
        self._symptoms = Counter()
        self._since_s = now
        return seen, [it.diagnosis for it in fresh]
