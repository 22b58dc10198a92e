"""A run node by node: faults, states, incidents, actions, and when each was detected, mitigated and recovered from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import altair as alt

from reports.drawing import (
    AMBER,
    BLUE,
    CHARACTER_PX,
    GREEN,
    GREY,
    LIGHT_BLUE,
    MARKS_MAX,
    PURPLE,
    VERMILION,
    YELLOW,
    Drawing,
    Row,
    chart,
    clock,
    layered,
    legend,
    rounded,
    tip,
)
from reports.words import seconds
from twin.record.story import Story

STATES = {
    "serving": (GREEN, "serving"),
    "faulty": (AMBER, "unnoticed fault"),
    "incident": (VERMILION, "down"),
    "restarting": (YELLOW, "restarting"),
    "proving": (BLUE, "proving"),
    "drained": (GREY, "drained"),
    "loading": (LIGHT_BLUE, "loading"),
}
"""Colour and words of each state of a node."""

ACTION_SHAPES = ("triangle-up", "square", "diamond", "cross", "triangle-down", "circle")
LANE_PX = 40
CLOSE_UP_LANE_PX = 120
LABELLED_MAX = 6
TIMES = ("ttd", "ttm", "ttr")
SAID_MAX = 3
ROUNDING_S = 1e-6
INSIDE = f"min(5, width - scale('x', datum.at) - {CHARACTER_PX} * length(datum.label))"
"""How far right of its moment a label begins, in Vega's language: as far left as it takes to end within the chart."""
LABEL_ROW = 0.12  # of a lane
LATE_S = 10.0  # a failure so long after the recovery is hardly the fault's
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
        seen.sort(key=lambda row: row["from"] - row["to"])  # where there are too many, the shortest are not drawn
        return [
            {**row, "from": rounded(max(row["from"], self.from_s)), "to": rounded(min(row["to"], self.to_s))}
            | {"y": self.nodes.index(row["node"]) + height}
            for row in seen[:MARKS_MAX]
        ]

    def points(self, rows: Iterable[Row], height: float) -> list[Row]:
        """Rows of `node` and `at` within what is drawn, at their place."""
        seen = (row for row in rows if row["node"] in self.nodes and self.from_s <= row["at"] <= self.to_s)
        return [{**row, "y": self.nodes.index(row["node"]) + height} for row in islice(seen, MARKS_MAX)]

    def x(self, field: str) -> alt.X:
        """The clock."""
        return clock(self.to_s, field, self.from_s)

    def y(self) -> alt.Y:
        """The nodes."""
        return node_axis(self.nodes)


def node_axis(nodes: Sequence[str]) -> alt.Y:
    """A y axis on which each node has a lane of height 1."""
    axis = alt.Axis(
        values=[index + 0.5 for index in range(len(nodes))],
        labelExpr=f"{list(nodes)!r}[floor(datum.value)]",
        title="Node",
        grid=False,
        ticks=False,
        minExtent=64,
    )
    return alt.Y("y:Q", scale=alt.Scale(domain=[0, max(1, len(nodes))], reverse=True, nice=False), axis=axis)


def node_lanes(story: Story) -> list[Drawing]:
    """One lane for each node over the whole run, and a close-up of the fault that took longest where that is short."""
    end_s = float(story.manifest["simulated_s"])
    left_out = story.nodes_in_all - len(story.nodes)
    rest = f" {left_out} more nodes, where less happened, are not drawn." if left_out > 0 else ""
    close_up = _close_up(story, end_s)
    layers = _layers(story, _Lanes(story.nodes, 0.0, end_s), story.recoveries, labels=close_up is None)
    sentence = (
        "A shaded span is a fault; the bar is what the node was; the thin line below is an incident, with "
        f"the actions on it{'' if close_up else '; short strokes are attempts that failed'}. {_said(story)}{rest}"
    )
    drawing = Drawing("What happened at each node", sentence, layered(layers, max(1, len(story.nodes)) * LANE_PX))
    return [drawing] if close_up is None else [drawing, close_up]


def moment_lanes(story: Story, at_s: float, around_s: float) -> Drawing:
    """All drawn nodes around one moment, `around_s` before and after it."""
    end_s = float(story.manifest["simulated_s"])
    lanes = _Lanes(story.nodes, max(0.0, at_s - around_s), min(end_s, at_s + around_s))
    layers = _layers(story, lanes, story.recoveries, labels=True)
    here = chart([{"at": rounded(at_s)}]).mark_rule(strokeDash=[3, 3], strokeWidth=1.5)
    layers.append(here.encode(x=lanes.x("at"), tooltip=tip("at", "this decision (s)")))
    return Drawing(
        f"Around {at_s:,.2f} s",
        f"The {2 * around_s:g} s around the decision, which is the dashed line: faults as shades, states as bars, failed "
        "attempts as short strokes, incidents and actions below them.",
        layered(layers, max(1, len(story.nodes)) * LANE_PX),
    )


def _close_up(story: Story, end_s: float) -> Drawing | None:
    found = story.recoveries
    if not found:
        return None
    slowest = max(found, key=lambda each: (each["ttr"]["censored"], each["ttr"]["value_s"] or 0.0))
    injected_s, node = slowest["injected_s"], slowest["node"]
    times = (slowest[name]["value_s"] for name in ("ttd", "ttm", "ttr"))
    after_s = [value_s for value_s in times if value_s is not None]
    after_s += [
        (row["closed_s"] if row["closed_s"] is not None else end_s) - injected_s
        for row in story.incidents
        if row["node"] == node and row["opened_s"] >= injected_s
    ][:1]
    story_s = max(after_s, default=end_s)
    if slowest["ttr"]["censored"] or story_s > CLOSE_UP_SHARE * end_s:
        return None
    margin_s = 0.15 * story_s
    from_s, to_s = max(0.0, injected_s - margin_s), min(end_s, injected_s + story_s + margin_s)
    layers = _layers(story, _Lanes([node], from_s, to_s), [slowest], labels=True)
    which = f"the {slowest['kind']} at {node}"
    sentence = (
        f"The same for {which} alone{', the fault that took longest' if len(found) > 1 else ''}. Upright lines mark "
        "detection (TTD), mitigation (TTM) and recovery (TTR), counted from the injection, where the shade begins; short "
        "strokes are attempts that failed there; numbers are those of the table of decisions."
    )
    return Drawing(f"Close-up: {which}", sentence, layered(layers, CLOSE_UP_LANE_PX))


def _layers(story: Story, lanes: _Lanes, found: Sequence[Row], labels: bool) -> list[Any]:
    end_s = float(story.manifest["simulated_s"])
    y = lanes.y()
    bands = [
        {
            "node": each["node"],
            "from": each["injected_s"],
            "to": each["ended_s"] if each["ended_s"] is not None else end_s,
            "what": f"{each['kind']}, ended by {each['ended_by'] or 'nothing'}",
        }
        for each in story.recoveries
    ]
    bands = [{**row, "y2": row["y"] + 0.96} for row in lanes.spans(bands, 0.02)]
    loads = [{**row, "state": "loading", "what": f"loading {row['model']}: {row['status']}"} for row in story.loads]
    states = [{**row, "what": row["state"]} for row in story.states]
    states = [_worded(row) for row in [*lanes.spans(states, 0.45), *lanes.spans(loads, 0.62)]]
    incidents = [
        {
            "node": row["node"],
            "from": row["opened_s"],
            "to": row["closed_s"] if row["closed_s"] is not None else end_s,
            "what": f"{row['diagnosis']} ({row['state']}): {row['evidence']}",
        }
        for row in story.incidents
    ]
    decided = [row for row in story.decisions if not row["what"].startswith("incident:")]
    actions = [
        {
            "node": row["node"],
            "at": row["at"],
            "action": row["what"].split()[0],
            "what": f"{row['why']} ({row['result']})",
            "number": str(row["number"]),
        }
        for row in decided
    ]
    actions = lanes.points(actions, 0.78)
    colours = {words: colour for colour, words in STATES.values()}
    shown = [words for words in colours if any(row["state"] == words for row in states)]
    shown += sorted({row["state"] for row in states} - set(shown))
    kinds = sorted({row["action"] for row in actions})
    shapes = alt.Scale(domain=kinds, range=[ACTION_SHAPES[i % len(ACTION_SHAPES)] for i in range(len(kinds))])
    spans = {"x": lanes.x("from"), "x2": "to:Q", "y": y}
    span_tips = [tip("what", "what", "N"), tip("from", "from (s)"), tip("to", "to (s)")]
    layers = [
        chart(bands).mark_rect(color=AMBER, opacity=0.22).encode(**spans, y2="y2:Q", tooltip=span_tips),
        chart(states)
        .mark_bar(height=7)
        .encode(
            **spans,
            color=alt.Color(
                "state:N",
                scale=alt.Scale(domain=shown, range=[colours.get(words, PURPLE) for words in shown]),
                title="State",
                legend=legend(shown),
            ),
            tooltip=[tip("node", "node", "N"), *span_tips],
        ),
        chart(lanes.points(story.failed_attempts, 0.62) if labels else [])
        .mark_tick(color=VERMILION, thickness=1.5, size=9, orient="vertical")
        .encode(x=lanes.x("at"), y=y, tooltip=[tip("error", "attempt failed", "N"), tip("at", "at (s)")]),
        chart(lanes.spans(incidents, 0.78)).mark_bar(height=3, color=PURPLE).encode(**spans, tooltip=span_tips),
        chart(actions)
        .mark_point(size=70, filled=True, color=PURPLE, opacity=1)
        .encode(
            x=lanes.x("at"),
            y=y,
            shape=alt.Shape("action:N", scale=shapes, title="Action", legend=legend(kinds)),
            tooltip=[
                tip("number", "decision", "N"),
                tip("action", "action", "N"),
                tip("at", "at (s)"),
                tip("what", "why", "N"),
            ],
        ),
        *_recovery_marks(found, lanes, labels),
    ]
    if labels and len(lanes.nodes) == 1:
        below = [{**row, "y": row["y"] + 0.14} for row in actions]
        layers.append(chart(below).mark_text(fontSize=11, dx=8).encode(x=lanes.x("at"), y=y, text="number:N"))
    return layers


def _worded(row: Row) -> Row:
    return {**row, "state": STATES.get(row["state"], (PURPLE, row["state"]))[1]}


def _recovery_marks(found: Sequence[Row], lanes: _Lanes, labels: bool) -> list[alt.Chart]:
    marks = (  # made as they are asked for: of very many only the first are drawn
        {
            "node": each["node"],
            "at": rounded(each["injected_s"] + each[name]["value_s"]),
            "label": f"{name.upper()} {seconds(each[name]['value_s'])}",
            "row": row,
        }
        for each in found
        for row, name in enumerate(TIMES)
        if each[name]["value_s"] is not None
    )
    rows = [{**row, "y2": row["y"] + 0.96} for row in lanes.points(marks, 0.02)]
    if labels and len(lanes.nodes) == 1:  # a line begins at its own label, so that it does not cross those above
        rows = [{**row, "y": row["y"] + LABEL_ROW * row["row"]} for row in rows]
    drawn = [
        chart(rows)
        .mark_rule(strokeWidth=1.5)
        .encode(x=lanes.x("at"), y=lanes.y(), y2="y2:Q", tooltip=[tip("label", "here", "N"), tip("at", "at (s)")])
    ]
    if (
        labels and len(lanes.nodes) > 1
    ):  # a lane has room for one line: all times of a fault in it, the first few faults
        rows = lanes.points([_label(each) for each in found[:LABELLED_MAX]], 0.12)
    if labels:
        labelled = chart([{**row, "y": row["y"] + 0.08} for row in rows])
        said = labelled.mark_text(align="left", fontSize=12, dx=alt.ExprRef(INSIDE))
        drawn.append(said.encode(x=lanes.x("at"), y=lanes.y(), text="label:N"))
    return drawn


def _label(each: Row) -> Row:
    """All times of a fault in one line, at its injection."""
    said = [f"{name.upper()} {seconds(each[name]['value_s'])}" for name in TIMES if each[name]["value_s"] is not None]
    if each["ttr"]["censored"]:
        said.append("not recovered")
    return {"node": each["node"], "at": each["injected_s"], "label": ", ".join(said), "row": 0}


def _said(story: Story) -> str:
    """The first faults in words."""
    found = story.recoveries
    said = []
    for each in found[:SAID_MAX]:
        parts = [
            f"{words} after {seconds(each[name]['value_s'])}"
            for words, name in (("detected", "ttd"), ("without failures", "ttm"), ("recovered", "ttr"))
            if each[name]["value_s"] is not None
        ]
        if each["ttr"]["value_s"] is None:
            parts.append(f"not recovered within {seconds(each['ttr']['at_least_s'] or 0.0)}")
        said.append(f"{each['kind']} at {each['node']}: {', '.join(parts)}.")
        said.extend(_late_failures(each, story))
    if len(found) > SAID_MAX:
        said.append(f"The table below has {'all' if len(found) <= 100 else 'the first 100 of'} {len(found)} faults.")
    return " ".join(said) if said else "No fault was injected."


def _late_failures(each: Row, story: Story) -> list[str]:
    """A sentence where the last failure that is put down to a fault came long after the recovery from it."""
    ttm_s, ttr_s = each["ttm"]["value_s"], each["ttr"]["value_s"]
    if ttm_s is None or ttr_s is None or ttm_s <= ttr_s + LATE_S:
        return []
    recovered_s, last_s = each["injected_s"] + ttr_s, each["injected_s"] + ttm_s
    late = [row for row in story.failed_attempts if recovered_s < row["at"] <= last_s + ROUNDING_S]
    errors = ", ".join(dict.fromkeys(str(row["error"]) for row in late))
    what = f"Attempts failed{f' ({errors})' if errors else ''} up to {last_s - recovered_s:.0f} s after that recovery"
    others = [
        f"{other['kind']} at {other['node']}"
        for other in story.recoveries
        if other is not each and other["injected_s"] <= last_s and _well_again_s(other) > recovered_s
    ]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return [f"{what}; {others[0]}{more} went on meanwhile and may be why."]
    return [f"{what}, while no fault went on: they count here, but may have another cause, such as too much load."]


def _well_again_s(each: Row) -> float:
    """When a fault was recovered from; infinity where it was not."""
    ttr_s = each["ttr"]["value_s"]
    return math.inf if ttr_s is None else float(each["injected_s"] + ttr_s)
