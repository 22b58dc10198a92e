"""The statistical detector, sample by sample."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.learn.series import PERIOD_S, machine
from twin.learn.series_fitting import FittedSeries, fit_series, with_reasons
from twin.policy.series_detector import PARTS, SeriesDetector, SeriesOptions

NAMES = tuple(f"column-{number}" for number in range(6))


def fitted(seed: int = 3, **options: float) -> tuple[FittedSeries, np.ndarray, np.ndarray]:
    data = machine(seed)
    it = fit_series(data["train"], PERIOD_S, NAMES, SeriesOptions(**options))  # type: ignore[arg-type]
    return it, data["test"], data["test_label"] > 0


def values(detector: SeriesDetector, samples: np.ndarray, from_s: float | None = None) -> list[float]:
    start_s = detector.last_s if from_s is None else from_s
    return [
        detector.update(start_s + (place + 1) * PERIOD_S, sample).value for place, sample in enumerate(samples.tolist())
    ]


def test_events_stand_out_of_what_is_usual() -> None:
    it, test, labels = fitted()
    scores = np.array(values(it.detector, test))
    starts = np.flatnonzero(np.diff(labels.astype(int)) == 1) + 1
    assert scores[starts].min() > 2.0 * np.quantile(scores[~labels], 0.99)


def test_the_future_changes_no_score_of_the_past() -> None:
    it, test, _ = fitted()
    changed = test.copy()
    changed[300:] = 100.0
    before = values(SeriesDetector.restore(it.detector.snapshot()), test)
    after = values(SeriesDetector.restore(it.detector.snapshot()), changed)
    assert before[:300] == after[:300]
    assert before[300] != after[300]


def test_a_restored_detector_goes_on_as_the_other_would_have_and_its_state_is_plain_json() -> None:
    it, test, _ = fitted()
    values(it.detector, test[:400])
    again = SeriesDetector.restore(json.loads(json.dumps(it.detector.snapshot(), allow_nan=False)))
    assert values(again, test[400:]) == values(it.detector, test[400:])


def test_a_snapshot_does_not_change_when_the_detector_goes_on() -> None:
    it, test, _ = fitted()
    before = it.detector.snapshot()
    text = json.dumps(before)
    values(it.detector, test)
    assert json.dumps(before) == text


def test_a_shift_that_stays_is_normal_a_few_days_later_unless_drift_adaptation_is_off() -> None:
    late = []
    for adaptation_s in (86_400.0, 0.0):
        it, test, _ = fitted(adaptation_s=adaptation_s, lags=0)
        calm = np.tile(test[:150], (12, 1))
        calm[:, 0] += 6.0 * it.detector.scale[0]
        late.append(np.mean(values(it.detector, calm)[-150:]))
    assert late[0] < 0.6 * late[1]


def test_missing_values_are_left_out_and_what_comes_after_them_is_scored() -> None:
    it, test, labels = fitted()
    gaps = test.copy()
    gaps[40:60] = math.nan
    gaps[::7, 2] = math.nan
    gaps[90, 0] = math.inf
    scores = np.array(values(it.detector, gaps))
    assert np.isfinite(scores).all()
    starts = np.flatnonzero(np.diff(labels.astype(int)) == 1) + 1
    assert scores[starts].min() > np.quantile(scores[~labels], 0.99)


def test_after_a_gap_or_a_clock_that_jumps_back_nothing_is_foretold_from_the_time_before() -> None:
    for jump_s in (7200.0, -7200.0, 0.0):
        it, test, _ = fitted()
        values(it.detector, test[:50])
        score = it.detector.update(it.detector.last_s + jump_s, test[50] + 5.0)
        assert score.parts[PARTS.index("residual")] == 0.0
        assert score.parts[PARTS.index("level")] > 1.0
        values(it.detector, test[51:54])
        assert it.detector.update(it.detector.last_s + PERIOD_S, test[54]).parts[PARTS.index("residual")] > 0.0


def test_a_score_names_the_columns_and_the_side() -> None:
    it, test, _ = fitted()
    detector = with_reasons(it.detector, 2.0)
    values(detector, test[:30])
    assert detector.update(detector.last_s + PERIOD_S, test[30]).reasons == ()
    wild = test[31].copy()
    wild[1] -= 20.0 * detector.scale[1]
    reasons = detector.update(detector.last_s + PERIOD_S, wild).reasons
    assert reasons[0].startswith("column-1: ")
    assert "below" in reasons[0]


def test_a_column_that_never_moved_in_training_counts_when_it_moves() -> None:
    it, test, _ = fitted()
    values(it.detector, test[:30])
    before = SeriesDetector.restore(it.detector.snapshot())
    moved = test[30].copy()
    moved[5] += 1.0
    now_s = before.last_s + PERIOD_S
    assert before.update(now_s, moved).value > 2.0 * it.detector.update(now_s, test[30]).value


def test_a_slow_ramp_that_an_auto_regression_foretells_is_seen_by_its_level() -> None:
    it, test, _ = fitted()
    ramp = np.tile(test[:40], (4, 1))
    ramp[:, 0] += np.linspace(0.0, 12.0, len(ramp)) * it.detector.scale[0]
    scores = [it.detector.update(it.detector.last_s + PERIOD_S, sample).levelled for sample in ramp.tolist()]
    last = np.mean(scores[-20:], axis=0)
    assert last[PARTS.index("level")] > 2.0 * last[PARTS.index("residual")]


def test_another_number_of_columns_is_refused() -> None:
    it, _, _ = fitted()
    with pytest.raises(ValueError, match="6 columns"):
        it.detector.update(0.0, [1.0, 2.0])


def test_a_series_without_enough_rows_or_names_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 20 rows"):
        fit_series(np.zeros((19, 2)), 60.0, ("a", "b"))
    with pytest.raises(ValueError, match="1 names"):
        fit_series(np.zeros((30, 2)), 60.0, ("a",))


@pytest.mark.parametrize("columns", [1, 40])
def test_tiny_and_constant_and_empty_columns_give_finite_scores(columns: int) -> None:
    train = np.random.default_rng(1).normal(size=(24, columns))
    train[:, 0] = math.nan
    train[:, -1] = 3.0
    it = fit_series(train, 60.0, [str(number) for number in range(columns)])
    assert np.isfinite(it.calibration).all()
    assert math.isfinite(it.detector.update(24 * 60.0, [4.0] * columns).value)
