"""What the statistical detector is held against: plain detectors, under the very same protocol.

Each is fitted on the first 70 % of the training series, and its scores are levelled by the median and the 99 % quantile of
its calibration, so that one threshold can serve all machines. A missing value counts as the column's median.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from twin.learn.series_fitting import FIT_SHARE, Series

PHI_WINDOW = 1000
"""Samples that say what is normal to φ: the default window of Akka's failure detector."""
TREES = 100


def baseline_scores(train: Series, test: Series, raw: Callable[[Series, Series], Series]) -> tuple[Series, Series]:
    """The levelled scores of calibration and test, by `raw` (fitted part, what follows it) -> scores of the latter."""
    known = int(FIT_SHARE * len(train))
    fit, follows = train[:known], np.vstack([train[known:], test])
    median = np.array([np.nanmedian(column) if np.isfinite(column).any() else 0.0 for column in _finite(fit).T])
    scores = raw(*(np.where(np.isfinite(part), part, median) for part in (fit, follows)))
    count = len(train) - known
    low, high = np.quantile(scores[:count], (0.5, 0.99))
    levelled = (scores - low) / max(float(high - low), 1e-9)
    return levelled[:count], levelled[count:]


def threshold_rule(fit: Series, follows: Series) -> Series:
    """The largest robust deviation of any column: what a page of alert rules amounts to."""
    centre, scale = _robust(fit)
    deviations: Series = np.abs((follows - centre) / scale).max(axis=1)
    return deviations


def phi_accrual(fit: Series, follows: Series) -> Series:
    """φ of the least likely column, by mean and deviation of its last 1,000 samples.

    Hayashibara et al., SRDS 2004, take -log10 of the probability that a heartbeat comes even later than now, by a normal
    distribution over a sliding window; here it is the probability that a value is even farther from the window's mean.
    Outlier ejection compares a node with its peers; one machine has none, so its own window stands for them.
    """
    _, scale = _robust(fit)
    series = np.vstack([fit[-PHI_WINDOW:], follows])
    before = len(series) - len(follows)
    centred = series - fit.mean(axis=0)  # so that the sums below lose nothing to rounding
    sums = np.vstack([np.zeros(centred.shape[1]), np.cumsum(centred, axis=0)])
    squares = np.vstack([np.zeros(centred.shape[1]), np.cumsum(centred**2, axis=0)])
    last = np.arange(before, len(series))  # the window ends before the sample
    first = np.maximum(0, last - PHI_WINDOW)
    count = (last - first)[:, None]
    mean = (sums[last] - sums[first]) / count
    variance = np.maximum((squares[last] - squares[first]) / count - mean**2, 0.0)
    deviations = np.abs(centred[before:] - mean) / np.maximum(np.sqrt(variance), 0.1 * scale)
    return _phi(deviations.max(axis=1))


def isolation_forest(fit: Series, follows: Series) -> Series:
    """scikit-learn's isolation forest (Liu et al., ICDM 2008) on single samples, 100 trees, a fixed seed."""
    from sklearn.ensemble import IsolationForest  # noqa: PLC0415  # dear to import

    forest = IsolationForest(n_estimators=TREES, random_state=1, n_jobs=1).fit(fit)
    scores: Series = -forest.score_samples(follows)
    return scores


def random_scores(_fit: Series, follows: Series) -> Series:
    """Knows nothing: what chance gives."""
    return np.random.default_rng(1).random(len(follows))


BASELINES: dict[str, Callable[[Series, Series], Series]] = {
    "threshold_rule": threshold_rule,
    "phi_accrual": phi_accrual,
    "isolation_forest": isolation_forest,
    "random": random_scores,
}


def _robust(fit: Series) -> tuple[Series, Series]:
    """Median, and median absolute deviation as a standard deviation; where that is 0, the standard deviation; else 1."""
    centre = np.median(fit, axis=0)
    scale = 1.4826 * np.median(np.abs(fit - centre), axis=0)
    scale = np.where(scale > 0.0, scale, fit.std(axis=0))
    return centre, np.where(scale > 0.0, scale, 1.0)


def _phi(deviations: Series) -> Series:
    """-log10 of the two-sided tail of the normal distribution; by its expansion where that would be 0 in floats."""
    from scipy.special import log_ndtr  # noqa: PLC0415  # dear to import

    phi: Series = -(log_ndtr(-deviations) + math.log(2.0)) / math.log(10.0)
    return phi


def _finite(values: Series) -> Series:
    return np.where(np.isfinite(values), values, np.nan)
