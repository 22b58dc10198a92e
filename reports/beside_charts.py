"""Charts of two worlds: the live runs of a scenario beside, and upon, those of the twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reports.charts import end_of
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
    colours_seen,
    lanes_px,
    layered,
    legend,
    or_none,
    points_with_intervals,
    rounded,
    tip,
)
from reports.logs import Log
from reports.study_charts import PERCENTS, bare_label, label_of, lane_axis
from reports.words import NOT_OBSERVED, figure, number
from twin.experiment.beside import band, limit_of
from twin.record.story import Story

OFF_NAMED = 5
TWIN_LINES, LIVE_LINES = "twin: median, range", "live: each run"
VERDICT_COLOURS = {"indistinguishable": GREEN, "close": AMBER, "off": VERMILION}
OVERLAYS = (
    ("success", "lowest", "Share succeeded", "Share succeeded (0 to 1)"),
    ("requests", "succeeded", "Requests that succeeded", "Requests per second"),
    ("latency", "ttft_p95", "Time to first token, p95", "Time to first token, p95 (s)"),
    ("latency", "e2e_p50", "Arrival to end, p50", "Arrival to end, p50 (s)"),
    ("latency", "e2e_p95", "Arrival to end, p95", "Arrival to end, p95 (s)"),
    ("in_system", "in_flight", "Requests in flight", "Requests"),
)
"""What is laid upon each other: series and column of a story, title, axis."""


def differences(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """How far the twin is from live, figure by figure, as a share of what was measured live."""
    shown = [row for row in rows if row["relative"] is not None]
    labels = [label_of(row["figure"]) for row in shown]
    drawn: list[Row] = []
    for place, row in enumerate(shown):
        live, twin, scale = row["live"], row["twin"], abs(row["live"]["mean"])
        low, high = twin["ci95"] or (twin["low"], twin["high"])
        drawn.append(
            {
                "y": place + 0.5,
                "y1": place + 0.18,
                "y2": place + 0.82,
                "percent": rounded(100 * row["relative"]),
                "low": rounded(100 * (low - live["mean"]) / scale),
                "high": rounded(100 * (high - live["mean"]) / scale),
                "live_low": rounded(100 * (live["low"] - live["mean"]) / scale),
                "live_high": rounded(100 * (live["high"] - live["mean"]) / scale),
                "figure": labels[place],
                "bare": bare_label(row["figure"]),
                "live": figure(row["figure"], live["mean"]),
                "twin": figure(row["figure"], twin["mean"]),
                "limit": f"close up to {100 * limit_of(row['figure']):.0f} %",
                "verdict": row["verdict"],
            }
        )
    colour = colours_seen("verdict", VERDICT_COLOURS, drawn)
    x_axis = alt.Axis(title="Difference (% of live)", values=list(PERCENTS))
    far = alt.Scale(type="symlog", constant=10)  # even near 0, and room for what is far off
    tips = [
        tip("figure", "figure", "N"),
        tip("live", "live, mean", "N"),
        tip("twin", "twin, mean", "N"),
        tip("percent", "difference (%)"),
        tip("low", "twin's 95 % interval from (%)"),
        tip("high", "to (%)"),
        tip("limit", "limit", "N"),
        tip("verdict", "it is", "N"),
    ]
    y = lane_axis(labels)
    layers = [
        chart([row for row in drawn if row["live_high"] > row["live_low"]])
        .mark_rect(color=GREY, opacity=0.25)
        .encode(
            x=alt.X("live_low:Q", axis=x_axis, scale=far),
            x2="live_high:Q",
            y=lane_axis(labels, "y1"),
            y2="y2:Q",
            tooltip=[
                tip("figure", "live runs' own spread of", "N"),
                tip("live_low", "from (%)"),
                tip("live_high", "to (%)"),
            ],
        ),
        chart([{"at": 0.0}]).mark_rule(strokeDash=[4, 3], color=GREY).encode(x=alt.X("at:Q", axis=x_axis, scale=far)),
        *points_with_intervals(drawn, "percent", y, colour, tips, {"axis": x_axis, "scale": far}),
    ]
    off = [row["bare"] for row in drawn if row["verdict"] == "off"]
    more = f" and {len(off) - OFF_NAMED} more" if len(off) > OFF_NAMED else ""
    said = f"Off: {', '.join(off[:OFF_NAMED])}{more}." if off else "Nothing is off."
    return Drawing(
        "Twin against live",
        "The point is the twin's mean against what was measured live, the bar its 95 % interval; grey is how far live runs "
        f"differ among themselves. A point in the grey cannot be told from live. {said}",
        layered(layers, lanes_px(labels, 28)),
    )


def worlds_in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """How near the twin is, in a sentence."""
    said = [row["verdict"] for row in rows]
    seen = len(said) - said.count("unknown")
    text = f"Of {seen} figures {said.count('indistinguishable')} cannot be told from live, {_are(said.count('close'))} close"
    return f"{text} and {_are(said.count('off'))} off."


def _are(count: int) -> str:
    return f"{count} is" if count == 1 else f"{count} are"


def difference_log(rows: Sequence[Mapping[str, Any]]) -> Log:
    """The same as a table, with the figures that a chart of shares cannot show."""
    log = Log(
        "Figure by figure",
        "The mean of the live runs with the lowest and the highest of them, the mean of the twin's with its 95 % interval, "
        f"and what is to be made of the difference, twin - live. {_counts(rows)}",
        ("Figure", "Verdict", "Live >", "Twin >", "Twin, 95 % interval >", "Difference >", "% of live >"),
    )
    for row in rows:
        name, live, twin = row["figure"], row["live"], row["twin"]
        difference = figure(name, row["difference"]) if row["difference"] is not None else "–"
        percent = f"{100 * row['relative']:+.1f}" if row["relative"] is not None else "–"
        log.rows.append(
            (
                bare_label(name),
                row["verdict"],
                _mean(name, live, spread=True),
                _mean(name, twin),
                f"{figure(name, twin['ci95'][0])} to {figure(name, twin['ci95'][1])}" if twin and twin["ci95"] else "–",
                difference,
                percent,
            )
        )
    return log


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    most = {world: max((row[world]["n"] for row in rows if row[world]), default=0) for world in ("live", "twin")}
    return f"Runs: {most['live']} live, {most['twin']} of the twin."


def _mean(name: str, of: Mapping[str, Any] | None, spread: bool = False) -> str:
    if not of:
        return NOT_OBSERVED
    said = figure(name, of["mean"])
    return f"{said} ({figure(name, of['low'])} to {figure(name, of['high'])})" if spread and of["n"] > 1 else said


def overlays(live: Sequence[Story], twin: Sequence[Story]) -> list[Drawing]:
    """The time series of both worlds upon each other, on the run's clock."""
    end_s = max(end_of(story) for story in (*live, *twin))
    return [_overlay(live, twin, end_s, *what) for what in OVERLAYS]


def _overlay(
    live: Sequence[Story], twin: Sequence[Story], end_s: float, series: str, column: str, title: str, axis_title: str
) -> Drawing:
    band_rows: list[Row] = [
        {
            "at": rounded(row["at"]),
            "low": rounded(row["low"]),
            "middle": rounded(row["middle"]),
            "high": rounded(row["high"]),
        }
        | {"world": TWIN_LINES}
        for row in band(twin, series, column)
    ]
    live_rows: list[Row] = [
        {"at": rounded(row["at"]), "value": or_none(row[column]), "run": str(place), "world": LIVE_LINES}
        for place, story in enumerate(live[:8])
        for row in getattr(story, series)
    ]
    worlds = [TWIN_LINES, LIVE_LINES]
    colour = alt.Color(
        "world:N", scale=alt.Scale(domain=worlds, range=[BLUE, PURPLE]), title=None, legend=legend(worlds)
    )
    y_axis = axis(axis_title)
    zero = alt.Scale(zero=True)
    if series == "success":
        known = [row["low"] for row in band_rows] + [row["value"] for row in live_rows if row["value"] is not None]
        zero = alt.Scale(domain=[min(0.99, *known) - 0.002 if known else 0.0, 1.0], nice=False)
    faults = [
        {
            "from": each["injected_s"],
            "to": each["ended_s"] if each["ended_s"] is not None else end_s,
            "what": f"{world}: {each['kind']} at {each['node']}",
        }
        for world, stories in (("live", live[:1]), ("twin", twin[:1]))
        for story in stories
        for each in story.recoveries[:20]
    ]
    tips = [
        tip("at", "from (s)"),
        tip("middle", f"twin, median: {axis_title}"),
        tip("low", "lowest run"),
        tip("high", "highest run"),
    ]
    layers = [
        chart(faults)
        .mark_rect(color=AMBER, opacity=0.14)
        .encode(x=clock(end_s, "from"), x2="to:Q", tooltip=tip("what", "fault", "N")),
        chart(band_rows)
        .mark_area(fillOpacity=0.2, interpolate="step-after")
        .encode(x=clock(end_s), y=alt.Y("low:Q", axis=y_axis, scale=zero), y2="high:Q", color=colour, tooltip=tips),
        chart(band_rows)
        .mark_line(interpolate="step-after")
        .encode(x=clock(end_s), y=alt.Y("middle:Q", axis=y_axis, scale=zero), color=colour),
        chart(live_rows[: 3 * MARKS_MAX])
        .mark_line(interpolate="step-after")
        .encode(
            x=clock(end_s),
            y=alt.Y("value:Q", axis=y_axis, scale=zero),
            color=colour,
            detail="run:N",
            tooltip=[tip("at", "from (s)"), tip("value", f"live: {axis_title}")],
        ),
    ]
    inside = _share_inside(band_rows, live_rows)
    said = "" if inside is None else f" {number(round(100 * inside))} % of the live steps lie within the twin's range."
    return Drawing(
        title,
        f"The lines of the live runs should run inside the band of the twin's runs; amber while a fault held a node.{said}",
        layered(layers),
    )


def _share_inside(band_rows: Sequence[Row], live_rows: Sequence[Row]) -> float | None:
    """For the sentence: how many of the drawn live points lie in the drawn band of the same step."""
    of = {row["at"]: row for row in band_rows}
    seen = [row for row in live_rows if row["value"] is not None and row["at"] in of]
    if not seen:
        return None
    return float(sum(of[row["at"]]["low"] <= row["value"] <= of[row["at"]]["high"] for row in seen)) / len(seen)
