"""What the predictor is held against: a score for each row of a world, from the same looks, higher is worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.learn.collect import Seen
from twin.policy.predictor.features import PLACE
from twin.policy.predictor.statistical import (
    COUNTED_PLACE,
    COUNTER_SPREADS,
    WATCHED_CHANGE,
    WATCHED_DEVIATION,
    WATCHED_SIGN,
)

Scores = npt.NDArray[np.float32]

FOREST_ROWS_MAX = 50_000
HEARTBEATS = 20

RULES: tuple[tuple[str, float, float], ...] = (
    ("vram_free", 0.1, -1.0),
    ("ram_used", 0.9, 1.0),
    ("swap_used", 0.01, 1.0),
    ("temperature", 83.0, 1.0),
    ("disk_free", 0.1, -1.0),
    ("gpu_fault_events.window", 1.0, 1.0),
    ("gpu_errors_uncorrected.window", 1.0, 1.0),
    ("ollama_error_lines.window", 3.0, 1.0),
    ("failures", 3.0, 1.0),
    ("pace", 1.5, 1.0),
)
"""Limits as an operator would set alarms: signal, limit, and whether above (1) or below (-1) is bad. An assumption."""


def rules(seen: Seen) -> Scores:
    """The largest exceedance of a fixed limit, in limits."""
    found = np.zeros(len(seen.node))
    for name, limit, sign in RULES:
        value = seen.features[:, PLACE[name]].astype(float)
        ratio = value / limit if sign > 0 else limit / np.maximum(value, 1e-3)
        found = np.fmax(found, ratio)
    return found.astype(np.float32)


def accrual(seen: Seen) -> Scores:
    """Phi-accrual on the arrival of telemetry (Hayashibara 2004), with ejection of outliers: the larger of phi, of failed
    attempts, and of how far the node's pace is from the median of its peers at that time."""
    found = np.zeros(len(seen.node))
    pace = seen.features[:, PLACE["pace"]].astype(float)
    failures = seen.features[:, PLACE["failures"]].astype(float)
    latest: dict[int, float] = {}
    arrivals: dict[int, list[float]] = {}
    last_s: dict[int, float] = {}
    for row, (place, now) in enumerate(zip(seen.node.tolist(), seen.time_s.tolist(), strict=True)):
        gaps = arrivals.setdefault(place, [])
        phi = 0.0
        if place in last_s:
            gap = now - last_s[place]
            if len(gaps) >= 5:
                spread = max(float(np.std(gaps)), 1.0)
                away = (gap - float(np.mean(gaps))) / spread
                # The logistic approximation of the normal tail, as in Akka's detector.
                tail = 1.0 / (1.0 + np.exp(min(away * (1.5976 + 0.070566 * away * away), 50.0)))
                phi = -float(np.log10(max(tail, 1e-12)))
            gaps.append(gap)
            del gaps[:-HEARTBEATS]
        last_s[place] = now
        if pace[row] == pace[row]:
            latest[place] = pace[row]
        others = [it for other, it in latest.items() if other != place]
        outlier = pace[row] / max(float(np.median(others)), 0.1) if others and pace[row] == pace[row] else 0.0
        found[row] = max(phi / 8.0, outlier / 2.0, failures[row] / 5.0)
    return found.astype(np.float32)


def autoregression(seen: Seen) -> Scores:
    """AR(1) residuals, EWMA and CUSUM of the watched signals with drift adaptation: the largest, in spreads."""
    sign = np.array(WATCHED_SIGN)
    change = seen.features[:, WATCHED_CHANGE] * sign
    deviation = seen.features[:, WATCHED_DEVIATION] * sign
    counted = COUNTER_SPREADS * seen.features[:, COUNTED_PLACE]
    columns = np.column_stack([change, deviation, counted])
    found: Scores = np.nan_to_num(columns, nan=0.0).max(axis=1).astype(np.float32)
    return found


class Forest:
    """Scikit-learn's isolation forest on the same features, fitted without labels on the calibration worlds."""

    def __init__(self, worlds: Sequence[Seen]) -> None:
        from sklearn.ensemble import IsolationForest  # noqa: PLC0415

        rows = np.concatenate([it.features for it in worlds])
        step = max(1, len(rows) // FOREST_ROWS_MAX)
        self._forest: Any = IsolationForest(n_estimators=100, random_state=0, n_jobs=1).fit(_known(rows[::step]))

    def __call__(self, seen: Seen) -> Scores:
        """How easily each row is isolated."""
        found: Scores = (-self._forest.score_samples(_known(seen.features))).astype(np.float32)
        return found


def _known(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.nan_to_num(rows, nan=0.0, posinf=1e6, neginf=-1e6)
