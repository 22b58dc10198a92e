"""One signal over time, in constant memory and constant time a sample.

Samples come when they come; every weight follows from the time that has passed. Three things are kept of a signal:

- its *normal*: mean and first-order auto-regression over a slow window, so that what drifts slowly is normal by and by
  (drift adaptation), and the residual of the one-step prediction in units of its own spread;
- a *change-point*: Page's CUSUM of these residuals, both ways (E. S. Page, Biometrika 41, 1954);
- its *trend*: the slope of an exponentially weighted regression on time over the window.

A gap of several windows makes the trend begin anew; time that stands still or runs backwards is not counted.
"""

from __future__ import annotations

import math
from typing import Final

CUSUM_SLACK: Final = 0.75
"""Residuals up to this many spreads are no change."""
CUSUM_MAX: Final = 60.0
RESIDUAL_MAX: Final = 4.0
"""A residual beyond this many spreads teaches the spread no more than this."""
SHOWN_MAX: Final = 30.0
SAMPLES_MIN: Final = 8
"""Before so many samples nothing is unusual."""
PHI_MAX: Final = 0.9
NAN: Final = math.nan


class Track:
    """One signal. `floor` is the smallest spread that is believed: what is reported exactly has none."""

    __slots__ = (
        "count",
        "covariance",
        "down",
        "fast",
        "floor",
        "lag_covariance",
        "last",
        "residual",
        "s0",
        "slow",
        "st",
        "stt",
        "stx",
        "sx",
        "unusual",
        "up",
        "variance",
    )

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.count = 0
        self.last = NAN
        self.fast = 0.0
        self.slow = 0.0
        self.covariance = 0.0
        self.lag_covariance = 0.0
        self.variance = floor * floor
        self.residual = 0.0
        self.unusual = 0.0  # residual in spreads, smoothed
        self.up = 0.0
        self.down = 0.0
        self.s0 = self.st = self.stt = self.sx = self.stx = 0.0

    def add(self, value: float, passed_s: float, keep_fast: float, keep_window: float, keep_slow: float) -> None:
        """A sample, `passed_s` after the one before. `keep_*`: the weight that the past keeps, by window. nan: there is
        none, and what was unusual is so less and less."""
        if value != value:
            self.rest(keep_window)
            return
        count = self.count
        if count == 0:
            self.fast = self.slow = value
        else:
            learnt = 1.0 / (count + 1.0)  # the plain mean at first, the slow one later
            weight = 1.0 - keep_slow
            weight = max(weight, learnt)
            away = value - self.slow
            last = self.last
            expected = self.slow
            if last == last:
                before = last - self.slow
                self.covariance += weight * (before * before - self.covariance)
                self.lag_covariance += weight * (away * before - self.lag_covariance)
                if self.covariance > 0.0 and count > SAMPLES_MIN:
                    phi = self.lag_covariance / self.covariance
                    phi = 0.0 if phi < 0.0 else PHI_MAX if phi > PHI_MAX else phi
                    expected += phi * before
            residual = value - expected
            spread = math.sqrt(self.variance)
            spread = max(spread, self.floor)
            scaled = residual / spread
            if count > SAMPLES_MIN:
                self.unusual += (1.0 - keep_fast) * (scaled - self.unusual)
                up = self.up + scaled - CUSUM_SLACK
                down = self.down - scaled - CUSUM_SLACK
                self.up = 0.0 if up < 0.0 else CUSUM_MAX if up > CUSUM_MAX else up
                self.down = 0.0 if down < 0.0 else CUSUM_MAX if down > CUSUM_MAX else down
            taught = RESIDUAL_MAX * spread
            taught = residual if -taught < residual < taught else taught
            self.variance += weight * (taught * taught - self.variance)
            self.slow += weight * away
            self.fast += (1.0 - keep_fast) * (value - self.fast)
        s0, st, sx = self.s0, self.st, self.sx
        self.stt = keep_window * (self.stt - 2.0 * passed_s * st + passed_s * passed_s * s0)
        self.st = keep_window * (st - passed_s * s0)
        self.stx = keep_window * (self.stx - passed_s * sx)
        self.s0 = keep_window * s0 + 1.0
        self.sx = keep_window * sx + value
        self.last = value
        self.count = count + 1

    def slope(self) -> float:
        """Change per second; 0 before it can be told."""
        if self.count < 4:
            return 0.0
        spread = self.s0 * self.stt - self.st * self.st
        if spread <= 1e-9:
            return 0.0
        return (self.s0 * self.stx - self.st * self.sx) / spread

    def deviation(self) -> float:
        """The recent mean beyond the slow one, in spreads."""
        if self.count <= SAMPLES_MIN:
            return 0.0
        spread = math.sqrt(self.variance)
        spread = max(spread, self.floor)
        away = (self.fast - self.slow) / spread
        return -SHOWN_MAX if away < -SHOWN_MAX else SHOWN_MAX if away > SHOWN_MAX else away

    def change(self) -> float:
        """The change-point's sum: above 0 upwards, below 0 downwards."""
        return self.up if self.up >= self.down else -self.down

    def rest(self, keep: float) -> None:
        """Nothing is seen: evidence ages, what is normal stays."""
        self.last = NAN
        if self.count > 0:
            self.up *= keep
            self.down *= keep
            self.unusual *= keep
            self.fast = self.slow + keep * (self.fast - self.slow)

    def forget_trend(self) -> None:
        """After a gap, or a restart: trend and change begin anew; what is normal stays."""
        self.s0 = self.st = self.stt = self.sx = self.stx = 0.0
        self.up = self.down = self.unusual = 0.0
        self.last = NAN
        if self.count > 0:
            self.count = min(self.count, SAMPLES_MIN)
            self.fast = self.slow
