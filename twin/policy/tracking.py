"""What is normal: requests that each node serves, how long actions take, and how fast the error budget burns.

The burn rate is the share of failed attempts over the share that the objective allows: 1 spends the budget exactly in the
objective's period. Two windows must agree, a long one (it matters) and a twelfth of it (it still goes on), as in the
Google SRE workbook, chapter 5, "Alerting on SLOs".
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from twin.policy.views import ClusterView, NodeView

RATE_WEIGHT: Final = 0.2
"""Of the newest look in the rate of a node."""

WORTH_MIN_RPS: Final = 1.0 / 60.0
"""Assumption: a node of which nothing is asked so far is worth a request a minute."""

LOAD_PRIOR_S: Final = 5.0
RESTART_PRIOR_S: Final = 4.0
"""Assumptions, until the first was seen."""

DURATION_WEIGHT: Final = 0.3
SHORT_SHARE: Final = 12
"""The short window is a twelfth of the long one."""

FAST_BURN: Final = 14.4
"""Burn rate from which on the budget counts as burning: 2 % of a month's in an hour (the workbook's first page)."""

ATTEMPTS_MIN: Final = 20
"""Fewer ended attempts than this in the short window say nothing."""


class Tracker:
    """Looks every few seconds; what is counted in between is two additions."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.parameters = view.parameters.performance_tracking
        self.due_s = 0.0
        self.last_s = 0.0
        self.served = dict.fromkeys(view.nodes, 0)
        self.rates_rps = dict.fromkeys(view.nodes, 0.0)
        self.looks = 0
        self.load_s = LOAD_PRIOR_S
        self.restart_s = RESTART_PRIOR_S
        self.succeeded = 0
        self.failed = 0
        self.samples: deque[tuple[float, int, int]] = deque()  # when; succeeded and failed by then
        self.burning = ""  # in words, while it does

    def look(self, now: float) -> None:
        """Take stock, where it is time."""
        if now < self.due_s:
            return
        self.due_s = now + self.parameters.period_s
        passed_s = now - self.last_s
        if passed_s > 0.0:
            for name, node in self.view.nodes.items():
                if node.health == "serving":
                    # What it would serve is what it served when it was well.
                    rate_rps = (node.served - self.served[name]) / passed_s
                    weight = RATE_WEIGHT if self.rates_rps[name] else 1.0
                    self.rates_rps[name] += weight * (rate_rps - self.rates_rps[name])
                self.served[name] = node.served
        self.last_s = now
        self._burn(now)

    def rate_rps(self, node: NodeView) -> float:
        """Requests a second that the node serves when it is well: its own, or at least what the others do on average."""
        rates = self.rates_rps
        mean_rps = sum(rates.values()) / len(rates)
        return max(rates[node.name], mean_rps, WORTH_MIN_RPS)

    def took(self, kind: str, seconds: float) -> None:
        """An action was done after so long."""
        if kind == "load":
            self.load_s += DURATION_WEIGHT * (seconds - self.load_s)
        elif kind == "restart":
            self.restart_s += DURATION_WEIGHT * (seconds - self.restart_s)

    def _burn(self, now: float) -> None:
        if not self.parameters.enabled:
            return
        self.samples.append((now, self.succeeded, self.failed))
        window_s = self.parameters.window_s
        while len(self.samples) > 1 and self.samples[1][0] <= now - window_s:
            self.samples.popleft()
        long_rate, _ = self._rate(now - window_s)
        short_rate, attempts = self._rate(now - window_s / SHORT_SHARE)
        if attempts >= ATTEMPTS_MIN and long_rate >= FAST_BURN and short_rate >= FAST_BURN:
            self.burning = (
                f"the error budget burns {long_rate:.0f} times too fast over {window_s:g} s "
                f"and {short_rate:.0f} times over the last {window_s / SHORT_SHARE:g} s"
            )
        else:
            self.burning = ""

    def _rate(self, since_s: float) -> tuple[float, int]:
        """The burn rate since then, and of how many attempts."""
        succeeded, failed = self.samples[0][1], self.samples[0][2]
        for time_s, good, bad in self.samples:
            if time_s > since_s:
                break
            succeeded, failed = good, bad
        good, bad = self.succeeded - succeeded, self.failed - failed
        ended = good + bad
        return (bad / ended / (1.0 - self.parameters.objective) if ended else 0.0), ended

    def snapshot(self, now: float) -> dict[str, Any]:
        """Plain data."""
        return {
            "rates_rps": dict(self.rates_rps),
            "load_s": self.load_s,
            "restart_s": self.restart_s,
            "served": dict(self.served),
            "ended": [self.succeeded, self.failed],
            "samples": [[now - time_s, good, bad] for time_s, good, bad in self.samples],
            "burning": self.burning,
            "looked_s_ago": now - self.last_s,
            "due_in_s": self.due_s - now,
        }

    def restore(self, now: float, known: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        for name, served in known["served"].items():
            if name in self.served:
                self.served[name] = int(served)
        self.succeeded, self.failed = (int(count) for count in known["ended"])
        for ago_s, good, bad in known["samples"]:
            self.samples.append((now - float(ago_s), int(good), int(bad)))
        self.burning = str(known["burning"])
        self.last_s = now - float(known["looked_s_ago"])
        self.due_s = now + float(known["due_in_s"])
        for name, rate_rps in known["rates_rps"].items():
            if name in self.rates_rps:
                self.rates_rps[name] = float(rate_rps)
        self.load_s = float(known["load_s"])
        self.restart_s = float(known["restart_s"])
