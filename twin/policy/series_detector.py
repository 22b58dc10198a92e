"""The statistical family: how unusual a sample of many columns is, given the columns' own past.

Causal and streaming: a sample's score uses that sample and earlier ones alone, and costs O(columns squared). Four parts
look at the same sample, each summed up over the columns as a root mean square of clipped deviations, so that neither one
wild column nor a hundred quiet ones decide:

residual      what an auto-regression over the last samples of all columns did not foretell, in its own deviations
ewma          an exponentially weighted mean of these residuals: small, but again and again to the same side
level         how far a column stands from its own level of the last day: what came slowly is foretold, and so no residual
change_point  the larger of the two one-sided cumulative sums of the residuals (Page 1954)

Drift is adapted to, and causally so: means and deviations follow with a time constant of a day (deviations only upwards:
a quiet week makes no column more sensitive than its training did), steps winsorised so that a failure does not teach that
it is normal. And each part's own usual height is learned anew from the last days: of each day the 99 % quantile, of the
days an upper quantile, so one bad day changes little. The score is that of the loudest part.

Sources: E. S. Page, Biometrika 41 (1954) 100 (cumulative sums); S. W. Roberts, Technometrics 1 (1959) 239 (EWMA charts);
A. E. Hoerl and R. W. Kennard, Technometrics 12 (1970) 55 (ridge, used in the fitting).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

PARTS: Final = ("residual", "ewma", "level", "change_point")
CLIP_HISTORY: Final = 6.0  # deviations; what the regression sees of a wild value
CLIP_DEVIATION: Final = 40.0
CLIP_COLUMN: Final = 20.0  # deviations; what one column can contribute at most
WINSOR: Final = 4.0  # deviations; how far one sample can pull a mean
GAP_PERIODS: Final = 3.0
"""A silence of more periods than this is a gap: what was foretold from before it is worth nothing."""
CUSUM_SLACK: Final = 2.0  # deviations; smaller residuals let the sum fall
CUSUM_CLIP: Final = 5.0
CUSUM_MAX: Final = 50.0
DAY_S: Final = 86_400.0
BIN: Final = 0.02  # width of the histogram of a day's scores
BINS: Final = 1_001  # the last one is for what is higher
DAY_QUANTILE: Final = 0.99
LEVEL_MIN: Final = 0.2  # of a part's usual height, in deviations: silence is no reason for infinite sensitivity
REASONS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class SeriesOptions:
    """What the detector is made of. The defaults were chosen on held-out machines: docs/prediction.md."""

    lags: int = 3  # samples that the auto-regression sees; 0: none, a residual is the deviation from the median
    ewma_samples: float = 3.0  # span of the weighted mean
    adaptation_s: float = DAY_S  # time constant of means and deviations; 0: no drift adaptation of any kind
    days: int = 5  # whose quantiles say what is usual
    days_quantile: float = 0.7
    levelling: float = 0.5
    """How much of a part's usual height is divided out: 0 trusts the training's deviations, 1 the last days alone."""
    parts: tuple[str, ...] = ("residual", "ewma", "level")
    """Those of `PARTS` that count. Cumulative sums are computed too, but made pages worse on real machines."""


@dataclass(frozen=True, slots=True)
class SeriesModel:
    """What was learned from a training series: plain numbers, one list entry per column (deviations unless told)."""

    names: tuple[str, ...]
    period_s: float
    options: SeriesOptions
    centre: list[float]  # in the column's unit
    scale: list[float]  # in the column's unit
    weights: list[list[float]]  # lags * columns rows (the newest sample first), columns columns
    residual_mean: list[float]
    residual_variance: list[float]
    level_mean: list[float]
    level_variance: list[float]
    reasons_from: float = math.inf  # scores from here on come with reasons

    def plain(self) -> dict[str, Any]:
        """As JSON-able data."""
        fields = {name: getattr(self, name) for name in MODEL_FIELDS}
        fields["reasons_from"] = None if math.isinf(self.reasons_from) else self.reasons_from
        options = {name: getattr(self.options, name) for name in OPTION_FIELDS}
        return fields | {"names": list(self.names), "options": options | {"parts": list(self.options.parts)}}

    @staticmethod
    def of(plain: Mapping[str, Any]) -> SeriesModel:
        """The model of `plain`'s data. KeyError or TypeError where it is not that."""
        options = dict(plain["options"])
        options["parts"] = tuple(options["parts"])
        fields = {name: plain[name] for name in MODEL_FIELDS}
        fields["reasons_from"] = math.inf if fields["reasons_from"] is None else fields["reasons_from"]
        return SeriesModel(**(fields | {"names": tuple(fields["names"]), "options": SeriesOptions(**options)}))


OPTION_FIELDS: Final = ("lags", "ewma_samples", "adaptation_s", "days", "days_quantile", "levelling", "parts")
MODEL_FIELDS: Final = (
    "names",
    "period_s",
    "options",
    "centre",
    "scale",
    "weights",
    "residual_mean",
    "residual_variance",
    "level_mean",
    "level_variance",
    "reasons_from",
)


@dataclass(frozen=True, slots=True)
class Score:
    """How unusual a sample is; higher is more so. `reasons` is empty for what is usual."""

    value: float
    reasons: tuple[str, ...]
    parts: tuple[float, ...]  # of each of `PARTS`, before its usual height is divided out
    levelled: tuple[float, ...]  # of each of `PARTS`, after it


class SeriesDetector:
    """Scores the samples of one series, one after the other."""

    def __init__(self, model: SeriesModel) -> None:
        self.model = model
        options = model.options
        self.columns: int = len(model.names)
        self.lags: int = options.lags
        self.adapts: bool = options.adaptation_s > 0.0
        self.counting: list[int] = [PARTS.index(part) for part in options.parts]
        self.centre = np.array(model.centre)
        self.scale = np.array(model.scale)
        self.weights = np.array(model.weights).reshape(self.lags * self.columns, self.columns)
        self.variance_min = np.array(model.residual_variance)
        self.level_deviation = np.sqrt(np.array(model.level_variance))
        self.ewma_weight: float = 2.0 / (options.ewma_samples + 1.0)
        self.ewma_gain: float = math.sqrt((2.0 - self.ewma_weight) / self.ewma_weight)
        # What changes with every sample:
        self.residual_mean = np.array(model.residual_mean)
        self.residual_variance = np.array(model.residual_variance)
        self.level_mean = np.array(model.level_mean)
        self.history = np.zeros(self.lags * self.columns)
        self.known = 0  # samples in the history since the last gap
        self.ewma = np.zeros(self.columns)
        self.above = np.zeros(self.columns)
        self.below = np.zeros(self.columns)
        self.last_s = math.nan
        self.day_elapsed_s = 0.0
        self.day_counts: list[list[int]] = [[0] * BINS for _ in PARTS]
        self.days: list[list[float]] = [[] for _ in PARTS]  # of each part the quantiles of the last days
        self.levels: list[float] = [1.0] * len(PARTS)

    def update(self, now_s: float, values: Sequence[float]) -> Score:
        """The score of a sample. A value that is missing is NaN. ValueError for another number of columns."""
        raw = np.asarray(values, dtype=np.float64)
        if raw.shape != (self.columns,):
            raise ValueError(f"{raw.shape} values for {self.columns} columns")
        step = self._clock(now_s)
        standard = (raw - self.centre) / self.scale
        present = np.isfinite(standard)
        count = int(np.count_nonzero(present))
        whole = count == self.columns
        if not whole:
            standard = np.where(present, standard, 0.0)
        standard = np.minimum(np.maximum(standard, -CLIP_DEVIATION), CLIP_DEVIATION)

        off_level = standard - self.level_mean
        foretold = self.history @ self.weights if self.lags else 0.0
        residual = np.minimum(np.maximum(standard - foretold, -CLIP_DEVIATION), CLIP_DEVIATION) - self.residual_mean
        deviation = np.sqrt(np.maximum(self.residual_variance, self.variance_min))
        if not whole:
            off_level = np.where(present, off_level, 0.0)
            residual = np.where(present, residual, 0.0)
        foreseeing = self.known >= self.lags
        if not foreseeing:
            residual = np.zeros(self.columns)
        unexpected = np.minimum(np.maximum(residual / deviation, -CLIP_COLUMN), CLIP_COLUMN)
        level = np.minimum(np.maximum(off_level / self.level_deviation, -CLIP_COLUMN), CLIP_COLUMN)
        self.ewma = self.ewma + self.ewma_weight * (unexpected - self.ewma)
        lasting = self.ewma * self.ewma_gain
        slow = np.minimum(np.maximum(unexpected, -CUSUM_CLIP), CUSUM_CLIP)
        self.above = np.minimum(np.maximum(self.above + slow - CUSUM_SLACK, 0.0), CUSUM_MAX)
        self.below = np.minimum(np.maximum(self.below - slow - CUSUM_SLACK, 0.0), CUSUM_MAX)
        changed = np.minimum(np.maximum(self.above, self.below), CLIP_COLUMN)

        self._adapt(step, present, whole, foreseeing, residual, deviation, off_level)
        if self.lags:
            seen = standard if whole else np.where(present, standard, foretold)
            self.history[self.columns :] = self.history[: -self.columns].copy()
            self.history[: self.columns] = np.minimum(np.maximum(seen, -CLIP_HISTORY), CLIP_HISTORY)
            self.known += 1
        deviations = (unexpected, lasting, level, changed)
        parts = [math.sqrt(float(each @ each) / max(count, 1)) for each in deviations]
        levelled = [part / share for part, share in zip(parts, self._shares(), strict=True)]
        self._count(parts, step)
        loudest = self.counting[0]
        for place in self.counting:
            if levelled[place] > levelled[loudest]:
                loudest = place
        value = levelled[loudest]
        reasons: tuple[str, ...] = ()
        if value >= self.model.reasons_from:
            reasons = self._reasons(PARTS[loudest], deviations[loudest])
        return Score(value, reasons, tuple(parts), tuple(levelled))

    def calibrate(self, parts: Sequence[Sequence[float]]) -> None:
        """Learn what is usual: the parts' scores of the samples of a calibration, in their order."""
        heights = np.asarray(parts, dtype=np.float64).reshape(-1, len(PARTS))
        blocks = max(1, round(len(heights) * self.model.period_s / DAY_S))
        self.days = [[] for _ in PARTS]
        for block in np.array_split(heights, blocks):
            for place, height in enumerate(np.quantile(block, DAY_QUANTILE, axis=0).tolist() if len(block) else []):
                self.days[place].append(height)
        self._start_day()
        self._learn_levels()

    def snapshot(self) -> dict[str, Any]:
        """Model and state as JSON-able data, for `restore`."""
        state: dict[str, Any] = {name: getattr(self, name).tolist() for name in STATE_ARRAYS}
        state |= {
            "known": self.known,
            "last_s": None if math.isnan(self.last_s) else self.last_s,
            "day_elapsed_s": self.day_elapsed_s,
            "day_counts": [list(counts) for counts in self.day_counts],
            "days": [list(days) for days in self.days],
            "levels": list(self.levels),
        }
        return {"model": self.model.plain(), "state": state}

    @staticmethod
    def restore(plain: Mapping[str, Any]) -> SeriesDetector:
        """The detector that `snapshot` described: it goes on as that one would have."""
        detector = SeriesDetector(SeriesModel.of(plain["model"]))
        state = plain["state"]
        for name in STATE_ARRAYS:
            setattr(detector, name, np.array(state[name], dtype=np.float64))
        detector.known = state["known"]
        detector.last_s = math.nan if state["last_s"] is None else state["last_s"]
        detector.day_elapsed_s = state["day_elapsed_s"]
        detector.day_counts = [list(counts) for counts in state["day_counts"]]
        detector.days = [list(days) for days in state["days"]]
        detector.levels = list(state["levels"])
        return detector

    # -- inside ---------------------------------------------------------------------------------------------------

    def _clock(self, now_s: float) -> float:
        """Seconds that count as passed. A gap, or a clock that went backwards, ends what was foretold."""
        period_s = self.model.period_s
        passed_s = now_s - self.last_s
        self.last_s = now_s
        if 0.0 < passed_s <= GAP_PERIODS * period_s:
            return passed_s
        if not math.isnan(passed_s):  # not the first sample
            self.known = 0
            self.ewma = np.zeros(self.columns)
            self.above = np.zeros(self.columns)
            self.below = np.zeros(self.columns)
        return period_s

    def _adapt(
        self, step_s: float, present: Any, whole: bool, foreseeing: bool, residual: Any, deviation: Any, off_level: Any
    ) -> None:
        if not self.adapts:
            return
        rate = min(step_s / self.model.options.adaptation_s, 0.5)
        reach = WINSOR * self.level_deviation
        self.level_mean = self.level_mean + rate * np.minimum(np.maximum(off_level, -reach), reach)
        if not foreseeing:
            return
        reach = WINSOR * deviation
        pull = np.minimum(np.maximum(residual, -reach), reach)
        self.residual_mean = self.residual_mean + rate * pull
        variance = self.residual_variance + rate * (pull * pull - self.residual_variance)
        self.residual_variance = variance if whole else np.where(present, variance, self.residual_variance)

    def _shares(self) -> list[float]:
        return [level**self.model.options.levelling for level in self.levels]

    def _count(self, parts: Sequence[float], step_s: float) -> None:
        if not self.adapts:
            return
        for counts, part in zip(self.day_counts, parts, strict=True):
            counts[min(int(part / BIN), BINS - 1)] += 1
        self.day_elapsed_s += step_s
        if self.day_elapsed_s >= DAY_S:
            for place, counts in enumerate(self.day_counts):
                self.days[place] = [*self.days[place], _histogram_quantile(counts)][-self.model.options.days :]
            self._start_day()
            self._learn_levels()

    def _start_day(self) -> None:
        self.day_elapsed_s = 0.0
        self.day_counts = [[0] * BINS for _ in PARTS]

    def _learn_levels(self) -> None:
        options = self.model.options
        for place, days in enumerate(self.days):
            if days:
                usual = float(np.quantile(days[-options.days :], options.days_quantile))
                self.levels[place] = max(usual, LEVEL_MIN)

    def _reasons(self, part: str, deviations: Any) -> tuple[str, ...]:
        words = WORDS[part]
        said = []
        for column in np.argsort(-np.abs(deviations), kind="stable")[:REASONS_MAX].tolist():
            height = float(deviations[column])
            if height == 0.0:
                break
            above = height > 0.0 if part != "change_point" else bool(self.above[column] >= self.below[column])
            side = "above" if above else "below"
            said.append(f"{self.model.names[column]}: {words.format(height=abs(height), side=side)}")
        return tuple(said)


STATE_ARRAYS: Final = ("residual_mean", "residual_variance", "level_mean", "history", "ewma", "above", "below")
WORDS: Final = {
    "residual": "{height:.1f} deviations {side} what the last samples foretold",
    "ewma": "again and again {side} what was foretold ({height:.1f} deviations)",
    "level": "{height:.1f} deviations {side} its level of the last day",
    "change_point": "a lasting change, {side} what was foretold (cumulative sum {height:.0f})",
}


def _histogram_quantile(counts: Sequence[int]) -> float:
    wanted = DAY_QUANTILE * sum(counts)
    seen = 0
    for place, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return (place + 0.5) * BIN
    return BINS * BIN
