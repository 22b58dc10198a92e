"""The charts of a run. All have the run's clock on the x axis, so that they can be read one below the other.

Every function takes a run's story and returns a `Drawing`: a title, one sentence that says what to see, and an Altair
chart as wide as its container. `twin.record` has brought the rows together: no chart has more than about a thousand marks.
"""

from __future__ import annotations

import altair as alt

from reports.drawing import (
    AMBER,
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
    layered,
    or_none,
    rounded,
    tip,
)
from reports.lanes import node_axis, node_lanes
from reports.words import number, seconds
from twin.record.story import Story

LANE_PX = 26


def timeline(story: Story) -> list[Drawing]:
    """All charts of one run, in the order in which they tell its story."""
    return [
        *node_lanes(story),
        success_over_time(story),
        load_over_time(story),
        latency_over_time(story, "ttft", "Time to first token"),
        latency_over_time(story, "e2e", "Arrival to end"),
        waiting_over_time(story),
        at_nodes_over_time(story),
    ]


def end_of(story: Story) -> float:
    """How long the run was, in seconds on its own clock."""
    return float(story.manifest["simulated_s"])


def success_over_time(story: Story) -> Drawing:
    """The success ratio over the scenario's trailing window, beside the floor of its steady state."""
    end_s = end_of(story)
    wanted = story.manifest["scenario"]["steady_state"]["success_ratio"]
    floor, window_s = float(wanted["min"]), float(wanted["window_s"])
    rows = [{"at": row["at"], "ratio": or_none(row["lowest"])} for row in story.success]
    known = [row["ratio"] for row in rows if row["ratio"] is not None]
    lowest = min(known, default=1.0)
    bottom = max(0.0, min(lowest, floor) - 0.1 * (1.0 - min(lowest, floor)) - 0.002)
    y = alt.Y("ratio:Q", scale=alt.Scale(domain=[bottom, 1.0], nice=False), axis=axis("Share succeeded (0 to 1)"))
    layers = [
        *marks(story),
        chart([{"ratio": floor}]).mark_rule(strokeDash=[5, 4], color=GREY).encode(y=y),
        chart(rows)
        .mark_line(color=BLUE, interpolate="step-after")
        .encode(x=clock(end_s), y=y, tooltip=[tip("at", "from (s)"), tip("ratio", "lowest share in this step")]),
    ]
    below = "It never fell below the floor." if lowest >= floor else f"It fell to {number(lowest)} at its lowest."
    if not known:
        below = "No request ended."
    return Drawing(
        "Requests that succeeded",
        f"Of the requests that ended in the {number(window_s)} s before each moment, the share that succeeded: its lowest "
        f"value in each step. The dashed line is the floor of the steady state, {number(floor)}. {below}",
        layered(layers),
    )


def load_over_time(story: Story) -> Drawing:
    """Requests per second that arrived and that succeeded, and those that were lost or turned away."""
    end_s = end_of(story)
    series = {"arrived": BLUE, "succeeded": GREEN, "lost": VERMILION, "turned away": AMBER}
    rows, colours = [], {}
    for name, colour in series.items():
        key = "rejected" if name == "turned away" else name
        if name in ("lost", "turned away") and not any(row[key] for row in story.requests):
            continue
        colours[name] = colour
        rows += [{"at": row["at"], "rate": rounded(row[key]), "requests": name} for row in story.requests]
    lines = (
        chart(rows)
        .mark_line(interpolate="step-after")
        .encode(
            x=clock(end_s),
            y=alt.Y("rate:Q", axis=axis("Requests per second"), scale=alt.Scale(zero=True)),
            color=colours_of("requests", colours),
            tooltip=[tip("requests", "requests that", "N"), tip("at", "from (s)"), tip("rate", "per second")],
        )
    )
    lost, rejected = story.troubles["lost"], story.troubles["rejected"]
    worse = (
        f"{lost} were lost and {rejected} turned away in the whole run."
        if lost or rejected
        else "None was lost or turned away."
    )
    return Drawing(
        "Load",
        f"Requests that arrived and requests that succeeded, in steps of {number(story.step_s)} s. {worse}",
        layered([*marks(story), lines]),
    )


def latency_over_time(story: Story, name: str, title: str) -> Drawing:
    """Quantiles of `ttft` (arrival to first token) or `e2e` (arrival to end) of the requests that succeeded."""
    end_s = end_of(story)
    colours = {"p50": BLUE, "p95": AMBER, "p99": PURPLE}
    of = {row["at"]: row for row in story.latency}
    rows: list[Row] = []
    for index in range(round(end_s // story.latency_step_s) + 1):
        at = round(index * story.latency_step_s, 6)
        rows += [{"at": at, "took": or_none(of.get(at, {}).get(f"{name}_{key}")), "quantile": key} for key in colours]
    lines = (
        chart(rows)
        .mark_line(interpolate="step-after")
        .encode(
            x=clock(end_s),
            y=alt.Y("took:Q", axis=axis(f"{title} (s)"), scale=alt.Scale(zero=True)),
            color=colours_of("quantile", colours),
            tooltip=[
                tip("quantile", "quantile", "N"),
                tip("at", "arrived from (s)"),
                tip("took", f"{title.lower()} (s)"),
            ],
        )
    )
    return Drawing(
        title,
        f"Each step covers the requests that arrived in {number(story.latency_step_s)} s and succeeded: "
        "half of them were faster than p50, 95 % than p95, 99 % than p99.",
        layered([*marks(story), lines]),
    )


def waiting_over_time(story: Story) -> Drawing:
    """Requests in flight at all nodes, and requests that wait at the gateway, from the telemetry."""
    colours = {"in flight": BLUE, "waiting": AMBER}
    rows = [
        {"at": rounded(row["at"]), "count": row[name.replace(" ", "_")], "requests": name}
        for name in colours
        for row in story.in_system
    ]
    lines = (
        chart(rows)
        .mark_line(interpolate="step-after")
        .encode(
            x=clock(end_of(story)),
            y=alt.Y("count:Q", axis=axis("Requests"), scale=alt.Scale(zero=True)),
            color=colours_of("requests", colours),
            tooltip=[tip("requests", "requests", "N"), tip("at", "from (s)"), tip("count", "the most at a time")],
        )
    )
    most = max((row["waiting"] or 0 for row in story.in_system), default=None)
    said = f"At most {most} waited." if most else "None waited."
    if most is None:
        said = "No telemetry was recorded."
    return Drawing(
        "Requests in the system",
        f"In flight at the nodes, and waiting at the gateway: the largest number in each step of {number(story.step_s)} s, "
        f"as the telemetry saw it. {said}",
        layered([*marks(story), lines]),
    )


def at_nodes_over_time(story: Story) -> Drawing:
    """Requests in flight at each node, as shades."""
    places = {name: place for place, name in enumerate(story.nodes)}
    rows = [
        {
            "at": rounded(row["at"]),
            "to": rounded(row["at"] + story.step_s),
            "y": places[row["node"]] + 0.06,
            "y2": places[row["node"]] + 0.94,
            "node": row["node"],
            "requests": row["in_flight"] or 0,
        }
        for row in story.at_nodes
    ]
    shades = (
        chart(rows)
        .mark_rect()
        .encode(
            x=clock(end_of(story)),
            x2="to:Q",
            y=node_axis(story.nodes),
            y2="y2:Q",
            color=alt.Color(
                "requests:Q",
                # From nearly nothing to the palette's blue, on white and on black.
                scale=alt.Scale(range=["#3d8fd11a", "#3d8fd1"], domainMin=0),
                title="Requests in flight",
                legend=alt.Legend(orient="bottom", direction="horizontal", gradientLength=160, tickMinStep=1),
            ),
            tooltip=[tip("node", "node", "N"), tip("at", "from (s)"), tip("requests", "in flight, at most")],
        )
    )
    busiest = max(rows, key=lambda row: row["requests"], default=None)
    said = f"The most were {busiest['requests']} at {busiest['node']}." if busiest else "No telemetry was recorded."
    return Drawing(
        "Requests at each node",
        f"The stronger the colour, the more requests a node had in each step of {number(story.step_s)} s: a pale stretch is "
        f"a node that gets nothing, and what its neighbours got meanwhile stands beside it. {said}",
        layered([shades, *marks(story, bands=False)], max(1, len(story.nodes)) * LANE_PX),
    )


def marks(story: Story, bands: bool = True) -> list[alt.Chart]:
    """What happened when, behind a chart: spans while a fault held a node, the warm-up's end, and the first faults'
    detection, mitigation and recovery."""
    end_s = end_of(story)
    layers: list[alt.Chart] = []
    if bands:
        layers.append(
            chart(_fault_spans(story, end_s)[:MARKS_MAX])
            .mark_rect(color=AMBER, opacity=0.16)
            .encode(x=clock(end_s, "from"), x2="to:Q", tooltip=tip("what", "while", "N"))
        )
    warmup_s = float(story.manifest["scenario"]["workload"]["warmup_s"])
    if warmup_s > 0:
        rows = [{"at": warmup_s, "what": "the warm-up ends; from here on requests are counted"}]
        layers.append(
            chart(rows)
            .mark_rule(strokeDash=[2, 3], color=GREY)
            .encode(x=clock(end_s), tooltip=tip("what", "here", "N"))
        )
    layers.append(
        chart(recovery_moments(story))
        .mark_rule(strokeWidth=1, opacity=0.55)
        .encode(x=clock(end_s), tooltip=[tip("what", "here", "N"), tip("at", "at (s)")])
    )
    return layers


def recovery_moments(story: Story, faults_max: int = 3) -> list[Row]:
    """When the first faults were detected, mitigated and recovered from, in words."""
    words = (("ttd", "detected (TTD)"), ("ttm", "mitigated (TTM)"), ("ttr", "recovered (TTR)"))
    return [
        {
            "at": rounded(each["injected_s"] + each[name]["value_s"]),
            "what": f"{each['kind']} at {each['node']} {said} after {seconds(each[name]['value_s'])}",
        }
        for each in story.recoveries[:faults_max]
        for name, said in words
        if each[name]["value_s"] is not None
    ]


def _fault_spans(story: Story, end_s: float) -> list[Row]:
    spans = sorted(
        (each["injected_s"], each["ended_s"] if each["ended_s"] is not None else end_s) for each in story.recoveries
    )
    merged: list[Row] = []
    for start, end in spans:
        if merged and start <= merged[-1]["to"]:
            merged[-1]["to"] = max(merged[-1]["to"], min(end, end_s))
        else:
            merged.append({"from": start, "to": min(end, end_s), "what": "a fault holds a node"})
    return merged
