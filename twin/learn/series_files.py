"""Reads a folder of labelled series: one .npz a machine, with `train`, `test` (rows: samples) and `test_label`."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twin.errors import OperatorError
from twin.learn.series_fitting import ROWS_MIN, Series

KEYS = ("train", "test", "test_label")
PERIODS = (("smd", "machine-", 60.0, "SMD"), ("asd", "omi-", 300.0, "ASD"))
"""Of data sets that are known: in the folder's name, start of their files' names, seconds between samples, name."""
PERIOD_ASSUMED_S = 60.0


@dataclass(frozen=True, slots=True)
class SeriesFile:
    """A machine's series. Labels are for scoring alone."""

    name: str
    train: Series
    test: Series
    labels: NDArray[np.bool_]


def read_folder(folder: Path) -> list[SeriesFile]:
    """All machines of a folder, by name. OperatorError for what is not of that form."""
    if not folder.is_dir():
        raise OperatorError(f"{folder}: no such folder; --data wants one with a .npz for each machine")
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        inner = sorted({path.parent.name for path in folder.glob("*/*.npz")})
        hint = f"; its folders {', '.join(inner)} have some" if inner else ""
        raise OperatorError(f"{folder}: no .npz file in it{hint}; --data wants a folder with one for each machine")
    return [read_series(path) for path in paths]


def read_series(path: Path) -> SeriesFile:
    """One machine. OperatorError for what is not of that form; pickled objects are never loaded."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive.files]
            if missing:
                raise OperatorError(f"{path}: lacks {', '.join(missing)}; it wants the arrays {', '.join(KEYS)}")
            train, test, labels = (archive[key] for key in KEYS)
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise OperatorError(f"{path}: cannot be read as an .npz of numbers ({error})") from error
    except ValueError as error:  # whose words would advise to load pickled objects
        raise OperatorError(
            f"{path}: is no .npz of numbers; numpy.savez makes one of arrays without objects"
        ) from error
    for key, values in zip(KEYS, (train, test, labels), strict=True):
        if values.dtype.kind not in "fiub":
            raise OperatorError(f"{path}: {key} holds {values.dtype}, not numbers")
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or not train.shape[1]:
        raise OperatorError(
            f"{path}: train {train.shape} and test {test.shape} must have rows of samples and the same columns"
        )
    if labels.shape != (len(test),) or not np.isin(labels, (0, 1)).all():
        raise OperatorError(
            f"{path}: test_label {labels.shape} must be 0 or 1 for each of the {len(test)} rows of test"
        )
    if len(train) < ROWS_MIN or not len(test):
        raise OperatorError(
            f"{path}: train has {len(train)} rows and test {len(test)}; at least {ROWS_MIN} and 1 are needed"
        )
    return SeriesFile(path.stem, train.astype(np.float64), test.astype(np.float64), labels.astype(np.bool_))


def sampling_period_s(folder: Path, names: list[str], asked_s: float | None) -> tuple[float, str]:
    """Seconds between samples, and how that is known, in words. The files themselves do not say it."""
    if asked_s is not None:
        return asked_s, "as --period-s says"
    for part, _, period_s, known in PERIODS:
        if part in folder.resolve().name.lower():
            return period_s, f"assumed: {known} has a sample every {period_s:g} s (by the folder's name)"
    for _, start, period_s, known in PERIODS:
        if all(name.startswith(start) for name in names):
            return period_s, f"assumed: {known} has a sample every {period_s:g} s (by the files' names, {start}*)"
    return PERIOD_ASSUMED_S, f"assumed: nothing says it, so {PERIOD_ASSUMED_S:g} s; --period-s sets it"
