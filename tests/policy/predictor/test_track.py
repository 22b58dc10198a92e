from __future__ import annotations

import math

import numpy as np
import pytest

from twin.policy.predictor.track import SAMPLES_MIN, Track

PERIOD_S = 20.0
KEEP = (math.exp(-PERIOD_S / 60.0), math.exp(-PERIOD_S / 300.0), math.exp(-PERIOD_S / 3600.0))


def tracked(values: list[float] | np.ndarray, floor: float = 0.01) -> Track:
    track = Track(floor)
    for value in values:
        track.add(float(value), PERIOD_S, *KEEP)
    return track


def noise(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.1, count)


def test_a_straight_line_has_its_slope() -> None:
    track = tracked([0.001 * PERIOD_S * step for step in range(40)])
    assert track.slope() == pytest.approx(0.001, rel=1e-6)


def test_a_steady_signal_is_not_unusual() -> None:
    track = tracked(1.0 + noise(500))
    assert abs(track.change()) < 8.0
    assert abs(track.deviation()) < 2.0


def test_a_step_of_three_spreads_is_a_change_upwards_and_its_mirror_downwards() -> None:
    up = tracked(np.concatenate([noise(200), 0.3 + noise(10, 2)]))
    down = tracked(np.concatenate([noise(200), -0.3 - noise(10, 2)]))
    assert up.change() > 8.0
    assert down.change() < -8.0


def test_what_stays_is_normal_by_and_by() -> None:
    stepped = np.concatenate([noise(200), 1.0 + noise(1500, 2)])
    assert tracked(stepped[:210]).deviation() > 3.0
    assert abs(tracked(stepped).deviation()) < 1.0


def test_an_auto_regressive_signal_has_smaller_residuals_than_its_spread() -> None:
    draws = np.random.default_rng(3).normal(0.0, 0.1, 3000)
    values = [0.0]
    for draw in draws:
        values.append(0.9 * values[-1] + float(draw))
    track = tracked(values)
    assert math.sqrt(track.variance) < 0.6 * float(np.std(values))


def test_nothing_is_unusual_before_enough_samples() -> None:
    assert tracked([0.0, 0.0, 100.0]).change() == 0.0
    assert tracked([0.0] * SAMPLES_MIN).deviation() == 0.0


def test_while_nothing_is_seen_the_normal_stays_and_what_was_unusual_is_so_less_and_less() -> None:
    track = tracked(np.concatenate([noise(200), 0.5 + noise(10, 2)]))
    normal, change, deviation = track.slow, track.change(), track.deviation()
    assert change > 8.0
    for _ in range(15):  # a window
        track.add(math.nan, PERIOD_S, *KEEP)
    assert (track.slow, track.count) == (normal, 210)
    assert track.change() == pytest.approx(change * math.exp(-1.0))
    assert track.deviation() == pytest.approx(deviation * math.exp(-1.0))


def test_after_a_gap_the_trend_begins_anew_and_the_normal_stays() -> None:
    track = tracked([1.0 + 0.01 * step for step in range(100)])
    slow = track.slow
    track.forget_trend()
    assert track.slope() == 0.0
    assert track.slow == slow
