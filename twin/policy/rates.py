"""How often which remedy helps: Beta posteriors from verified outcomes, over all nodes and for each node.

An outcome counts only when it is verified: a generation passed and the node held (a success), or it did not (a failure).
What a remedy prevented cannot be seen; a precaution after which nothing failed counts as a success only with the
probability that its forecast gave to the failure.
"""

from __future__ import annotations

from typing import Any, Final

from twin.policy.remedies.base import Prior, Remedy

PRIOR_OUTCOMES: Final = 10.0
"""Assumption: a prior weighs as much as ten outcomes."""

NODE_OUTCOMES: Final = 6.0
"""Assumption: what all nodes together have shown weighs, for one node, as much as six outcomes of its own."""

AGAIN: Final = 0.5
"""Assumption: a remedy that has just not helped is half as likely to help when it is done again."""

NOT_KNOWN: Final = Prior(0.0, "not known to help")


class Rates:
    """Successes and failures, by (remedy, ailment) and by (remedy, ailment, node)."""

    def __init__(self, interval_s: float = 0.0) -> None:
        self.seen: dict[str, tuple[float, float]] = {}  # key: successes, failures
        self.interval_s = interval_s
        self.learns_s = 0.0
        self.kept: list[tuple[str, str, str, float, float]] = []  # outcomes that are not learnt from yet

    def note(self, remedy: str, ailment: str, node: str, success: float, failure: float) -> None:
        """An outcome, or a part of one."""
        if self.interval_s:
            self.kept.append((remedy, ailment, node, success, failure))
        else:
            self._learn(remedy, ailment, node, success, failure)

    def look(self, now: float) -> None:
        """Learn from what was kept, where it is time."""
        if now < self.learns_s:
            return
        self.learns_s = now + self.interval_s
        for remedy, ailment, node, success, failure in self.kept:
            self._learn(remedy, ailment, node, success, failure)
        self.kept.clear()

    def _learn(self, remedy: str, ailment: str, node: str, success: float, failure: float) -> None:
        for key in (f"{remedy} {ailment}", f"{remedy} {ailment} {node}"):
            successes, failures = self.seen.get(key, (0.0, 0.0))
            self.seen[key] = (successes + success, failures + failure)

    def outcomes(self, remedy: str, ailment: str) -> float:
        """How many have been seen."""
        successes, failures = self.seen.get(f"{remedy} {ailment}", (0.0, 0.0))
        return successes + failures

    def mean(self, remedy: Remedy, ailment: str, node: str, tried: int = 0) -> float:
        """The posterior mean of its success on this node, after it has not helped `tried` times in this incident."""
        prior = remedy.about.mends.get(ailment, NOT_KNOWN).success
        successes, failures = self.seen.get(f"{remedy.name} {ailment}", (0.0, 0.0))
        pooled = (PRIOR_OUTCOMES * prior + successes) / (PRIOR_OUTCOMES + successes + failures)
        successes, failures = self.seen.get(f"{remedy.name} {ailment} {node}", (0.0, 0.0))
        own = (NODE_OUTCOMES * pooled + successes) / (NODE_OUTCOMES + successes + failures)
        mean: float = own * AGAIN**tried
        return mean

    def snapshot(self) -> dict[str, Any]:
        """Plain data; what is not learnt from yet is."""
        whole = self
        if self.kept:
            whole = Rates()
            whole.seen = dict(self.seen)
            for remedy, ailment, node, success, failure in self.kept:
                whole.note(remedy, ailment, node, success, failure)
        return {key: list(counts) for key, counts in sorted(whole.seen.items())}

    def restore(self, known: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        for key, (successes, failures) in known.items():
            self.seen[key] = (float(successes), float(failures))
