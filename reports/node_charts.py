"""Charts of one node's telemetry, with what broke, what showed beforehand and what was foretold."""

from __future__ import annotations

from typing import Any

import altair as alt

from reports.drawing import (
    AMBER,
    BLUE,
    GREY,
    MARKS_MAX,
    PURPLE,
    VERMILION,
    YELLOW,
    Drawing,
    Row,
    axis,
    chart,
    clock,
    layered,
    legend,
    rounded,
    tip,
)
from reports.words import number
from twin.record.one_node import NodeStory
from twin.record.telemetry_columns import TELEMETRY_COLUMNS

COLUMNS = {column.name: column for column in TELEMETRY_COLUMNS}
SIGN_WORDS = {
    "failed": "signs of a failure that came",
    "averted": "signs of a failure that was averted",
    "nothing": "signs of nothing (a look-alike)",
    "teardown": "signs of a failure that had not come at the end",
}
SIGN_COLOURS = {"failed": VERMILION, "averted": BLUE, "nothing": YELLOW, "teardown": GREY}


def title_of(name: str) -> str:
    """A telemetry column's name for people, with its unit."""
    column = COLUMNS[name]
    said = name
    for suffix in ("_gib", "_mhz", "_mib_per_s", "_c", "_w", "_s"):
        said = said.removesuffix(suffix)
    said = said.replace("_", " ").replace("gpu", "GPU").replace("vram", "GPU memory").replace("rss", "resident memory")
    return f"{said[:1].upper()}{said[1:]} ({column.unit})"


def telemetry(story: NodeStory, name: str) -> Drawing:
    """One column of the node's telemetry over time."""
    column = COLUMNS[name]
    rows = [
        {
            "at": rounded(row["at"]),
            "low": rounded(row["low"]),
            "mean": rounded(row["mean"]),
            "high": rounded(row["high"]),
        }
        for row in story.columns[name]
    ]
    title = title_of(name)
    tips = [tip("at", "from (s)"), tip("mean", f"mean ({column.unit})"), tip("low", "lowest"), tip("high", "highest")]
    y_axis = axis(column.unit, format=",~r")
    scale = alt.Scale(zero=False)
    layers = [
        *_spans(story),
        chart(rows)
        .mark_area(opacity=0.25, color=BLUE, interpolate="step-after")
        .encode(x=clock(story.end_s), y=alt.Y("low:Q", axis=y_axis, scale=scale), y2="high:Q", tooltip=tips),
        chart(rows)
        .mark_line(color=BLUE, interpolate="step-after")
        .encode(x=clock(story.end_s), y=alt.Y("mean:Q", axis=y_axis, scale=scale), tooltip=tips),
        chart(_warnings(story))
        .mark_rule(color=PURPLE, strokeWidth=1.5)
        .encode(x=clock(story.end_s), tooltip=[tip("what", "foretold", "N"), tip("at", "at (s)")]),
    ]
    return Drawing(
        title,
        f"At {story.node}: {column.meaning}; the mean in steps of {number(story.step_s)} s, and the lowest and highest "
        "value as a band. Amber: a fault holds the node; coloured: signs show; purple: a warning.",
        layered(layers, 130),
    )


def foretold(story: NodeStory) -> Drawing:
    """The probability of the node's likeliest failure where a warning began, changed or ended."""
    rows: list[Row] = [
        {
            "at": rounded(row["at"]),
            "probability": rounded(row["probability"]),
            "failure": row["failure"] or "",
            "reasons": row["reasons"] or "",
            "lead": rounded(row["lead_s"]) if row["lead_s"] is not None else None,
        }
        for row in (story.forecasts or [])[:MARKS_MAX]
    ]
    y = alt.Y("probability:Q", axis=axis("Probability (0 to 1)"), scale=alt.Scale(domain=[0, 1]))
    tips = [
        tip("failure", "failure", "N"),
        tip("probability", "probability"),
        tip("at", "at (s)"),
        tip("lead", "expected in (s)"),
        tip("reasons", "because", "N"),
    ]
    layers = [
        *_spans(story),
        chart(rows).mark_line(color=PURPLE, interpolate="step-after", opacity=0.6).encode(x=clock(story.end_s), y=y),
        chart(rows)
        .mark_point(filled=True, color=PURPLE, size=60, opacity=1)
        .encode(x=clock(story.end_s), y=y, tooltip=tips),
    ]
    return Drawing(
        "Warnings",
        f"What the predictor said of {story.node} where a warning began, changed its class or ended: a good warning stands "
        "at the beginning of signs, well before the fault.",
        layered(layers, 130),
    )


def happenings(story: NodeStory) -> str:
    """Signs and faults of the node in a sentence or two."""
    said = [f"{row['kind']} from {row['from']:,.1f} s" for row in story.faults[:3]]
    one = len(story.faults) == 1
    faults = f"{len(story.faults)} {'fault' if one else 'faults'} ({', '.join(said)})" if story.faults else "No fault"
    signs = ", ".join(
        f"{sum(row['outcome'] == outcome for row in story.signs)} {words.replace('signs of', 'of')}"
        for outcome, words in SIGN_WORDS.items()
        if any(row["outcome"] == outcome for row in story.signs)
    )
    return f"{faults} held {story.node}. " + (
        f"Signs showed {len(story.signs)} times: {signs}." if signs else "No signs showed."
    )


def _spans(story: NodeStory) -> list[Any]:
    faults = [{**row, "what": row["kind"]} for row in story.faults[:MARKS_MAX]]
    signs = [
        {"from": row["from"], "to": row["to"], "what": f"{row['kind']}: {SIGN_WORDS.get(row['outcome'], 'signs')}"}
        | {"outcome": SIGN_WORDS.get(row["outcome"], "signs")}
        for row in story.signs[:MARKS_MAX]
    ]
    shown = [SIGN_WORDS[key] for key in SIGN_WORDS if any(row["outcome"] == SIGN_WORDS[key] for row in signs)]
    colours = {SIGN_WORDS[key]: colour for key, colour in SIGN_COLOURS.items()}
    spans = {"x": clock(story.end_s, "from"), "x2": "to:Q"}
    tips = [tip("what", "while", "N"), tip("from", "from (s)"), tip("to", "to (s)")]
    return [
        chart(faults).mark_rect(color=AMBER, opacity=0.25).encode(**spans, tooltip=tips),
        chart(signs)
        .mark_rect(opacity=0.18)
        .encode(
            **spans,
            color=alt.Color(
                "outcome:N",
                scale=alt.Scale(domain=shown, range=[colours[each] for each in shown]),
                title=None,
                legend=legend(shown),
            ),
            tooltip=tips,
        ),
    ]


def _warnings(story: NodeStory) -> list[Row]:
    return [
        {"at": rounded(row["at"]), "what": f"{row['failure']}, probability {row['probability']:.2f}"}
        for row in (story.forecasts or [])[:MARKS_MAX]
        if row["lead_s"] is not None
    ]
