"""Whether a scenario's warm-up is long enough, by rule: MSER-5.

K. P. White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69 (1997) 323, in
the form of K. P. White, M. J. Cobb, S. C. Spratt, Proc. Winter Simulation Conference 2000, 755: the series is taken in
means of five; cut off at the beginning what makes the standard error of the mean of the rest smallest. A cut in the
last half says that the series is too short to tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twin.record.reader import RunRecord
from twin.record.recovery import numbers, outcomes

BATCH = 5
BATCHES_MIN = 20
"""A series of fewer means says nothing."""


def mser5(values: Sequence[float] | NDArray[np.float64]) -> int | None:
    """How many of the first values (a multiple of 5) to cut off; None where the series is too short to tell."""
    count = len(values) // BATCH
    if count < BATCHES_MIN:
        return None
    means = np.asarray(values, dtype=np.float64)[: count * BATCH].reshape(count, BATCH).mean(axis=1)
    left = np.arange(count, 0, -1)  # means that are left after a cut of 0, 1 ...
    centred = means - means.mean()  # the sums of squares below would lose digits otherwise
    total = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum(centred[::-1] ** 2)[::-1]
    error = (squares - total**2 / left) / left.astype(np.float64) ** 2
    cut = int(np.argmin(np.round(error[:-1], 15)))  # a single mean has no error
    return cut * BATCH if cut <= count // 2 else None


def warmup_needed_s(record: RunRecord) -> float | None:
    """Seconds from the start of the run that the latency (arrival to end) needs to settle; None where nobody can tell.

    Taken from the requests that succeeded, in order of arrival, which came before the first fault: what a fault does is
    no warm-up. 0 where nothing needs to be cut off.
    """
    requests = record.table("requests", ["admitted", "outcome", "arrival_s", "end_s", "deadline_s"])
    succeeded, _, _ = outcomes(requests)
    arrival_s, end_s = numbers(requests, "arrival_s"), numbers(requests, "end_s")
    injected_s = numbers(record.table("faults", ["injected_s"]), "injected_s")
    first_fault_s = float(injected_s.min()) if injected_s.size else np.inf
    # A request that was under way when the fault began may have met it.
    counted = succeeded & (end_s < first_fault_s)
    order = np.argsort(arrival_s[counted], kind="stable")
    arrived = arrival_s[counted][order]
    cut = mser5((end_s[counted] - arrival_s[counted])[order])
    if cut is None:
        return None
    return float(arrived[cut]) if cut else 0.0
