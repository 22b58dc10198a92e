"""A run over its time, in steps: what charts draw. DuckDB brings the rows together, so that length does not matter.

A step is named by its beginning `at` and holds what happened in [at, at + width), except where a text says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.record.query import CANCELLED, LOST, REJECTED, SUCCEEDED, Query, Row
from twin.record.reader import RunRecord

WIDTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
STEPS_MAX = 130
LOOKS_PER_WINDOW = 10
LOOKS_MAX = 200_000
NODES_MAX = 12


@dataclass(frozen=True, slots=True)
class Steps:
    """Equal steps over a run. `width_s` is a round number of seconds; the last step ends at or after the run's end."""

    width_s: float
    count: int

    def at(self, index: int) -> float:
        """When a step begins, in seconds on the run's clock."""
        return round(index * self.width_s, 6)


def steps_of(record: RunRecord, most: int = STEPS_MAX) -> Steps:
    """The finest round steps of which at most `most` cover the run."""
    end_s = record.number("simulated_s")
    width_s = next((width for width in WIDTHS_S if end_s / width <= most), end_s / most)
    return Steps(float(width_s), max(1, math.ceil(end_s / width_s)))


def success_over_time(query: Query, steps: Steps) -> list[Row]:
    """The success ratio of the steady state in each step: {at, lowest, last}; None where nothing ended in the window.

    It is the ratio over the requests that ended in the trailing `window_s` (see `recovery`), looked at several times a
    window; `lowest` is the lowest look of the step, so that no dip is lost in a long run, `last` its last look.
    """
    end_s = query.record.number("simulated_s")
    window_s = query.record.number("scenario.steady_state.success_ratio.window_s")
    look_s = window_s / max(LOOKS_PER_WINDOW, math.ceil(window_s / steps.width_s))
    if end_s / look_s > LOOKS_MAX:
        look_s = window_s
    looks = math.ceil(end_s / look_s) + 1
    found = query.columns(
        f"SELECT CAST(ceil(end_s / $look_s - 1e-9) AS BIGINT) AS look, count(*) AS ended, "
        f"count(*) FILTER ({SUCCEEDED}) AS succeeded FROM requests "
        f"WHERE end_s IS NOT NULL AND NOT coalesce({CANCELLED}, false) GROUP BY 1",
        look_s=look_s,
    )
    ended, succeeded = (_totals(found["look"], found[name], looks) for name in ("ended", "succeeded"))
    back = round(window_s / look_s)
    before = np.maximum(np.arange(1, looks + 1) - back, 0)
    in_window = (ended[1:] - ended[before]).astype(np.float64)
    in_window[in_window == 0] = np.nan
    ratios = (succeeded[1:] - succeeded[before]) / in_window
    rows: list[Row] = []
    place = np.minimum(np.floor(np.arange(looks) * look_s / steps.width_s + 1e-9).astype(np.int64), steps.count - 1)
    bounds = np.searchsorted(place, np.arange(steps.count + 1))
    last: float | None = None
    for index in range(steps.count):
        seen = ratios[bounds[index] : bounds[index + 1]]
        if seen.size:
            known = seen[~np.isnan(seen)]
            last = None if np.isnan(seen[-1]) else float(seen[-1])
            lowest = float(known.min()) if known.size else None
        else:
            lowest = last  # the step lies between two looks
        rows.append({"at": steps.at(index), "lowest": lowest, "last": last})
    return rows


def requests_over_time(query: Query, steps: Steps) -> list[Row]:
    """Requests per second in each step: {at, arrived, succeeded, lost, rejected}; the last three by their end."""
    arrived = query.columns(
        "SELECT CAST(floor(arrival_s / $width_s) AS BIGINT) AS step, count(*) AS n FROM requests GROUP BY 1",
        width_s=steps.width_s,
    )
    ended = query.columns(
        "SELECT CAST(floor(coalesce(end_s, arrival_s) / $width_s) AS BIGINT) AS step, "
        f"count(*) FILTER ({SUCCEEDED}) AS succeeded, count(*) FILTER ({LOST}) AS lost, "
        f"count(*) FILTER ({REJECTED}) AS rejected FROM requests GROUP BY 1",
        width_s=steps.width_s,
    )
    series = {"arrived": _spread(arrived["step"], arrived["n"], steps)}
    series |= {name: _spread(ended["step"], ended[name], steps) for name in ("succeeded", "lost", "rejected")}
    return [
        {"at": steps.at(index), **{name: float(counts[index]) / steps.width_s for name, counts in series.items()}}
        for index in range(steps.count)
    ]


def latency_over_time(query: Query, steps: Steps) -> list[Row]:
    """Latencies of the requests that arrived in each step and succeeded: {at, n, ttft_p50, ... e2e_p99} in seconds.

    Quantiles are linear between neighbours, as those of `figures`. A step without such requests has no row.
    """
    shares = "[0.5, 0.95, 0.99]"
    rows = query.rows(
        "SELECT CAST(floor(arrival_s / $width_s) AS BIGINT) AS step, count(*) AS n, "
        f"quantile_cont(first_token_s - arrival_s, {shares}) FILTER (WHERE stream) AS ttft, "
        f"quantile_cont(end_s - arrival_s, {shares}) AS e2e FROM requests WHERE {SUCCEEDED} GROUP BY 1 ORDER BY 1",
        width_s=steps.width_s,
    )
    found: list[Row] = []
    for row in rows:
        of = {
            f"{name}_{key}": value
            for name in ("ttft", "e2e")
            for key, value in zip(("p50", "p95", "p99"), row[name] or (None,) * 3, strict=True)
        }
        found.append({"at": steps.at(row["step"]), "n": row["n"], **of})
    return found


def in_system_over_time(query: Query, steps: Steps) -> list[Row]:
    """Requests in flight at all nodes, and waiting at the gateways: {at, in_flight, waiting}, the most in each step."""
    return query.rows(
        "WITH looks AS (SELECT time_s, sum(in_flight) AS in_flight, max(waiting) AS waiting FROM telemetry GROUP BY 1) "
        "SELECT floor(time_s / $width_s) * $width_s AS at, CAST(max(in_flight) AS INTEGER) AS in_flight, "
        "CAST(max(waiting) AS INTEGER) AS waiting FROM looks GROUP BY 1 ORDER BY 1",
        width_s=steps.width_s,
    )


def at_nodes_over_time(query: Query, steps: Steps, nodes: list[str]) -> list[Row]:
    """Requests in flight at each of the nodes: {at, node, in_flight}, the most in each step."""
    return query.rows(
        "SELECT floor(time_s / $width_s) * $width_s AS at, node, CAST(max(in_flight) AS INTEGER) AS in_flight "
        "FROM telemetry WHERE node IN (SELECT unnest($nodes)) GROUP BY 1, 2 ORDER BY 2, 1",
        width_s=steps.width_s,
        nodes=nodes,
    )


def telemetry_over_time(query: Query, steps: Steps, node: str, column: str) -> list[Row]:
    """One column of a node's telemetry: {at, low, mean, high} in each step that has a value.

    `column` is one of `telemetry_columns.TELEMETRY_NAMES`, or KeyError.
    """
    from twin.record.telemetry_columns import TELEMETRY_NAMES  # noqa: PLC0415

    if column not in TELEMETRY_NAMES:
        raise KeyError(column)
    return query.rows(
        f"SELECT floor(time_s / $width_s) * $width_s AS at, min({column}) AS low, avg({column}) AS mean, "
        f"max({column}) AS high FROM telemetry WHERE node = $node AND {column} IS NOT NULL GROUP BY 1 ORDER BY 1",
        width_s=steps.width_s,
        node=node,
    )


def _spread(step: NDArray[np.int64], count: NDArray[np.int64], steps: Steps) -> NDArray[np.int64]:
    """Counts by step with the steps in which there was nothing; what ended after the run's end is in the last step."""
    inside = np.clip(step.astype(np.int64), 0, steps.count - 1)
    return np.bincount(inside, weights=count, minlength=steps.count).astype(np.int64)


def _totals(place: NDArray[np.int64], count: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many there were at places below 0, 1, ... size."""
    inside = np.clip(place.astype(np.int64), 0, size - 1)
    counts = np.bincount(inside, weights=count, minlength=size).astype(np.int64)
    return np.concatenate(([0], np.cumsum(counts)))
