"""Charts of a running cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reports.drawing import AMBER, BLUE, GREEN, GREY, VERMILION, YELLOW, Drawing, chart, lanes_px, layered, legend, tip
from reports.study_charts import lane_axis

HEALTH = {
    "serving": (GREEN, "serving"),
    "suspect": (AMBER, "degraded: suspect"),
    "proving": (BLUE, "degraded: proving"),
    "down": (VERMILION, "down"),
    "draining": (YELLOW, "draining"),
    "drained": (GREY, "drained"),
}
"""Colour and words of what the policy takes a node for."""

DRAINED = ("drained", "draining")


def load_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> Drawing:
    """Requests in flight at each node now, in the colour of what the policy takes it for."""
    colours = {words: colour for colour, words in HEALTH.values()}
    rows = []
    for place, node in enumerate(nodes):
        state = node["operator"] if node["operator"] in DRAINED else node["health"]
        words = HEALTH.get(str(state), (GREY, str(state or "unknown")))[1]
        rows.append({"node": node["name"], "y": place + 0.5, "zero": 0, "in_flight": node["in_flight"], "state": words})
    shown = list(dict.fromkeys(row["state"] for row in rows))
    most = max((row["in_flight"] for row in rows), default=0)
    x_axis = alt.Axis(title="Requests in flight", tickMinStep=1, tickCount=6)
    scale = alt.Scale(domain=[0, max(4, most)], nice=False)
    x = alt.X("in_flight:Q", axis=x_axis, scale=scale)
    colour = alt.Color(
        "state:N",
        scale=alt.Scale(domain=shown, range=[colours.get(words, GREY) for words in shown]),
        title=None,
        legend=legend(shown),
    )
    tips = [tip("node", "node", "N"), tip("state", "state", "N"), tip("in_flight", "in flight")]
    names = [str(node["name"]) for node in nodes]
    y = lane_axis(names)
    layers = [
        chart(rows)
        .mark_rule(strokeWidth=12)
        .encode(x=alt.X("zero:Q", axis=x_axis, scale=scale), x2="in_flight:Q", y=y, color=colour, tooltip=tips),
        chart(rows).mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=colour, tooltip=tips),
    ]
    return Drawing(
        "Load of the nodes",
        "The longer a bar, the more requests a node is serving at this moment; the colour is what the policy takes it for.",
        layered(layers, lanes_px(names, 30)),
    )
