"""The statistics against closed forms, textbook values, SciPy, and their own promise: 95 % means 95 %."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from twin.experiment.statistics import (
    Precision,
    censored_times,
    holm,
    interval,
    next_count,
    paired,
    proportion_interval,
    quantile,
    sign_test,
)

# -- means ----------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students() -> None:
    mean, bounds = interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert bounds == pytest.approx([2.5 - 2.054260, 2.5 + 2.054260], abs=1e-5)
    assert interval([7.0]) == (7.0, None)
    values = [3.1, 4.7, 2.2, 9.0, 5.5]
    expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    assert interval(values, level=0.9)[1] == pytest.approx(expected)


def test_the_interval_of_a_mean_covers_it_in_95_percent_of_many_experiments() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(4000):
        _, bounds = interval(random.normal(10.0, 3.0, 8).tolist())
        assert bounds is not None
        covered += bounds[0] <= 10.0 <= bounds[1]
    assert covered / 4000 == pytest.approx(0.95, abs=0.02)


# -- proportions ----------------------------------------------------------------------------------------------------


def test_none_of_n_has_an_upper_bound_and_all_of_n_a_lower_one() -> None:
    z2 = 1.959964**2
    assert proportion_interval(0, 20) == [0.0, pytest.approx(z2 / (20 + z2), abs=1e-6)]
    assert proportion_interval(20, 20) == [pytest.approx(20 / (20 + z2), abs=1e-6), 1.0]


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 7), (13, 40), (999, 1000)])
def test_the_interval_of_a_proportion_is_wilsons(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert proportion_interval(hits, count) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_a_proportion_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of 0"):
        proportion_interval(0, 0)


# -- quantiles ------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_median_is_the_textbooks() -> None:
    """n = 10: the 2nd to the 9th value, at 97.9 % (David and Nagaraja 2003, section 7.1)."""
    values = [float(value) for value in range(1, 11)]
    assert quantile(values, 0.5) == (5.5, [2.0, 9.0])


def test_a_tail_that_so_few_values_cannot_bound_has_no_interval() -> None:
    assert quantile([float(value) for value in range(20)], 0.95)[1] is None
    assert quantile([1.0], 0.5) == (1.0, None)
    # The 184th and the 197th of 200: 2.4 % and 0.9 % are cut off.
    assert quantile([float(value) for value in range(200)], 0.95)[1] == [183.0, 196.0]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_interval_of_a_quantile_covers_it_at_least_as_often_as_it_says(share: float) -> None:
    """Ranks are whole numbers, so it covers a little more than 95 %."""
    random = np.random.default_rng(2)
    truth = -math.log(1.0 - share)
    covered = 0
    for _ in range(3000):
        _, bounds = quantile(random.exponential(1.0, 60).tolist(), share)
        assert bounds is not None
        covered += bounds[0] <= truth <= bounds[1]
    assert 0.945 <= covered / 3000 <= 0.985


# -- replications until it is tight -----------------------------------------------------------------------------------


def test_an_absolute_precision_is_a_half_width() -> None:
    values = [1.0, 2.0, 3.0, 4.0]  # half width 2.054
    assert Precision("e2e_s.p95", 2.06, relative=False).kept_by(values)
    assert not Precision("e2e_s.p95", 2.05, relative=False).kept_by(values)


def test_a_relative_precision_is_of_the_true_mean() -> None:
    """The half width is 2.054 of a mean of 102.5, 2.0042 %: within 2.05 % / 1.0205 = 2.0088 %, not within 2.04 %."""
    values = [101.0, 102.0, 103.0, 104.0]
    assert Precision("e2e_s.p95", 0.0205, relative=True).kept_by(values)
    assert not Precision("e2e_s.p95", 0.0204, relative=True).kept_by(values)
    differences = [1.0, 2.0, 3.0, 4.0]
    assert Precision("e2e_s.p95", 0.0205, relative=True).kept_by(differences, relative_to=102.5)
    assert not Precision("e2e_s.p95", 0.0205, relative=True).kept_by(differences)


def test_one_value_is_never_tight_and_equal_ones_always() -> None:
    precision = Precision("requests_lost", 0.05, relative=True)
    assert not precision.kept_by([3.0])
    assert not precision.kept_by([])
    assert precision.kept_by([0.0, 0.0])


def test_the_next_look_is_after_half_as_many_again() -> None:
    counts = [10]
    while counts[-1] < 100:
        counts.append(next_count(counts[-1], 100))
    assert counts == [10, 15, 23, 35, 53, 80, 100]
    assert next_count(1, 100) == 2


def test_going_on_until_it_is_tight_still_covers_the_mean() -> None:
    random = np.random.default_rng(3)
    precision = Precision("e2e_s.p95", 0.05, relative=True)
    covered = counted = 0
    for _ in range(1500):
        values = random.normal(10.0, 2.0, 10).tolist()
        while not precision.kept_by(values) and len(values) < 400:
            values += random.normal(10.0, 2.0, next_count(len(values), 400) - len(values)).tolist()
        _, bounds = interval(values)
        assert bounds is not None
        covered += bounds[0] <= 10.0 <= bounds[1]
        counted += len(values)
    assert covered / 1500 == pytest.approx(0.95, abs=0.02)
    assert 60 < counted / 1500 < 110  # (1.96 × 2 / 0.476)² = 68


# -- pairs ----------------------------------------------------------------------------------------------------------


def test_pairs_are_compared_by_their_differences() -> None:
    one, two = [10.0, 12.0, 9.0, 15.0, 11.0], [11.0, 13.5, 9.4, 16.0, 12.6]
    found = paired(one, two)
    expected = stats.ttest_rel(two, one)
    assert found.mean == pytest.approx(1.1)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx([*expected.confidence_interval(0.95)])
    assert (found.count, found.p_rank) == (5, pytest.approx(stats.wilcoxon(two, one).pvalue))


def test_pairs_that_are_all_equal_show_nothing_and_a_constant_difference_is_told_by_its_signs() -> None:
    assert paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p_value == 1.0
    constant = paired([0.0] * 10, [5.0] * 10)
    assert constant.ci95 == [5.0, 5.0]
    assert constant.p_value == pytest.approx(2 / 2**10)
    assert paired([1.0], [4.0]).p_value is None


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired([], [])


def test_common_random_numbers_need_fewer_replications() -> None:
    """What pairs are for: what both share does not count."""
    random = np.random.default_rng(4)
    shared = random.normal(100.0, 20.0, 20)
    one, two = shared + random.normal(0.0, 1.0, 20), shared + 2.0 + random.normal(0.0, 1.0, 20)
    found = paired(one.tolist(), two.tolist())
    assert found.p_value is not None
    assert found.p_value < 0.001
    assert stats.ttest_ind(one, two).pvalue > 0.5


def test_a_split_of_signs_is_binomial() -> None:
    assert sign_test(10, 0) == pytest.approx(2 / 2**10)
    assert sign_test(5, 5) == pytest.approx(1.0)
    assert sign_test(0, 0) == 1.0


def test_holms_correction_is_the_papers() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_after_holms_correction_a_family_without_a_difference_errs_in_5_percent() -> None:
    random = np.random.default_rng(5)
    wrong = plain = 0
    for _ in range(600):
        p = stats.ttest_1samp(random.normal(0.0, 1.0, (12, 8)), 0.0, axis=0).pvalue.tolist()
        wrong += min(holm(p)) < 0.05
        plain += min(p) < 0.05
    assert wrong / 600 == pytest.approx(0.05, abs=0.02)
    assert plain / 600 > 0.25


# -- censored times -------------------------------------------------------------------------------------------------


def test_the_median_of_censored_times_is_kaplan_and_meiers() -> None:
    """6-MP in the leukaemia trial of Freireich et al. 1963: median 23 weeks, 9 relapses of 21 (a textbook's example)."""
    relapsed = [6.0, 6.0, 6.0, 7.0, 10.0, 13.0, 16.0, 22.0, 23.0]
    still_well = [6.0, 9.0, 10.0, 11.0, 17.0, 19.0, 20.0, 25.0, 32.0, 32.0, 34.0, 35.0]
    found = censored_times(relapsed, still_well)
    assert (found["n"], found["censored"], found["median"]) == (21, 12, 23.0)
    assert found["ci95"] == [13.0, None]
    assert found["share"] == pytest.approx(9 / 21)
    assert found["share_ci95"] == pytest.approx(proportion_interval(9, 21))


def test_without_censoring_the_median_is_the_samples() -> None:
    found = censored_times([5.0, 1.0, 4.0, 2.0, 3.0], [])
    assert (found["median"], found["censored"], found["share"]) == (3.0, 0, 1.0)


def test_where_most_were_never_seen_to_end_there_is_no_median_but_a_share() -> None:
    found = censored_times([5.0, 6.0], [100.0] * 8)
    assert (found["median"], found["n"], found["censored"], found["share"]) == (None, 10, 8, 0.2)
    assert censored_times([], [100.0] * 3)["share_ci95"] == proportion_interval(0, 3)
    assert censored_times([], [])["n"] == 0


def test_the_interval_of_a_censored_median_covers_it() -> None:
    random = np.random.default_rng(6)
    truth = math.log(2.0) * 10.0
    covered = 0
    for _ in range(800):
        times, ends = random.exponential(10.0, 60), random.uniform(5.0, 40.0, 60)
        found = censored_times(times[times <= ends].tolist(), ends[times > ends].tolist())
        low, high = found["ci95"]
        covered += low <= truth <= (math.inf if high is None else high)
    assert covered / 800 == pytest.approx(0.95, abs=0.02)
