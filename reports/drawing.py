"""What the charts share: palette, axes, bins, and what a drawing is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import altair as alt
from altair.utils.schemapi import debug_mode

Row: TypeAlias = dict[str, Any]

# Okabe and Ito's palette, told apart with every kind of colour vision; blue and grey lighter, to stand on black too.
BLUE, GREEN, AMBER, VERMILION, PURPLE, GREY = "#3d8fd1", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#8a8f98"
LIGHT_BLUE, YELLOW = "#56b4e9", "#c9b72b"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
MARKS_MAX = 800
HEIGHT_PX = 170
LEGEND_COLUMNS = 3
LABEL_CHARACTERS = 29  # in a line of a label: a phone has room for that many beside a chart
CHARACTER_PX = 6.6  # of labels, on average
SYMBOL_PX = 34  # what a legend's entry has beside its label
PLOT_PX, LANE_PLOT_PX = 275, 165  # how wide a plot is on a phone, and one beside labels of lanes
LINE_PX = 15
X_TITLE = "Time since the start of the run (s)"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with its title and the sentence that says what to see in it."""

    title: str
    sentence: str
    chart: Any  # of Altair

    def spec(self) -> dict[str, Any]:
        """The chart as a Vega-Lite specification, with its data in `datasets`."""
        # The tests validate every chart; to do it each time a page is drawn would take most of its time.
        spec: dict[str, Any] = self.chart.to_dict(validate=False)
        spec.pop("config", None)  # the page has its own looks
        spec["datasets"] = {name: data.rows for name, data in spec["datasets"].items()}
        return spec


class Rows:
    """Rows that Altair passes on as they are: a list it would copy, value by value, for every chart that it is part of,
    which took most of a page's time."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __str__(self) -> str:  # Altair names a dataset by its text: the same rows have the same name, and are kept once
        return hashlib.sha256(json.dumps(self.rows).encode()).hexdigest()


def chart(rows: list[Row]) -> alt.Chart:
    """Rows of data as a chart without a mark yet."""
    with debug_mode(False):  # plain data is not checked, row by row, against the schema of Vega-Lite
        return alt.Chart(alt.InlineData(values=Rows(rows)))  # type: ignore[arg-type]  # it takes what it passes on


def layered(layers: Sequence[Any], height_px: int = HEIGHT_PX) -> alt.LayerChart:
    """The layers that have data, one upon the other, as wide as the container."""
    drawn = [layer for layer in layers if layer.data.values]
    return alt.LayerChart(layer=list(drawn or layers[:1]), width="container", height=height_px)


def clock(end_s: float, field: str = "at", start_s: float = 0.0) -> alt.X:
    """The x axis: the run on its own clock, from its start where nothing else is said."""
    scale = alt.Scale(domain=[rounded(start_s), rounded(end_s)], nice=False)
    return alt.X(f"{field}:Q", scale=scale, axis=alt.Axis(title=X_TITLE, grid=False, tickCount=8))


def axis(title: str, **changes: Any) -> alt.Axis:
    """A y axis; all are equally wide, so that the charts stand in line."""
    return alt.Axis(title=title, tickCount=4, minExtent=64, **changes)


def legend(labels: Iterable[str], room_px: int = PLOT_PX) -> alt.Legend:
    """A legend below the chart, with as many columns as these labels leave room for on a phone."""
    labels = list(labels)
    entry_px = SYMBOL_PX + CHARACTER_PX * max(map(len, labels), default=0)
    columns = max(1, min(LEGEND_COLUMNS, int(room_px // entry_px)))
    key = alt.Legend(orient="bottom", direction="horizontal", columns=columns)
    if entry_px > room_px:
        characters = int((room_px - SYMBOL_PX) / CHARACTER_PX)
        key.labelExpr = f"({json.dumps({label: wrapped(label, characters) for label in labels})})[datum.label]"
    return key


def colours_of(field: str, colours: dict[str, str], room_px: int = PLOT_PX) -> alt.Color:
    """Colours by the values of a field."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", scale=scale, title=None, legend=legend(colours, room_px))


def colours_seen(field: str, colours: dict[str, str], rows: Sequence[Row]) -> alt.Color:
    """The same, for lanes with labels, with those values alone that are in the rows."""
    seen = {name: colour for name, colour in colours.items() if any(row[field] == name for row in rows)}
    return colours_of(field, seen, LANE_PLOT_PX)


def wrapped(text: str, characters: int = LABEL_CHARACTERS) -> list[str]:
    """A label in lines that a narrow screen has room for: broken behind blanks, commas, dots, equals signs, else
    anywhere."""
    lines = [""]
    for piece in re.findall(r"[^ ,.=/]*[ ,.=/]+|[^ ,.=/]+", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > characters:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > characters:
            lines[-1:] = [lines[-1][:characters], lines[-1][characters:]]
    return [line.strip() for line in lines]


def lanes_px(labels: Iterable[str], lane_px: int) -> int:
    """How high a chart with a lane for each of these labels is; a lane has room for the longest of them."""
    lines = [len(wrapped(label)) for label in labels]
    return max(1, len(lines)) * max(lane_px, LINE_PX * max(lines, default=1) + 6) + 10


def points_with_intervals(
    rows: list[Row], at: str, y: alt.Y, colour: alt.Color, tips: list[alt.Tooltip], x: dict[str, Any]
) -> list[alt.Chart]:
    """For each row a bar from `low` to `high` and a point at the field `at`; `x` has the axis and the scale of both."""
    return [
        chart(rows)
        .mark_rule(strokeWidth=3)
        .encode(x=alt.X("low:Q", **x), x2="high:Q", y=y, color=colour, tooltip=tips),
        chart(rows)
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=alt.X(f"{at}:Q", **x), y=y, color=colour, tooltip=tips),
    ]


def rounded(value: float) -> float:
    """Rounded, so that the page stays small."""
    return round(float(value), 4)


def or_none(value: float | None) -> float | None:
    """Rounded, or None where it is not known: a line breaks there."""
    return None if value is None else rounded(value)


def tip(field: str, title: str, kind: str = "Q") -> alt.Tooltip:
    """What hovering says: `title` carries the unit."""
    return alt.Tooltip(f"{field}:{kind}", title=title)


def theme(dark: bool) -> Row:
    """Vega-Lite's configuration: the looks of every chart, in the app and on the static page."""
    text, line = ("#c9ced4", "#363b41") if dark else ("#3f464d", "#e3e3de")
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": text,
            "titleColor": text,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "labelLimit": 260,
        },
        "axisX": {"labelOverlap": "greedy", "labelSeparation": 6, "labelBound": 4},
        "legend": {
            "labelColor": text,
            "titleColor": text,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": 500,
            "symbolStrokeWidth": 3,
            "labelLimit": 320,
            "layout": {"bottom": {"direction": "vertical", "anchor": "start"}},
        },
        "header": {"labelColor": text, "titleColor": text, "labelFontSize": 12, "titleFontSize": 12},
        "text": {"fill": text},
        "rule": {"color": text},
        "line": {"strokeWidth": 1.75},
        "range": {"category": [BLUE, AMBER, GREEN, PURPLE, LIGHT_BLUE, YELLOW, VERMILION, GREY]},
    }
