"""From the lines of a study to the figures of its points, each over its replications."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from twin.experiment.run import combine
from twin.experiment.statistics import censored_times, quantile
from twin.experiment.study import Line, Point
from twin.experiment.verdict import expectation_of, look_up, verdict_of
from twin.record.names import BETTER, EXPECTABLE
from twin.scenario.schema import Scenario

QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
DURATIONS = ("ttd_s", "ttm_s", "ttr_s")
OF_THE_MACHINE = {"wall_s", "simulated_s", "events", "events_per_request"}
"""Figures that say nothing of the system."""


def summarise_point(point: Point, lines: Sequence[Line]) -> dict[str, Any]:
    """What `study.json` says of a point: figures with intervals, quantiles over the replications, verdict, recoveries.

    The verdict is that of the scenario's claim, as `run` gives it: a limit holds only if every replication kept it, and
    a broken invariant fails.
    """
    scenario = point.scenario
    expectations = [
        expectation_of(name, limit, [it["verdicts"][name] for it in lines], values_of(lines, name))
        for name, limit in scenario.expect.items()
    ]
    invariants: dict[str, int] = {}
    for line in lines:
        for name, count in line["invariants"].items():
            invariants[name] = invariants.get(name, 0) + count
    verdict = "fail" if any(invariants.values()) else verdict_of(expectations, [it["aborted"] for it in lines])
    return {
        "settings": point.settings,
        "n": len(lines),
        "verdict": verdict,
        "expectations": expectations,
        "figures": combine([it["figures"] for it in lines], [it["record_digest"] for it in lines]) if lines else {},
        "quantiles": _quantiles(lines),
        "recovery": {name: _recovery(lines, name) for name in DURATIONS},
        "invariants": invariants,
        "aborted": sum(bool(it["aborted"]) for it in lines),
        "warmup": _warmup(scenario, lines),
    }


def values_of(lines: Sequence[Line], name: str) -> list[float | None]:
    """A figure in each replication."""
    return [look_up(it["figures"], name) for it in lines]


def _quantiles(lines: Sequence[Line]) -> dict[str, Any]:
    """Quantiles over the replications of each figure that is one number, with distribution-free intervals."""
    found: dict[str, Any] = {}
    for name in sorted(EXPECTABLE - OF_THE_MACHINE):
        observed = [value for value in values_of(lines, name) if value is not None]
        if observed:
            each = {key: quantile(observed, share) for key, share in QUANTILES.items()}
            found[name] = {key: {"value": value, "ci95": ci95} for key, (value, ci95) in each.items()}
            found[name]["n"] = len(observed)
    return found


def _recovery(lines: Sequence[Line], name: str) -> dict[str, Any]:
    """The times of all faults in all replications, the censored among them; `nothing_to_observe` are no times at all."""
    durations = [recovery[name] for line in lines for recovery in line["recoveries"]]
    observed = [it["value_s"] for it in durations if it["value_s"] is not None]
    at_least = [it["at_least_s"] or 0.0 for it in durations if it["value_s"] is None and it["censored"]]
    times = censored_times(observed, at_least)
    return {**times, "nothing_to_observe": len(durations) - len(observed) - len(at_least)}


def _warmup(scenario: Scenario, lines: Sequence[Line]) -> dict[str, Any]:
    """The declared warm-up beside what MSER-5 asks for: the median over the replications in which it could tell."""
    needed = [it["warmup_needed_s"] for it in lines if it["warmup_needed_s"] is not None]
    needed_s = statistics.median(needed) if needed else None
    declared_s = scenario.workload.warmup_s
    enough = None if needed_s is None else needed_s <= declared_s
    return {"declared_s": declared_s, "needed_s": needed_s, "n": len(needed), "enough": enough}


def best_of(points: Sequence[dict[str, Any]], scenario: Scenario) -> int | None:
    """The place of the best point: the better verdict, then the better means of what the scenario expects, in its order.

    Then the fewer lost, the higher success ratio, the lower 95th percentile of the latency. A point whose claim could not be
    judged is none. None where no point is left, or the best two are equal in all of these. It is the best seen; whether it
    is better than another beyond chance is what `compare` tells.
    """
    names = [name for name in scenario.expect if name in BETTER]
    names += [name for name in ("requests_lost", "success_ratio", "e2e_s.p95") if name not in names]
    ranks = []
    for place, point in enumerate(points):
        if not point["n"] or (scenario.expect and point["verdict"] == "unknown"):
            continue
        rank: list[float] = [float(point["verdict"] == "fail")]
        for name in names:
            mean = mean_of(point["figures"], name)
            rank.append(float("inf") if mean is None else mean if BETTER[name] == "lower" else -mean)
        ranks.append((rank, place))
    ranks.sort()
    if not ranks or (len(ranks) > 1 and ranks[0][0] == ranks[1][0]):
        return None
    return ranks[0][1]


def figure_of(figures: dict[str, Any], name: str) -> Any:
    """A combined figure by its dotted name: a number, {"mean", "ci95", "n"}, or None."""
    value: Any = figures
    for step in name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def mean_of(figures: dict[str, Any], name: str) -> float | None:
    """Its mean."""
    value = figure_of(figures, name)
    value = value.get("mean") if isinstance(value, dict) else value
    return None if value is None else float(value)
