"""The charts of a run. All have the run's clock on the x axis, so that they can be read one below the other.

Every function takes a record and returns a `Drawing`: a title, one sentence that says what to see, and an Altair chart
as wide as its container. Rows are brought together in bins first: no chart has more than about a thousand marks.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pyarrow.compute as pc

from reports.drawing import (
    AMBER,
    BINS_MAX,
    BLUE,
    GREEN,
    GREY,
    MARKS_MAX,
    PURPLE,
    VERMILION,
    Drawing,
    Row,
    axis,
    chart,
    clock,
    colours_of,
    edges,
    layered,
    or_none,
    rounded,
)
from reports.lanes import node_lanes
from reports.words import number
from twin.record.reader import RunRecord
from twin.record.recovery import Times, numbers, outcomes, success_ratios

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def timeline(record: RunRecord) -> list[Drawing]:
    """All charts of one run, in the order in which they tell its story."""
    return [
        *node_lanes(record),
        success_over_time(record),
        load_over_time(record),
        latency_over_time(record, "first_token_s", "Time to first token"),
        latency_over_time(record, "end_s", "Arrival to end"),
        waiting_over_time(record),
    ]


def success_over_time(record: RunRecord) -> Drawing:
    """The success ratio over the scenario's trailing window, beside the floor of its steady state."""
    end_s = record.number("simulated_s")
    floor = record.number("scenario.steady_state.success_ratio.min")
    window_s = record.number("scenario.steady_state.success_ratio.window_s")
    at = np.linspace(0.0, end_s, 2 * BINS_MAX)
    ratios = success_ratios(record, at)
    rows = [{"at": rounded(t), "ratio": or_none(ratio)} for t, ratio in zip(at, ratios, strict=True)]
    known = ratios[~np.isnan(ratios)]
    lowest = float(known.min()) if known.size else 1.0
    bottom = max(0.0, min(lowest, floor) - 0.1 * (1.0 - min(lowest, floor)) - 0.002)
    y = alt.Y(
        "ratio:Q",
        scale=alt.Scale(domain=[bottom, 1.0], nice=False),
        axis=axis("Share succeeded"),
    )
    layers = [
        *_fault_bands(record),
        chart([{"ratio": floor}]).mark_rule(strokeDash=[5, 4], color=GREY).encode(y=y),
        chart(rows)
        .mark_line(color=BLUE, interpolate="step-after")
        .encode(x=clock(end_s), y=y, tooltip=["at:Q", "ratio:Q"]),
    ]
    below = "It never fell below the floor." if lowest >= floor else f"It fell to {number(lowest)} at its lowest."
    if not known.size:
        below = "No request ended."
    return Drawing(
        "Requests that succeeded",
        f"Of the requests that ended in the {number(window_s)} s before each moment, the share that succeeded; the "
        f"dashed line is the floor of the steady state, {number(floor)}. {below}",
        layered(layers),
    )


def load_over_time(record: RunRecord) -> Drawing:
    """Requests per second that arrived and that succeeded, and those that were lost or turned away."""
    end_s = record.number("simulated_s")
    bounds_s = edges(end_s)
    width_s = bounds_s[1] - bounds_s[0]
    requests = record.table("requests", ["admitted", "outcome", "arrival_s", "end_s", "deadline_s"])
    ok, lost, _ = outcomes(requests)
    rejected = ~pc.fill_null(requests["admitted"], False).to_numpy()
    ended = numbers(requests, "end_s")
    series = {
        "arrived": (numbers(requests, "arrival_s"), BLUE),
        "succeeded": (ended[ok], GREEN),
        "lost": (ended[lost], VERMILION),
        "turned away": (ended[rejected], AMBER),
    }
    rows, colours = [], {}
    for name, (times, colour) in series.items():
        if name in ("lost", "turned away") and not times.size:
            continue
        colours[name] = colour
        counts, _ = np.histogram(times, bounds_s)
        rows += [
            {"at": rounded(edge), "rate": rounded(count / width_s), "requests": name}
            for edge, count in zip(bounds_s, counts, strict=False)
        ]
    lines = (
        chart(rows)
        .mark_line(interpolate="step-after")
        .encode(
            x=clock(end_s),
            y=alt.Y("rate:Q", axis=axis("Requests per second"), scale=alt.Scale(zero=True)),
            color=colours_of("requests", colours),
            tooltip=["requests:N", "at:Q", "rate:Q"],
        )
    )
    bad = int(lost.sum()), int(rejected.sum())
    worse = (
        f"{bad[0]} were lost and {bad[1]} turned away in the whole run."
        if any(bad)
        else "None was lost or turned away."
    )
    return Drawing(
        "Load",
        f"Requests that arrived and requests that succeeded, in steps of {number(width_s)} s. {worse}",
        layered([*_fault_bands(record), lines]),
    )


def latency_over_time(record: RunRecord, column: str, title: str) -> Drawing:
    """Quantiles of the time from arrival to `column` (a time of `requests`) of the requests that succeeded."""
    end_s = record.number("simulated_s")
    bounds_s = edges(end_s, BINS_MAX // 2)
    wanted = ["admitted", "outcome", "arrival_s", "end_s", "deadline_s", "first_token_s"]
    requests = record.table("requests", wanted)
    requests = requests.filter(outcomes(requests)[0])
    arrival_s = numbers(requests, "arrival_s")
    took_s = numbers(requests, column) - arrival_s
    rows = _quantile_rows(arrival_s, took_s, bounds_s)
    colours = {"p50": BLUE, "p95": AMBER, "p99": PURPLE}
    lines = (
        chart(rows)
        .mark_line(interpolate="step-after")
        .encode(
            x=clock(end_s),
            y=alt.Y("took:Q", axis=axis(f"{title} (s)"), scale=alt.Scale(zero=True)),
            color=colours_of("quantile", colours),
            tooltip=["quantile:N", "at:Q", "took:Q"],
        )
    )
    return Drawing(
        title,
        f"Each step covers the requests that arrived in {number(bounds_s[1] - bounds_s[0])} s and succeeded: "
        "half of them were faster than p50, 95 % than p95, 99 % than p99.",
        layered([*_fault_bands(record), lines]),
    )


def waiting_over_time(record: RunRecord) -> Drawing:
    """Requests in flight at all nodes, and requests that wait at the gateway, from the telemetry."""
    end_s = record.number("simulated_s")
    bounds_s = edges(end_s)
    telemetry = record.table("telemetry", ["time_s", "node", "in_flight", "waiting"])
    time_s = numbers(telemetry, "time_s")
    times, sample = np.unique(time_s, return_inverse=True)
    in_flight = np.bincount(sample, np.nan_to_num(numbers(telemetry, "in_flight")), len(times)).astype(np.float64)
    waiting = np.zeros(len(times))
    np.maximum.at(waiting, sample, np.nan_to_num(numbers(telemetry, "waiting")))
    rows: list[Row] = []
    for name, values in (("in flight", in_flight), ("waiting", waiting)):
        rows += _maxima(times, values, bounds_s, name)
    colours = {"in flight": BLUE, "waiting": AMBER}
    lines = (
        chart(rows)
        .mark_line(interpolate="step-after")
        .encode(
            x=clock(end_s),
            y=alt.Y("count:Q", axis=axis("Requests"), scale=alt.Scale(zero=True)),
            color=colours_of("requests", colours),
            tooltip=["requests:N", "at:Q", "count:Q"],
        )
    )
    most = f"At most {int(waiting.max())} waited." if len(times) else "No telemetry was recorded."
    return Drawing(
        "Requests in the system",
        "In flight at the nodes, and waiting at the gateway: "
        f"the largest number in each step of {number(bounds_s[1] - bounds_s[0])} s, as the telemetry saw it. {most}",
        layered([*_fault_bands(record), lines]),
    )


def _fault_bands(record: RunRecord) -> list[alt.Chart]:
    """Shaded spans while a fault held any node, and the end of the warm-up."""
    end_s = record.number("simulated_s")
    faults = record.table("faults", ["injected_s", "ended_s"]).to_pylist()
    spans = sorted((row["injected_s"], row["ended_s"] if row["ended_s"] is not None else end_s) for row in faults)
    merged: list[Row] = []
    for start, end in spans:
        if merged and start <= merged[-1]["to"]:
            merged[-1]["to"] = max(merged[-1]["to"], min(end, end_s))
        else:
            merged.append({"from": start, "to": min(end, end_s), "what": "a fault holds a node"})
    layers = [
        chart(merged[:MARKS_MAX])
        .mark_rect(color=AMBER, opacity=0.16)
        .encode(x=clock(end_s, "from"), x2="to:Q", tooltip="what:N")
    ]
    warmup_s = record.number("scenario.workload.warmup_s")
    if warmup_s > 0:
        rows = [{"at": warmup_s, "what": "the warm-up ends; from here on requests are counted"}]
        layers.append(chart(rows).mark_rule(strokeDash=[2, 3], color=GREY).encode(x=clock(end_s), tooltip="what:N"))
    return layers


def _quantile_rows(at: Times, values: Times, bounds_s: Times) -> list[Row]:
    known = ~np.isnan(values)
    order = np.argsort(at[known], kind="stable")
    at, values = at[known][order], values[known][order]
    rows: list[Row] = []
    bounds = np.searchsorted(at, bounds_s)
    for edge, first, last in zip(bounds_s, bounds, bounds[1:], strict=False):
        found = np.quantile(values[first:last], list(QUANTILES.values())) if last > first else [np.nan] * len(QUANTILES)
        rows += [
            {"at": rounded(edge), "took": or_none(value), "quantile": name}
            for name, value in zip(QUANTILES, found, strict=True)
        ]
    return rows


def _maxima(times: Times, values: Times, bounds_s: Times, name: str) -> list[Row]:
    bounds = np.searchsorted(times, bounds_s)
    return [
        {"at": rounded(edge), "count": int(values[first:last].max()), "requests": name}
        for edge, first, last in zip(bounds_s, bounds, bounds[1:], strict=False)
        if last > first
    ]
