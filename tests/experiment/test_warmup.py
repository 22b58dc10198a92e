"""MSER-5 finds where a transient ends, leaves a steady series alone, and says where it cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from tests.record.runs import Run
from twin.experiment.warmup import mser5, warmup_needed_s


def test_a_transient_is_cut_off_where_it_ends() -> None:
    random = np.random.default_rng(1)
    series = random.normal(10.0, 1.0, 1000)
    series[:200] += np.linspace(20.0, 0.0, 200)
    cut = mser5(series)
    assert cut is not None
    assert 120 <= cut <= 230


def test_a_steady_series_loses_little() -> None:
    cuts = [mser5(np.random.default_rng(seed).normal(10.0, 1.0, 1000)) for seed in range(20)]
    assert np.median([cut for cut in cuts if cut is not None]) <= 100
    assert mser5([3.0] * 500) == 0


def test_a_series_that_goes_on_rising_or_is_short_tells_nothing() -> None:
    assert mser5(np.linspace(0.0, 10.0, 1000)) is None
    assert mser5([1.0] * 99) is None


def test_by_brute_force_it_is_the_least_standard_error() -> None:
    series = np.random.default_rng(7).gamma(2.0, 1.0, 400)
    series[:60] += 3.0
    means = series.reshape(80, 5).mean(axis=1)
    errors = [means[cut:].var() / (80 - cut) for cut in range(79)]
    assert mser5(series) == 5 * int(np.argmin(errors))


def run(slow_until_s: float, fault_s: float | None = None) -> Run:
    """A request every 0.25 s over 100 s; the first ones take 4 s longer, and so do those after a fault."""
    it = Run()
    for arrival_s in np.arange(0.0, 100.0, 0.25).tolist():
        slow = arrival_s < slow_until_s or (fault_s is not None and arrival_s >= fault_s)
        it.request(arrival_s, arrival_s + (5.0 if slow else 1.0))
    return it if fault_s is None else it.fault(fault_s)


def test_a_run_says_how_long_its_latency_needs_to_settle() -> None:
    assert warmup_needed_s(run(20.0).end()) == pytest.approx(20.0, abs=1.3)
    assert warmup_needed_s(run(0.0).end()) == 0.0


def test_what_a_fault_does_is_no_warm_up() -> None:
    assert warmup_needed_s(run(10.0, fault_s=60.0).end()) == pytest.approx(10.0, abs=1.3)
    assert warmup_needed_s(run(0.0, fault_s=10.0).end()) is None, "before it came too few requests to tell"
