"""A run node by node: faults, health, incidents, actions, and when each was detected, mitigated and recovered from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pyarrow.compute as pc

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
    chart,
    clock,
    layered,
    legend,
    rounded,
)
from reports.words import number
from twin.record.reader import RunRecord
from twin.record.recovery import Recovery, recoveries

HEALTH_COLOURS = {"serving": GREEN, "proving": BLUE, "suspect": AMBER, "down": VERMILION, "drained": GREY}
FURTHER_COLOURS = ("#56b4e9", "#f0e442", PURPLE)
ACTION_SHAPES = ("triangle-up", "square", "diamond", "cross", "triangle-down", "circle")
LANES_MAX = 12
LANE_PX = 40
CLOSE_UP_LANE_PX = 110
CLOSE_UP_SHARE = 0.4  # of the run: a fault whose story is longer needs no close-up


@dataclass(frozen=True, slots=True)
class _Lanes:
    """Which nodes are drawn, one below the other, and from when to when. Heights are shares of a lane, from its top."""

    nodes: Sequence[str]
    from_s: float
    to_s: float

    def spans(self, rows: Iterable[Row], height: float) -> list[Row]:
        """Rows of `node`, `from` and `to`, cut to what is drawn, at their place."""
        seen = [
            row for row in rows if row["node"] in self.nodes and row["to"] > self.from_s and row["from"] < self.to_s
        ]
        return [
            {**row, "from": rounded(max(row["from"], self.from_s)), "to": rounded(min(row["to"], self.to_s))}
            | {"y": self.nodes.index(row["node"]) + height}
            for row in seen[:MARKS_MAX]
        ]

    def points(self, rows: Iterable[Row], height: float) -> list[Row]:
        """Rows of `node` and `at` within what is drawn, at their place."""
        seen = [row for row in rows if row["node"] in self.nodes and self.from_s <= row["at"] <= self.to_s]
        return [{**row, "y": self.nodes.index(row["node"]) + height} for row in seen[:MARKS_MAX]]

    def x(self, field: str) -> alt.X:
        """The clock."""
        return clock(self.to_s, field, self.from_s)

    def y(self) -> alt.Y:
        """The nodes."""
        axis = alt.Axis(
            values=[index + 0.5 for index in range(len(self.nodes))],
            labelExpr=f"{list(self.nodes)!r}[floor(datum.value)]",
            title="Node",
            grid=False,
            ticks=False,
            minExtent=64,
        )
        return alt.Y("y:Q", scale=alt.Scale(domain=[0, max(1, len(self.nodes))], reverse=True, nice=False), axis=axis)


def node_lanes(record: RunRecord) -> list[Drawing]:
    """One lane for each node over the whole run, and a close-up of the fault that took longest where that is short."""
    end_s = record.number("simulated_s")
    found = recoveries(record)
    nodes = _lanes(record)
    left_out = len(_node_names(record)) - len(nodes)
    rest = f" {left_out} more nodes, where less happened, are not drawn." if left_out > 0 else ""
    close_up = _close_up(record, found, end_s)
    layers = _layers(record, _Lanes(nodes, 0.0, end_s), found, labels=close_up is None)
    sentence = (
        "A shaded span is a fault; the bar is what the policy took the node for, as the telemetry sampled it; the thin "
        f"line below is an incident with its actions. {_said(found)}{rest}"
    )
    drawing = Drawing("What happened at each node", sentence, layered(layers, max(1, len(nodes)) * LANE_PX))
    return [drawing] if close_up is None else [drawing, close_up]


def _close_up(record: RunRecord, found: Sequence[Recovery], end_s: float) -> Drawing | None:
    if not found:
        return None
    slowest = max(found, key=lambda each: (each.ttr.censored, each.ttr.value_s or 0.0))
    after_s = [each.value_s for each in (slowest.ttd, slowest.ttm, slowest.ttr) if each.value_s is not None]
    incidents = record.table("incidents", ["node", "opened_s", "closed_s"]).to_pylist()
    after_s += [
        (row["closed_s"] if row["closed_s"] is not None else end_s) - slowest.injected_s
        for row in incidents
        if row["node"] == slowest.node and row["opened_s"] >= slowest.injected_s
    ][:1]
    story_s = max(after_s, default=end_s)
    if slowest.ttr.censored or story_s > CLOSE_UP_SHARE * end_s:
        return None
    margin_s = 0.15 * story_s
    from_s, to_s = max(0.0, slowest.injected_s - margin_s), min(end_s, slowest.injected_s + story_s + margin_s)
    layers = _layers(record, _Lanes([slowest.node], from_s, to_s), [slowest], labels=True)
    which = f"the {slowest.kind} at {slowest.node}"
    sentence = (
        f"The same for {which} alone{', the fault that took longest' if len(found) > 1 else ''}. Upright lines mark "
        "detection (TTD), mitigation (TTM) and recovery (TTR), counted from the injection, where the shade begins; "
        "short strokes are attempts that failed there."
    )
    return Drawing(f"Close-up: {which}", sentence, layered(layers, CLOSE_UP_LANE_PX))


def _layers(record: RunRecord, lanes: _Lanes, found: Sequence[Recovery], labels: bool) -> list[Any]:
    end_s = record.number("simulated_s")
    y = lanes.y()
    bands = [
        {
            "node": row["node"],
            "from": row["injected_s"],
            "to": row["ended_s"] if row["ended_s"] is not None else end_s,
            "what": f"{row['kind']}, ended by {row['ended_by'] or 'nothing'}",
        }
        for row in record.table("faults").to_pylist()
    ]
    bands = [{**row, "y2": row["y"] + 0.96} for row in lanes.spans(bands, 0.02)]
    health = lanes.spans(_health(record, lanes.nodes, end_s), 0.45)
    incidents = [
        {
            "node": row["node"],
            "from": row["opened_s"],
            "to": row["closed_s"] if row["closed_s"] is not None else end_s,
            "what": f"{row['diagnosis']} ({row['state']}): {row['evidence']}",
        }
        for row in record.table("incidents").to_pylist()
    ]
    actions = [
        {
            "node": row["node"],
            "at": row["time_s"],
            "action": row["kind"],
            "what": f"{row['reason']} ({row['status'] or 'no result'})",
        }
        for row in record.table("actions").to_pylist()
    ]
    actions = lanes.points(actions, 0.76)
    shown = sorted({row["health"] for row in health})
    spare = iter(FURTHER_COLOURS * len(shown))
    colours = alt.Scale(domain=shown, range=[HEALTH_COLOURS.get(each) or next(spare) for each in shown])
    kinds = sorted({row["action"] for row in actions})
    shapes = alt.Scale(domain=kinds, range=[ACTION_SHAPES[i % len(ACTION_SHAPES)] for i in range(len(kinds))])
    spans = {"x": lanes.x("from"), "x2": "to:Q", "y": y}
    return [
        chart(bands).mark_rect(color=AMBER, opacity=0.22).encode(**spans, y2="y2:Q", tooltip="what:N"),
        chart(health)
        .mark_bar(height=7)
        .encode(
            **spans,
            color=alt.Color("health:N", scale=colours, title="Health", legend=legend()),
            tooltip=["health:N", "from:Q", "to:Q"],
        ),
        chart(_failed_attempts(record, lanes) if labels else [])
        .mark_tick(color=VERMILION, thickness=1.5, size=9, orient="vertical")
        .encode(x=lanes.x("at"), y=y, tooltip=["error:N", "at:Q"]),
        chart(lanes.spans(incidents, 0.76)).mark_bar(height=3, color=PURPLE).encode(**spans, tooltip="what:N"),
        chart(actions)
        .mark_point(size=70, filled=True, color=PURPLE, opacity=1)
        .encode(
            x=lanes.x("at"),
            y=y,
            shape=alt.Shape("action:N", scale=shapes, title="Action", legend=legend()),
            tooltip=["action:N", "at:Q", "what:N"],
        ),
        *_recovery_marks(found, lanes, labels),
    ]


def _failed_attempts(record: RunRecord, lanes: _Lanes) -> list[Row]:
    rows = record.table("attempts", ["node", "end_s", "error"]).to_pylist()
    failed = ({"node": row["node"], "at": row["end_s"], "error": row["error"]} for row in rows if row["error"])
    return lanes.points(failed, 0.61)


def _recovery_marks(found: Sequence[Recovery], lanes: _Lanes, labels: bool) -> list[alt.Chart]:
    marks = [
        {
            "node": each.node,
            "at": rounded(each.injected_s + duration.value_s),
            "label": f"{name} {number(round(duration.value_s, 3))} s",
            "row": row,
        }
        for each in found
        for row, (name, duration) in enumerate((("TTD", each.ttd), ("TTM", each.ttm), ("TTR", each.ttr)))
        if duration.value_s is not None
    ]
    rows = [{**row, "y2": row["y"] + 0.96} for row in lanes.points(marks, 0.02)]
    drawn = [chart(rows).mark_rule(strokeWidth=1.5).encode(x=lanes.x("at"), y=lanes.y(), y2="y2:Q", tooltip="label:N")]
    if labels:
        middle_s = (lanes.from_s + lanes.to_s) / 2
        labelled = [{**row, "y": row["y"] + 0.08 + 0.12 * row["row"]} for row in rows]
        left = chart([row for row in labelled if row["at"] < middle_s]).mark_text(align="left", dx=5, fontSize=12)
        right = chart([row for row in labelled if row["at"] >= middle_s]).mark_text(align="right", dx=-5, fontSize=12)
        drawn += [side.encode(x=lanes.x("at"), y=lanes.y(), text="label:N") for side in (left, right)]
    return drawn


def _said(found: Sequence[Recovery]) -> str:
    """The first faults in words."""
    said = []
    for each in found[:3]:
        parts = [
            f"{words} after {number(round(duration.value_s, 3))} s"
            for words, duration in (("detected", each.ttd), ("without failures", each.ttm), ("recovered", each.ttr))
            if duration.value_s is not None
        ]
        if each.ttr.value_s is None:
            parts.append(f"not recovered within {number(round(each.ttr.at_least_s or 0.0, 3))} s")
        said.append(f"{each.kind} at {each.node}: {', '.join(parts)}.")
    if len(found) > len(said):
        said.append(f"The table below has all {len(found)} faults.")
    return " ".join(said) if said else "No fault was injected."


def _lanes(record: RunRecord) -> list[str]:
    """The nodes to draw: those where something happened first, in their natural order."""
    names = _node_names(record)
    tables = (record.table(table, ["node"]) for table in ("faults", "incidents", "actions"))
    eventful = {name for table in tables for name in table["node"].to_pylist()}
    chosen = [name for name in names if name in eventful] + [name for name in names if name not in eventful]
    return [name for name in names if name in chosen[:LANES_MAX]]


def _node_names(record: RunRecord) -> list[str]:
    names: set[str] = set()
    for table in ("telemetry", "faults", "incidents", "requests"):
        names |= {name for name in pc.unique(record.table(table, ["node"])["node"]).to_pylist() if name}
    return sorted(names, key=lambda name: (len(name), name))


def _health(record: RunRecord, nodes: Sequence[str], end_s: float) -> list[Row]:
    """Spans of unchanged health; the longest first, since there may be too many."""
    telemetry = record.table("telemetry", ["time_s", "node", "health"])
    spans: list[Row] = []
    for node in nodes:
        here = telemetry.filter(pc.equal(telemetry["node"], node))
        times, health = here["time_s"].to_pylist(), here["health"].to_pylist()
        starts = [index for index in range(len(health)) if not index or health[index] != health[index - 1]]
        ends = [*(times[index] for index in starts[1:]), end_s]
        spans += [
            {"node": node, "from": times[start], "to": to, "health": health[start]}
            for start, to in zip(starts, ends, strict=False)
            if health[start]
        ]
    spans.sort(key=lambda span: span["from"] - span["to"])
    return spans
