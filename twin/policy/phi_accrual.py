"""How surely a silence means that a node cannot be reached: the φ accrual detector of N. Hayashibara, X. Défago,
R. Yared and T. Katayama, "The φ Accrual Failure Detector" (SRDS 2004).

φ = -log10(P), P being the probability that the next sign of life comes later than now, were the node there: of a normal
distribution with the mean and deviation of the last intervals between signs of life. Where the network loses or delays
answers now and then, intervals spread, and the same silence means less. φ = 1 is wrong one time in ten, φ = 8 one in
10^8, by that distribution.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW: Final = 200
"""Intervals that are remembered (the paper: 1,000; probes are a second apart, and networks change within minutes)."""
INTERVALS_MIN: Final = 10
"""With fewer nothing is known, and φ is infinite: who asks goes by something else."""
DEVIATION_MIN: Final = 0.1
"""Of the mean: regular answers must not make a detector that takes a hiccup for a death."""


class PhiAccrual:
    """The intervals between the signs of life of one node. Times and intervals are in seconds."""

    __slots__ = ("intervals_s", "last_s", "squares", "total_s")

    def __init__(self) -> None:
        self.intervals_s: deque[float] = deque()
        self.last_s = math.nan
        self.total_s = 0.0
        self.squares = 0.0

    def heard(self, now: float, since_s: float) -> None:
        """A sign of life. `since_s`: when there was another that is not counted here (a request that ended well)."""
        last_s = since_s if not self.last_s >= since_s else self.last_s  # nan: there was none
        interval_s = now - last_s
        self.last_s = now
        if interval_s <= 0.0:
            return
        self.intervals_s.append(interval_s)
        self.total_s += interval_s
        self.squares += interval_s * interval_s
        if len(self.intervals_s) > WINDOW:
            oldest_s = self.intervals_s.popleft()
            self.total_s -= oldest_s
            self.squares -= oldest_s * oldest_s

    def forget(self) -> None:
        """The node was away: the silence was no interval between two signs of life."""
        self.last_s = math.nan

    def phi(self, silence_s: float) -> float:
        """φ of a silence that has lasted so long; infinite where too little is known, or beyond what a float can say."""
        count = len(self.intervals_s)
        if count < INTERVALS_MIN:
            return math.inf
        mean_s = self.total_s / count
        variance = max(0.0, self.squares / count - mean_s * mean_s)
        deviation_s = max(math.sqrt(variance), DEVIATION_MIN * mean_s)
        later = 0.5 * math.erfc((silence_s - mean_s) / (deviation_s * math.sqrt(2.0)))
        return -math.log10(later) if later > 0.0 else math.inf
