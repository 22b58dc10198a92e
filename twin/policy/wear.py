"""Runners that fail after the same number of requests each time: worn out, and best replaced beforehand.

A leak in a runner shows in nothing but the count of what it has taken (ollama/ollama issues 1863, 12640: hangs after some
hundred requests; on real nodes after as many cancelled streams). Whoever stands before the nodes can count. Where a replica
has failed twice or more, each time after about as many requests, its next failure is foretold for that count; what is done
about it is weighed as with any forecast. One that outlasts it clearly refutes the belief.

One hang is no pattern. But for an hour after it a runner that comes near the count is renewed (`worn`) where that costs
nobody anything: while it is idle, and others serve its model. A hang that came by chance after so few requests that they
are taken within the hour costs a few such reloads; after the hour the count is left to show itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twin.policy.forecast import Forecast, Forecaster
from twin.policy.views import ClusterView, Replica
from twin.policy.vocabulary import NEVER_S, Incident

TAKEN_MIN: Final = 20
"""A runner that failed sooner than this was not worn out."""

REMEMBERED: Final = 4
"""Failures of a replica, the newest."""

ALIKE: Final = 1.1
"""Counts whose largest is at most this many times the smallest agree. (Two failures that come whenever they like, so that
their counts are exponential, do so in one of twenty cases: (r - 1) / (r + 1).)"""

WORN_SHARE: Final = 0.3
"""Assumption: of runners that hang more than once, so many do it by their count."""

CHANCE_MIN: Final = 0.01
"""Assumption: counts that agree better than by this chance prove no more; others may take requests past us."""

HORIZON_S: Final = 120.0
"""What is further off can wait: the longer a runner lives, the fewer are replaced."""
MARGIN: Final = 0.95
"""Of the smallest count: by then it is to be done, since requests that we do not see count too."""

RATE_OVER_S: Final = 30.0

RENEWED_S: Final = 3600.0
"""So long after a hang runners are renewed before they have taken as many requests again."""
RENEWED_MIN: Final = 100
"""Hangs after fewer requests are not met so: that would be a reload every few minutes. (Leaks show after some hundred.)"""
RENEWED_SHARE: Final = 0.75
"""Of the smallest count: then it is looked for a moment in which the runner is idle."""


class Count:
    """One replica's history."""

    __slots__ = ("failures", "hung_s", "looked_s", "rate_rps", "taken")

    def __init__(self) -> None:
        self.failures: list[int] = []  # after how many requests
        self.hung_s = -NEVER_S  # when it was found hung last
        self.looked_s = -NEVER_S
        self.taken = 0  # at that look
        self.rate_rps = 0.0

    def agrees(self) -> bool:
        """Whether the failures came after about as many requests each time."""
        return len(self.failures) >= 2 and max(self.failures) <= ALIKE * min(self.failures)

    def probability(self) -> float:
        """That it is the count which decides, after so many failures that agree so well."""
        ratio = max(self.failures) / min(self.failures)
        by_chance = max(CHANCE_MIN, (ratio - 1.0) / (ratio + 1.0)) ** (len(self.failures) - 1)
        return WORN_SHARE / (WORN_SHARE + (1.0 - WORN_SHARE) * by_chance)

    def look(self, now: float, taken: int) -> None:
        """Follow how fast it takes requests."""
        if taken < self.taken or self.looked_s == -NEVER_S:  # a new runner
            self.looked_s, self.taken = now, taken
        elif now - self.looked_s >= RATE_OVER_S:
            self.rate_rps = (taken - self.taken) / (now - self.looked_s)
            self.looked_s, self.taken = now, taken


class Wear(Forecaster):
    """Counts, and foretells from the second failure on."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.enabled: bool = view.parameters.predictor.enabled and view.parameters.predictor.by_count
        self.counts: dict[tuple[str, str], Count] = {}  # node and model
        self.next_incident = 0  # the number of the first that was not looked at

    def look(self, incidents: Sequence[Incident]) -> None:
        """Take in the runners that were found hung: incidents that were opened since the last look."""
        for incident in incidents:
            self.next_incident = incident.incident_id + 1
            if incident.diagnosis == "runner_hung":
                for replica in self.view.nodes[incident.node].replicas.values():
                    if replica.failures_in_row:
                        self.failed(replica)
                        count = self.counts.get((replica.node.name, replica.model.name))
                        if count is not None:
                            count.hung_s = incident.opened_s

    def failed(self, replica: Replica) -> None:
        """Its runner hangs, or died. (Of a batch that dies together only the first counts: then it begins anew.)"""
        if self.enabled and replica.taken >= TAKEN_MIN:
            count = self.counts.setdefault((replica.node.name, replica.model.name), Count())
            count.failures = [*count.failures[1 - REMEMBERED :], replica.taken]
        replica.taken = 0

    def forecasts(self, now: float) -> list[Forecast]:
        """The replicas that come near the count at which they failed before."""
        found: list[Forecast] = []
        for (name, model), count in self.counts.items():
            replica = self.view.nodes[name].replicas.get(model)
            if replica is None:
                continue
            count.look(now, replica.taken)
            if not count.agrees():
                continue
            least = min(count.failures)
            if replica.taken > ALIKE * max(count.failures):  # it was something else
                count.failures = []
                continue
            left = MARGIN * least - replica.taken
            if not count.rate_rps or left > HORIZON_S * count.rate_rps:
                continue
            said = ", ".join([str(it) for it in count.failures])
            reason = f"{model} failed there after {said} requests, and its runner has taken {replica.taken}"
            lead_s = max(0.0, left / count.rate_rps)
            found.append(Forecast(name, "runner_failure", count.probability(), HORIZON_S, lead_s, (reason,)))
        return found

    def worn(self, now: float) -> list[tuple[Replica, str]]:
        """The replicas whose runner is best renewed in its next idle moment, each with the reason in words.

        The leak is of the node's Ollama, so the count of one model's runner holds for those of the others there.
        """
        found: dict[tuple[str, str], tuple[Replica, str]] = {}
        for (name, model), count in self.counts.items():
            if now - count.hung_s > RENEWED_S or not count.failures or min(count.failures) < RENEWED_MIN:
                continue
            for other, replica in self.view.nodes[name].replicas.items():
                if replica.taken >= RENEWED_SHARE * min(count.failures):
                    said = ", ".join([str(it) for it in count.failures])
                    whose = "its" if other == model else f"{other}'s"
                    why = f"{model} hung on {name} after {said} requests, and {whose} runner has taken {replica.taken}"
                    found.setdefault((name, other), (replica, why))
        return list(found.values())

    def snapshot(self, now: float) -> list[list[Any]]:
        """Plain data: node, model, counts, seconds since it hung (-1: it did not)."""
        return [
            [node, model, list(it.failures), now - it.hung_s if it.hung_s > -NEVER_S else -1.0]
            for (node, model), it in sorted(self.counts.items())
        ]

    def restore(self, now: float, known: list[list[Any]]) -> None:
        """Go on from a snapshot; what the runners have taken since is not known, so they are counted anew."""
        for node, model, failures, hung_s_ago in known:
            if node in self.view.nodes:
                count = self.counts.setdefault((str(node), str(model)), Count())
                count.failures = [int(it) for it in failures]
                if hung_s_ago >= 0.0:
                    count.hung_s = now - float(hung_s_ago)
