"""Scores the statistical detector, its parts switched off, and the baselines on a folder of labelled series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from twin.errors import OperatorError
from twin.experiment.engines import LocalEngine
from twin.learn.series_baselines import BASELINES, baseline_scores
from twin.learn.series_files import SeriesFile, read_folder, sampling_period_s
from twin.learn.series_fitting import FittedSeries, Series, fit_series
from twin.learn.series_scoring import ScoredMachine, chosen_without_the_machine, events, figures, recalls, shifted
from twin.policy.series_detector import PARTS, SeriesOptions

PROCESSES = 2
DETECTOR = "detector"
SHIFTS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Shares of its length by which a machine's labels are turned for the null: no score can know of events there."""

Scored = dict[str, tuple[Series, Series]]
"""By detector: scores of the calibration and of the test."""


@dataclass(frozen=True, slots=True)
class _Task:
    file: SeriesFile  # without its labels: the detectors never have them
    period_s: float
    what: str


ABLATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no_residual": ("as it is", ("ewma", "level")),
    "no_ewma": ("as it is", ("residual", "level")),
    "no_level": ("as it is", ("residual", "ewma")),
    "with_change_point": ("as it is", PARTS),
    "change_point_alone": ("as it is", ("change_point",)),
    "no_auto_regression": ("no auto-regression", ("residual", "ewma", "level")),
    "no_drift_adaptation": ("no adaptation", ("residual", "ewma", "level")),
}
"""Name: the run that it is taken from, and the parts that count."""

RUNS: dict[str, SeriesOptions] = {
    "as it is": SeriesOptions(),
    "no auto-regression": SeriesOptions(lags=0),
    "no adaptation": SeriesOptions(adaptation_s=0.0),
}


def evaluate_folder(
    folder: Path,
    period_s: float | None = None,
    progress: Callable[[str], None] = lambda line: None,
    processes: int = PROCESSES,
) -> dict[str, Any]:
    """All figures of a folder, JSON-able: the detector's, the ablations', the baselines'. Deterministic.

    Raises `OperatorError` for a folder that is not of that form.
    """
    if period_s is not None and not 0.0 < period_s <= 86_400.0:
        raise OperatorError(f"--period-s {period_s:g}: seconds between samples, above 0 and at most 86400")
    files = read_folder(folder)
    period_s, how = sampling_period_s(folder, [file.name for file in files], period_s)
    runs = [*RUNS, "baselines"]
    unlabelled = [replace(file, labels=np.zeros(0, dtype=np.bool_)) for file in files]
    tasks = [_Task(file, period_s, what) for file in unlabelled for what in runs]
    scored: dict[str, Scored] = {file.name: {} for file in files}
    for done, (name, found) in enumerate(LocalEngine(processes).results(_scores, tasks), start=1):
        scored[name] |= found
        progress(f"{done} of {len(tasks)} runs, {len(files)} machines")
    progress("counting pages")
    names = [DETECTOR, *ABLATIONS, "auto_regression_ewma", *BASELINES]
    machines = {name: [_machine(file, period_s, scored[file.name][name]) for file in files] for name in names}
    found_figures = {name: figures(machines[name]) for name in names}
    count = sum(len(events(file.labels)) for file in files)
    samples = sum(len(file.labels) for file in files)
    return {
        "data": str(folder),
        "period_s": period_s,
        "period_known": how,
        "machines": len(files),
        "columns": sorted({file.test.shape[1] for file in files}),
        "machine_days": samples * period_s / 86_400.0,
        "events": count,
        "labelled_share": sum(int(file.labels.sum()) for file in files) / samples,
        DETECTOR: found_figures[DETECTOR],
        "detector_on_shifted_labels": _chance(machines[DETECTOR]),
        "chosen_without_the_machine": chosen_without_the_machine(
            {name: machines[name] for name in (DETECTOR, *ABLATIONS)}
        ),
        "ablations": {name: found_figures[name] for name in ABLATIONS},
        "baselines": {name: found_figures[name] for name in ("auto_regression_ewma", *BASELINES)},
        "by_machine": {
            file.name: {
                "events": len(events(file.labels)),
                "samples": len(file.labels),
                "columns": file.test.shape[1],
            }
            for file in files
        },
    }


def _chance(machines: Sequence[ScoredMachine]) -> dict[str, float | None]:
    """The detector's recall when the labels are turned in a circle: the mean over several turns."""
    turned = [recalls(shifted(machines, share)) for share in SHIFTS]
    found: dict[str, float | None] = {}
    for name in turned[0]:
        known = [each[name] for each in turned]
        found[name] = None if None in known else float(np.mean([each for each in known if each is not None]))
    return found


def _machine(file: SeriesFile, period_s: float, scores: tuple[Series, Series]) -> ScoredMachine:
    return ScoredMachine(file.name, period_s, *scores, file.labels)


def _scores(task: _Task) -> tuple[str, Scored]:
    """All that a run gives, in a process of its own."""
    file = task.file
    if task.what == "baselines":
        return file.name, {name: baseline_scores(file.train, file.test, raw) for name, raw in BASELINES.items()}
    fitted = fit_series(file.train, task.period_s, _columns(file), RUNS[task.what])
    test = stream(fitted, file.test)
    wanted = {name: parts for name, (run, parts) in ABLATIONS.items() if run == task.what}
    if task.what == "as it is":
        wanted[DETECTOR] = SeriesOptions().parts
    if task.what == "no adaptation":
        wanted["auto_regression_ewma"] = ("ewma",)
    found: Scored = {}
    for name, parts in wanted.items():
        places = [PARTS.index(part) for part in parts]
        found[name] = (fitted.calibration_levelled[:, places].max(axis=1), test[:, places].max(axis=1))
    return file.name, found


def stream(fitted: FittedSeries, test: Series) -> Series:
    """The levelled score of each part at each sample of what follows the training, one sample after the other."""
    detector = fitted.detector
    period_s = detector.model.period_s
    start_s = detector.last_s
    return np.array(
        [
            detector.update(start_s + (place + 1) * period_s, sample).levelled
            for place, sample in enumerate(test.tolist())
        ]
    )


def _columns(file: SeriesFile) -> tuple[str, ...]:
    return tuple(f"column {number}" for number in range(file.test.shape[1]))
