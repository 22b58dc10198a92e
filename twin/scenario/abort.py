"""When a run is to be broken off: the scenario's `abort_when`, watched in either world."""

from __future__ import annotations

from collections import deque

from twin.scenario.schema import Scenario

JUDGED_AFTER_REQUESTS = 5
"""Fewer ends in the window say nothing."""


class AbortWatch:
    """Follows the success ratio over a sliding window. Without `abort_when` it follows nothing."""

    def __init__(self, scenario: Scenario) -> None:
        self._limit = scenario.abort_when.success_ratio if scenario.abort_when is not None else None
        self._warmup_s = scenario.workload.warmup_s
        self._recent: deque[tuple[float, bool]] = deque()  # end, whether it succeeded

    def ended(self, now: float, succeeded: bool) -> None:
        """An admitted request ended."""
        if self._limit is not None:
            self._recent.append((now, succeeded))

    def reason(self, now: float) -> str:
        """Why the run must be broken off; empty while it may go on."""
        limit = self._limit
        if limit is None:
            return ""
        recent = self._recent
        while recent and recent[0][0] < now - limit.window_s:
            recent.popleft()
        if len(recent) < JUDGED_AFTER_REQUESTS or now < self._warmup_s:
            return ""
        ratio = sum(succeeded for _, succeeded in recent) / len(recent)
        if ratio >= limit.below:
            return ""
        return f"at {now:.1f} s: success ratio {ratio:.2f} over {limit.window_s:g} s, below {limit.below:g}"
