"""The statistics of experiments, each with its rule and its source.

A replication is one independent run of a scenario with a seed of its own. Figures are computed for each replication
first and then over the replications (a percentile too: the requests of one run are correlated, the runs are not), so
every interval here is one over independent values. Intervals have a level of 95 % unless told otherwise. What SciPy
has is taken from there; it is imported where it is used, since it is dear to import.

Sources: A. M. Law, *Simulation Modeling and Analysis*, 5th ed. 2015 (replications, paired comparison, sequential
rule); S. Holm, Scand. J. Statist. 6 (1979) 65 (correction for many); E. B. Wilson, JASA 22 (1927) 209 (proportions);
H. A. David, H. N. Nagaraja, *Order Statistics*, 3rd ed. 2003, section 7.1 (intervals of quantiles); E. L. Kaplan,
P. Meier, JASA 53 (1958) 457, and R. Brookmeyer, J. Crowley, Biometrics 38 (1982) 29 (censored times).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.95


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, list[float] | None]:
    """Mean and its confidence interval by Student's t (None for fewer than two values). Law 2015, section 4.5."""
    from scipy.special import stdtrit  # noqa: PLC0415  # dear to import, and not needed by every command

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, 0.5 + level / 2.0)) * deviation / math.sqrt(count)
    return mean, [mean - half, mean + half]


def proportion_interval(hits: int, count: int, level: float = LEVEL) -> list[float]:
    """Wilson's score interval of a proportion: 0 of n has an upper bound, too. ValueError where `count` is 0."""
    from scipy.special import ndtri  # noqa: PLC0415

    if not 0 <= hits <= count or not count:
        raise ValueError(f"{hits} of {count} is no proportion")
    z = float(ndtri(0.5 + level / 2.0))
    share = hits / count
    weight = 1.0 + z * z / count
    centre = (share + z * z / (2.0 * count)) / weight
    half = z / weight * math.sqrt(share * (1.0 - share) / count + z * z / (4.0 * count * count))
    return [0.0 if not hits else max(0.0, centre - half), 1.0 if hits == count else min(1.0, centre + half)]


# -- quantiles over replications ----------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float, level: float = LEVEL) -> tuple[float, list[float] | None]:
    """A quantile of independent values (linear between neighbours) and its distribution-free interval.

    The interval runs from the r-th to the s-th smallest value, where the number of values below the true quantile is
    binomial (n, share) whatever their distribution: r and s cut at most half of the error off on each side. None where
    so few values cannot give that level. David and Nagaraja 2003, section 7.1. ValueError where there are no values.
    """
    import numpy as np  # noqa: PLC0415
    from scipy.special import bdtr  # noqa: PLC0415

    if not values:
        raise ValueError("no values, so no quantile")
    ordered = sorted(values)
    count = len(ordered)
    half_error = (1.0 - level) / 2.0
    below = bdtr(np.arange(count), count, share).tolist()  # P(at most k values are below the quantile)
    lower = next((k for k in range(count) if below[k] > half_error), count)  # rank r = k: P(B <= r - 1) <= half
    upper = next((k + 1 for k in range(count) if below[k] >= 1.0 - half_error), count + 1)  # P(B >= s) <= half
    value = float(np.quantile(ordered, share))
    if lower < 1 or upper > count:
        return value, None
    return value, [ordered[lower - 1], ordered[upper - 1]]


# -- replications until an interval is tight ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Precision:
    """How tight an interval of a figure's mean must be: its half width, in the figure's unit or relative to the mean."""

    figure: str
    half_width: float
    relative: bool

    def kept_by(self, values: Sequence[float], relative_to: float | None = None) -> bool:
        """Whether these values have so tight an interval.

        Absolute: half width <= h. Relative: half width / |mean| <= r / (1 + r), so that the error relative to the true
        mean is at most r (Law 2015, section 9.4.1); `relative_to` stands for the mean where the values are differences.
        Values that are all equal are tight.
        """
        if len(values) < 2:
            return False
        mean, ci95 = interval(values)
        assert ci95 is not None
        half = (ci95[1] - ci95[0]) / 2.0
        if not self.relative or half == 0.0:
            return half <= self.half_width
        scale = abs(mean if relative_to is None else relative_to)
        return half <= self.half_width / (1.0 + self.half_width) * scale


def next_count(done: int, maximum: int) -> int:
    """How many replications to have next while an interval is too wide: half as many again, at most `maximum`.

    The rule is looked at only at these counts, which do not depend on how fast or where the replications run. Looking
    seldom keeps what a sequential rule costs in coverage small; the first look should be at 10 or more (Law 2015,
    section 9.4.1).
    """
    return min(maximum, done + max(1, math.ceil(done / 2)))


# -- comparisons on the same seeds --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paired:
    """Paired differences (variant - baseline): their mean with its interval, and how likely so much is by chance.

    `p_value`: of Student's paired t test. `p_rank`: of Wilcoxon's signed-rank test, which asks for no normal
    differences. Both two-sided; None for fewer than two pairs.
    """

    mean: float
    ci95: list[float] | None
    count: int
    p_value: float | None
    p_rank: float | None


def paired(baseline: Sequence[float], variant: Sequence[float]) -> Paired:
    """Compare two sequences of one figure on the same seeds. Law 2015, section 10.2.1.

    Where all differences are equal there is no variance to test against: p is that of the signed ranks, 1 where all
    are 0. ValueError where the sequences differ in length or are empty.
    """
    from scipy import stats  # noqa: PLC0415

    differences = [after - before for before, after in zip(baseline, variant, strict=True)]
    if not differences:
        raise ValueError("no pairs, so nothing to compare")
    mean, ci95 = interval(differences)
    if ci95 is None:
        return Paired(mean, None, len(differences), None, None)
    if not any(differences):
        return Paired(mean, ci95, len(differences), 1.0, 1.0)
    p_rank = float(stats.wilcoxon(differences, zero_method="wilcox").pvalue)
    if len(set(differences)) == 1:
        return Paired(mean, ci95, len(differences), p_rank, p_rank)
    return Paired(mean, ci95, len(differences), float(stats.ttest_1samp(differences, 0.0).pvalue), p_rank)


def difference(
    baseline: Sequence[float], variant: Sequence[float], pairs: bool, level: float = LEVEL
) -> tuple[float, list[float] | None]:
    """Mean of variant - baseline and its interval: of pairs on the same seeds, else Welch's for two samples.

    None for fewer than two values on a side. Where nothing varies the interval has no width. Law 2015, sections 10.2.1
    and 10.2.2. ValueError where a side is empty, or pairs differ in number.
    """
    from scipy.special import stdtrit  # noqa: PLC0415

    if pairs:
        return interval([after - before for before, after in zip(baseline, variant, strict=True)], level)
    means, parts, counts = [], [], []
    for values in (baseline, variant):
        mean, _ = interval(values)
        means.append(mean)
        counts.append(len(values))
        parts.append(
            math.fsum((it - mean) ** 2 for it in values) / (len(values) - 1) / len(values) if len(values) > 1 else 0.0
        )
    change = means[1] - means[0]
    if min(counts) < 2:
        return change, None
    spread = math.fsum(parts)
    if spread == 0.0:
        return change, [change, change]
    freedom = spread**2 / math.fsum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    half = float(stdtrit(freedom, 0.5 + level / 2.0)) * math.sqrt(spread)
    return change, [change - half, change + half]


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of so uneven a split of pairs without ties, were each as likely to win as to lose (binomial)."""
    from scipy import stats  # noqa: PLC0415

    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for how many they are, in the same order: Holm's step-down rule (1979).

    Rejecting where the adjusted p is below 5 % errs anywhere in the family at most in 5 % of the families, however the
    tests depend on each other.
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = running
    return adjusted


# -- times that may not have been observed to their end -------------------------------------------------------------


def censored_times(observed: Sequence[float], at_least: Sequence[float]) -> dict[str, Any]:
    """Times of which some were only seen to be longer than a bound: {"n", "censored", "median", "ci95", "share"...}.

    `median` is Kaplan and Meier's, None where the curve does not come down to one half; `ci95` is Brookmeyer and
    Crowley's on the log-log scale, an end None where the band does not cross one half. `share` of the times whose end
    was seen, with Wilson's interval `share_ci95`. All None where there are no times.
    """
    from scipy import stats  # noqa: PLC0415

    count = len(observed) + len(at_least)
    none = {"n": 0, "censored": 0, "median": None, "ci95": None, "share": None, "share_ci95": None}
    if not count:
        return none
    median, ci95 = None, None
    if observed:
        sample = stats.CensoredData(uncensored=sorted(observed), right=sorted(at_least))
        survival = stats.ecdf(sample).sf
        median = _crossing(survival.quantiles, survival.probabilities)
        if count > 1 and len(observed) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # where the curve is 0 its band is not defined
                band = survival.confidence_interval(LEVEL, method="log-log")
            ends = [_crossing(it.quantiles, it.probabilities) for it in (band.low, band.high)]
            ci95 = ends if ends != [None, None] else None
    return {
        "n": count,
        "censored": len(at_least),
        "median": median,
        "ci95": ci95,
        "share": len(observed) / count,
        "share_ci95": proportion_interval(len(observed), count),
    }


def _crossing(times: Any, survival: Any) -> float | None:
    """The first time at which a survival curve is at most one half."""
    for time, share in zip(times.tolist(), survival.tolist(), strict=True):
        if share <= 0.5 + 1e-12:  # a curve of tenths comes down to 0.5 but for rounding
            return float(time)
    return None
