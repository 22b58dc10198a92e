"""Small series of machines that look like servers: daily waves, noise, columns that move together, events in the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PERIOD_S = 300.0
DAY = 288  # samples


def machine(seed: int, train: int = 4 * DAY, test: int = 3 * DAY, columns: int = 6) -> dict[str, NDArray[np.float64]]:
    """A machine whose columns follow a common load; three events of an hour in which four of them leave it."""
    random = np.random.default_rng(seed)
    count = train + test
    wave = np.sin(np.arange(count) * 2 * np.pi / DAY)
    load = wave + np.convolve(random.normal(size=count), np.ones(5) / 5, mode="same")
    series = load[:, None] * random.uniform(0.5, 2.0, columns) + random.normal(scale=0.2, size=(count, columns))
    series[:, -1] = 1.0  # a column that never moves
    labels = np.zeros(test)
    for start in (test // 5, test // 2, 4 * test // 5):
        labels[start : start + 12] = 1
        series[train + start : train + start + 12, :4] += random.choice((-4.0, 4.0), size=4)
    return {"train": series[:train], "test": series[train:], "test_label": labels}


def write(folder: Path, machines: int = 2, **shape: int) -> Path:
    """A folder of such machines."""
    folder.mkdir(exist_ok=True)
    for number in range(machines):
        np.savez(folder / f"machine-{number}.npz", **machine(number, **shape))  # type: ignore[arg-type]
    return folder
