"""Fits the statistical detector to a training series: ridge regression on its first part, usual heights on its last.

The series is split in time, never at random. `twin.policy.series_detector` says what the numbers are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from twin.policy.series_detector import CLIP_HISTORY, SeriesDetector, SeriesModel, SeriesOptions

Series: TypeAlias = NDArray[np.float64]

FIT_SHARE = 0.7
ROWS_MIN = 20
RIDGE = 0.1  # in units of the (standardised) columns' variance
SCALE_MIN_SHARE = 0.05  # of the usual deviation; what is quieter counts as if it were not
VARIANCE_MIN = 1e-3
CLIP_FIT = 20.0


@dataclass(frozen=True, slots=True)
class FittedSeries:
    """A detector that is ready to go on after its training, and what it said of the calibration."""

    detector: SeriesDetector
    calibration: Series  # the score of each sample of the last part of the training
    calibration_levelled: Series  # of each of the detector's PARTS, one column each


def fit_series(
    train: Series, period_s: float, names: Sequence[str], options: SeriesOptions | None = None
) -> FittedSeries:
    """Fit on the first 70 % of `train` (rows: samples every `period_s`; NaN: missing), calibrate on the rest.

    The detector's clock stands at the end of the training: the next sample comes at `len(train) * period_s`.
    ValueError for fewer than `ROWS_MIN` rows, or names that are not as many as the columns.
    """
    options = options or SeriesOptions()
    if train.ndim != 2 or len(train) < ROWS_MIN or train.shape[1] != len(names) or not names:
        raise ValueError(
            f"a training series has at least {ROWS_MIN} rows and a name for each column; "
            f"this has the shape {train.shape} and {len(names)} names"
        )
    known = int(FIT_SHARE * len(train))
    model = _model(np.where(np.isfinite(train[:known]), train[:known], np.nan), period_s, tuple(names), options)
    detector = SeriesDetector(model)
    for place in range(max(0, known - options.lags), known):  # so that the first sample's past is known
        detector.update(place * period_s, train[place].tolist())
    warm = [model.residual_mean, model.residual_variance, model.level_mean]
    detector.residual_mean, detector.residual_variance, detector.level_mean = (np.array(each) for each in warm)
    detector.ewma = np.zeros(len(names))
    scores = [detector.update(place * period_s, train[place].tolist()) for place in range(known, len(train))]
    detector.calibrate([score.parts for score in scores])
    heights = np.array([score.parts for score in scores])
    levelled = heights / np.array(detector.levels) ** options.levelling
    return FittedSeries(detector, levelled[:, detector.counting].max(axis=1), levelled)


def with_reasons(detector: SeriesDetector, threshold: float) -> SeriesDetector:
    """The same detector, which gives its reasons from `threshold` on."""
    plain = detector.snapshot()
    plain["model"] = replace(detector.model, reasons_from=threshold).plain()
    return SeriesDetector.restore(plain)


def _model(fit: Series, period_s: float, names: tuple[str, ...], options: SeriesOptions) -> SeriesModel:
    fit = fit.copy()
    empty = np.isnan(fit).all(axis=0)
    fit[:, empty] = 0.0
    centre = np.nanmedian(fit, axis=0)
    fit = np.where(np.isnan(fit), centre, fit)
    scale = _scale(fit, centre)
    standard = (fit - centre) / scale
    weights = _weights(np.clip(standard, -CLIP_HISTORY, CLIP_HISTORY), options.lags)
    wide = np.clip(standard, -CLIP_FIT, CLIP_FIT)
    residual = wide[options.lags :] - _lagged(np.clip(standard, -CLIP_HISTORY, CLIP_HISTORY), options.lags) @ weights
    return SeriesModel(
        names=names,
        period_s=period_s,
        options=options,
        centre=centre.tolist(),
        scale=scale.tolist(),
        weights=weights.tolist(),
        residual_mean=np.median(residual, axis=0).tolist(),
        residual_variance=_variance(residual).tolist(),
        level_mean=np.median(wide, axis=0).tolist(),
        level_variance=_variance(wide).tolist(),
    )


def _scale(fit: Series, centre: Series) -> Series:
    """Standard deviations. A column that never or hardly moved gets what is usual for its size, so any move counts."""
    deviation = fit.std(axis=0)
    extent = fit.max(axis=0) - fit.min(axis=0)
    moved = extent > 0.0
    usual = float(np.median(deviation[moved] / extent[moved])) if moved.any() else 1.0
    size = np.where(moved, extent, np.maximum(np.abs(centre), 1.0))
    scale: Series = np.maximum(deviation, SCALE_MIN_SHARE * usual * size)
    return scale


def _variance(values: Series) -> Series:
    variance: Series = np.maximum(np.clip(values, -CLIP_HISTORY, CLIP_HISTORY).var(axis=0), VARIANCE_MIN)
    return variance


def _lagged(standard: Series, lags: int) -> Series:
    """Row i: the `lags` samples before sample `lags + i`, the newest first."""
    rows = len(standard) - lags
    columns = [standard[lags - 1 - lag : lags - 1 - lag + rows] for lag in range(lags)]
    lagged: Series = np.hstack(columns) if columns else np.zeros((rows, 0))
    return lagged


def _weights(standard: Series, lags: int) -> Series:
    past = _lagged(standard, lags)
    if not lags:
        return np.zeros((0, standard.shape[1]))
    gram = past.T @ past + RIDGE * len(past) * np.eye(past.shape[1])
    weights: Series = np.linalg.solve(gram, past.T @ standard[lags:]).astype(np.float64)
    return weights
