"""Scores a detector on labelled series of several machines, the way an operator would feel it: pages and missed events.

- A *page* is the first sample at or above the threshold; while the alarm stands it pages again every 30 minutes.
- A page is *false* outside [start - 30 min, end + 30 min] of every event. An event is *detected* when a sample within it
  is at or above the threshold; the *delay* is from its start to the first such sample.
- One threshold for all machines. Recall at N false pages a machine-day is the highest of all thresholds that keep to it.
- The deployable figure takes its threshold from the unlabelled calibration alone, where every page counts as false, but
  of a machine's day at most twice the budget (a page at least): nobody labelled the calibration, and one incident in it
  must not make the detector blind. It is given with the false pages that it really had.

Point-adjusted F1 is not computed: a random score wins under it (Kim et al., AAAI 2022, arXiv:2109.05257).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twin.experiment.statistics import proportion_interval

Scores: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.bool_]

REPAGE_S = 1800.0
GUARD_S = 1800.0
DAY_S = 86_400.0
THRESHOLDS = 400
BUDGETS = {"1_false_page_per_machine_day": 1.0, "0.25_false_pages_per_machine_day": 0.25}
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class ScoredMachine:
    """What a detector said of a machine. Labels belong to `test` alone, and no detector has seen them."""

    name: str
    period_s: float
    calibration: Scores
    test: Scores
    labels: Labels


def events(labels: Labels) -> list[tuple[int, int]]:
    """Runs of labelled samples: first, and one after the last."""
    starts, ends = _runs(labels)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _runs(marked: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    padded = np.zeros(len(marked) + 2, dtype=np.bool_)
    padded[1:-1] = marked
    edges = np.flatnonzero(padded[1:] != padded[:-1]).astype(np.int64)
    return edges[::2], edges[1::2]


def pages(exceeding: Labels, period_s: float) -> NDArray[np.int64]:
    """The samples at which somebody is paged."""
    starts, ends = _runs(exceeding)
    every = max(1, math.ceil(REPAGE_S / period_s))
    counts = (ends - starts - 1) // every + 1
    first = np.repeat(np.cumsum(counts) - counts, counts)
    paged: NDArray[np.int64] = np.repeat(starts, counts) + every * (np.arange(counts.sum()) - first)
    return paged


def excused(labels: Labels, period_s: float) -> Labels:
    """Samples where a page is not false."""
    guard = math.floor(GUARD_S / period_s)
    found = np.zeros(len(labels), dtype=np.bool_)
    for start, end in events(labels):
        found[max(0, start - guard) : end + guard] = True
    return found


def thresholds(machines: Sequence[Scores]) -> Scores:
    """Those worth trying, falling: all that occur, or where these are many, by ranks in geometric steps; and infinity."""
    pooled = np.concatenate(machines)
    distinct = np.unique(pooled)
    if len(distinct) > THRESHOLDS:
        ranks = np.unique(np.geomspace(1, len(pooled), THRESHOLDS).astype(np.int64)) - 1
        distinct = np.unique(np.sort(pooled)[::-1][ranks])
    return np.concatenate(([math.inf], distinct[::-1]))


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What thresholds would have given: rows are thresholds, columns machines or events."""

    thresholds: Scores
    false_pages: NDArray[np.int64]  # threshold by machine
    delays_s: Scores  # threshold by event; NaN where it was missed
    machine_of_event: NDArray[np.int64]
    machine_days: Scores  # of each machine


def outcomes(machines: Sequence[ScoredMachine], at: Scores) -> Outcomes:
    """Every threshold of `at` on every machine's test."""
    false_pages = np.zeros((len(at), len(machines)), dtype=np.int64)
    delays: list[Scores] = []
    owners: list[int] = []
    for place, machine in enumerate(machines):
        good = excused(machine.labels, machine.period_s)
        found = events(machine.labels)
        delay = np.full((len(at), len(found)), math.nan)
        for row, threshold in enumerate(at):
            exceeding = machine.test >= threshold
            paged = pages(exceeding, machine.period_s)
            false_pages[row, place] = np.count_nonzero(~good[paged])
            for number, (start, end) in enumerate(found):
                first = int(np.argmax(exceeding[start:end]))
                if exceeding[start + first]:
                    delay[row, number] = first * machine.period_s
        delays.append(delay)
        owners += [place] * len(found)
    days = np.array([len(machine.test) * machine.period_s / DAY_S for machine in machines])
    return Outcomes(at, false_pages, np.hstack(delays), np.array(owners, dtype=np.int64), days)


def figures(machines: Sequence[ScoredMachine]) -> dict[str, Any]:
    """All figures of a detector on these machines, JSON-able. Recalls are None where there is no event."""
    result = outcomes(machines, thresholds([machine.test for machine in machines]))
    found: dict[str, Any] = {}
    for name, budget in BUDGETS.items():
        found[f"recall_at_{name}"] = _row(result, _best_row(result, budget)) | {
            "recall_interval_over_machines": _resampled(result, budget)
        }
    for name, budget in BUDGETS.items():
        threshold = deployable_threshold(machines, budget)
        chosen = outcomes(machines, np.array([threshold]))
        found[f"deployable_for_{name}"] = _row(chosen, 0) | {
            "recall_interval_over_machines": _resampled(chosen, math.inf)
        }
    found["auc_pr"] = _auc_pr(machines)
    return found


def deployable_threshold(machines: Sequence[ScoredMachine], budget: float) -> float:
    """The lowest threshold under which the calibration, unlabelled, has at most `budget` pages a machine-day."""
    days = sum(len(machine.calibration) * machine.period_s / DAY_S for machine in machines)
    lowest = math.inf
    for threshold in thresholds([machine.calibration for machine in machines]):
        if sum(_winsorised_pages(machine, threshold, budget) for machine in machines) > budget * days:
            break
        lowest = float(threshold)
    if math.isinf(lowest):  # not even one page would keep to it: just above all that the calibration saw
        lowest = float(np.nextafter(max(float(machine.calibration.max()) for machine in machines), math.inf))
    return lowest


def _winsorised_pages(machine: ScoredMachine, threshold: float, budget: float) -> float:
    """Pages of a calibration, of each of its days at most twice the budget, or one."""
    count = len(machine.calibration)
    days = max(1, round(count * machine.period_s / DAY_S))
    day = pages(machine.calibration >= threshold, machine.period_s) * days // count
    return float(np.minimum(np.bincount(day), max(1.0, 2.0 * budget)).sum())


def shifted(machines: Sequence[ScoredMachine], share: float) -> list[ScoredMachine]:
    """The same scores with each machine's labels turned in a circle by a share of their length: what chance gives."""
    return [
        ScoredMachine(it.name, it.period_s, it.calibration, it.test, np.roll(it.labels, int(share * len(it.labels))))
        for it in machines
    ]


def recalls(machines: Sequence[ScoredMachine]) -> dict[str, float | None]:
    """The recalls of `figures` alone."""
    result = outcomes(machines, thresholds([machine.test for machine in machines]))
    return {f"recall_at_{name}": _row(result, _best_row(result, budget))["recall"] for name, budget in BUDGETS.items()}


def chosen_without_the_machine(variants: Mapping[str, Sequence[ScoredMachine]]) -> dict[str, Any] | None:
    """Recalls when each machine is scored by the variant that was the best on all the others (both recalls added up).

    What a choice among variants is worth on machines that had no say in it. None for fewer than two machines.
    """
    results = {name: outcomes(each, thresholds([it.test for it in each])) for name, each in variants.items()}
    count = len(next(iter(variants.values())))
    if count < 2:
        return None
    picked = [max(results, key=lambda name: _sum_of_recalls(results[name], place)) for place in range(count)]
    return recalls([variants[name][place] for place, name in enumerate(picked)]) | {"picked": picked}


def _sum_of_recalls(result: Outcomes, left_out: int) -> int:
    """Detected events, of both budgets together, on all machines but one."""
    others = np.arange(len(result.machine_days)) != left_out
    hits = (~np.isnan(result.delays_s))[:, result.machine_of_event != left_out].sum(axis=1)
    false_a_day = result.false_pages[:, others].sum(axis=1) / result.machine_days[others].sum()
    return sum(int(np.where(false_a_day <= budget, hits, 0).max()) for budget in BUDGETS.values())


def _best_row(result: Outcomes, budget: float) -> int:
    """The row with the most detected events within the budget; among equals the one with the highest threshold."""
    false_a_day = result.false_pages.sum(axis=1) / result.machine_days.sum()
    return int(np.argmax(np.where(false_a_day <= budget, (~np.isnan(result.delays_s)).sum(axis=1), -1)))


def _row(result: Outcomes, row: int) -> dict[str, Any]:
    delays = result.delays_s[row]
    delays = delays[~np.isnan(delays)]
    count, hits = result.delays_s.shape[1], len(delays)
    threshold = float(result.thresholds[row])
    return {
        "recall": hits / count if count else None,
        "recall_interval": proportion_interval(hits, count) if count else None,
        "detected": hits,
        "false_pages": int(result.false_pages[row].sum()),
        "false_pages_per_machine_day": float(result.false_pages[row].sum() / result.machine_days.sum()),
        "threshold": threshold if math.isfinite(threshold) else None,
        "delay_median_s": round(float(np.median(delays)), 3) if hits else None,
        "delay_p90_s": round(float(np.quantile(delays, 0.9)), 3) if hits else None,
    }


def _resampled(result: Outcomes, budget: float) -> list[float] | None:
    """95 % interval of the recall over machines drawn anew (bootstrap), the threshold chosen anew each time."""
    count = len(result.machine_days)
    if count < 2 or not len(result.machine_of_event):
        return None
    detected = ~np.isnan(result.delays_s)
    hits = np.stack([detected[:, result.machine_of_event == place].sum(axis=1) for place in range(count)], axis=1)
    of = np.array([np.count_nonzero(result.machine_of_event == place) for place in range(count)])
    drawn = np.random.default_rng(1).integers(0, count, size=(RESAMPLES, count))
    times = np.stack([(drawn == place).sum(axis=1) for place in range(count)])  # machine by resample
    within = np.where(result.false_pages @ times / (result.machine_days @ times) <= budget, hits @ times, 0)
    events_drawn = of @ times
    drew_any = events_drawn > 0
    low, high = np.quantile(within.max(axis=0)[drew_any] / events_drawn[drew_any], (0.025, 0.975))
    return [float(low), float(high)]


def _auc_pr(machines: Sequence[ScoredMachine]) -> float | None:
    """Average precision over the samples of all machines; chance is the share of labelled samples."""
    from sklearn.metrics import average_precision_score  # noqa: PLC0415  # dear to import

    labels = np.concatenate([machine.labels for machine in machines])
    if not labels.any():
        return None
    return float(average_precision_score(labels, np.concatenate([machine.test for machine in machines])))
