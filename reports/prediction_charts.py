"""Charts of an evaluation of the predictor: what `ollamamax evaluate MODEL --json` prints, drawn as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from reports.drawing import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    MARKS_MAX,
    PURPLE,
    YELLOW,
    Drawing,
    Row,
    axis,
    chart,
    lanes_px,
    layered,
    legend,
    rounded,
    tip,
)
from reports.logs import Log
from reports.study_charts import lane_axis
from reports.words import number

WANTED = {"methods", "classes", "calibration", "curves", "definitions", "sudden"}
"""Keys by which an evaluation is known."""

METHOD_COLOURS = (BLUE, AMBER, GREEN, PURPLE, LIGHT_BLUE, YELLOW, GREY)


def recall_curves(evaluation: Mapping[str, Any]) -> Drawing:
    """Recall against false alarms, for each method, over its thresholds."""
    allowed = float(evaluation["definitions"]["false_a_node_day_allowed"])
    methods = [name for name in evaluation["curves"] if not name.startswith("only ")]
    rows: list[Row] = [
        {"method": name, "false": row["false_a_node_day"], "recall": row["recall"], "threshold": row["threshold"]}
        for name in methods
        for row in evaluation["curves"][name]
    ]
    scale = alt.Scale(type="symlog", constant=allowed, domainMin=0, nice=False)
    x_axis = alt.Axis(
        title="False alarms a node and day",
        format="~g",
        values=[0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100],
    )
    colour = alt.Color(
        "method:N",
        scale=alt.Scale(
            domain=methods, range=[METHOD_COLOURS[place % len(METHOD_COLOURS)] for place in range(len(methods))]
        ),
        title=None,
        legend=legend(methods),
    )
    tips = [
        tip("method", "method", "N"),
        tip("recall", "recall"),
        tip("false", "false alarms a node and day"),
        tip("threshold", "threshold"),
    ]
    y = alt.Y("recall:Q", axis=axis("Recall (0 to 1)"), scale=alt.Scale(domain=[0, 1]))
    layers = [
        chart([{"at": allowed, "what": f"allowed: {allowed:g} a node and day"}])
        .mark_rule(strokeDash=[5, 4], color=AMBER, strokeWidth=2)
        .encode(x=alt.X("at:Q", axis=x_axis, scale=scale), tooltip=tip("what", "limit", "N")),
        chart(rows[: 4 * MARKS_MAX])
        .mark_line(interpolate="step-after")
        .encode(x=alt.X("false:Q", axis=x_axis, scale=scale), y=y, color=colour, order="false:Q"),
        chart(rows[: 4 * MARKS_MAX])
        .mark_point(size=26, filled=True, opacity=0.9)
        .encode(x=alt.X("false:Q", axis=x_axis, scale=scale), y=y, color=colour, tooltip=tips),
    ]
    own = _method(evaluation, "predictor")
    said = ""
    if own is not None and own["recall"] is not None:
        low, high = own["recall_ci95"] or (own["recall"], own["recall"])
        said = (
            f" At the threshold that other worlds gave it, the predictor foretells {own['foretold']} of {own['failures']} "
            f"failures that can be foretold (recall {own['recall']:.2f}, 95 % CI {low:.2f} to {high:.2f}) with "
            f"{own['false_a_node_day']:g} false alarms a node and day."
        )
    return Drawing(
        "Recall against false alarms",
        "Failures that show beforehand and were foretold in time, against hard actions called for in vain; left of the "
        f"dashed line there are no more than allowed. The higher a curve stands there, the better.{said}",
        layered(layers, 280),
    )


def lead_times(evaluation: Mapping[str, Any]) -> Drawing:
    """How long before each failure it was foretold, by class, beside what an action takes."""
    action_s = float(evaluation["definitions"]["action_s"])
    classes = [each for each in evaluation["classes"] if each.get("leads_s")]
    rows: list[Row] = []
    middles: list[Row] = []
    for place, each in enumerate(classes):
        for index, lead_s in enumerate(each["leads_s"][: max(1, MARKS_MAX // len(classes))]):
            spread = ((index * 0.618034) % 1.0 - 0.5) * 0.5  # evenly, and the same each time
            rows.append({"class": each["class"].replace("_", " "), "lead": rounded(lead_s), "y": place + 0.5 + spread})
        middles.append(
            {
                "at": each["lead_s"]["median"],
                "y1": place + 0.2,
                "y2": place + 0.8,
                "class": each["class"].replace("_", " "),
            }
        )
    far = alt.Scale(type="symlog", constant=action_s, domainMin=0)
    x_axis = alt.Axis(title="Lead time (s)", values=[0, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200])
    labels = [each["class"].replace("_", " ") for each in classes]
    layers = [
        chart(rows)
        .mark_point(size=36, opacity=0.7, color=BLUE)
        .encode(
            x=alt.X("lead:Q", axis=x_axis, scale=far),
            y=lane_axis(labels),
            tooltip=[tip("class", "class", "N"), tip("lead", "foretold so long before (s)")],
        ),
        chart(middles)
        .mark_rule(strokeWidth=2.5)
        .encode(
            x=alt.X("at:Q"),
            y=lane_axis(labels, "y1"),
            y2="y2:Q",
            tooltip=[tip("class", "class", "N"), tip("at", "median (s)")],
        ),
        chart([{"at": action_s, "what": f"an action takes {action_s:g} s"}])
        .mark_rule(strokeDash=[5, 4], color=AMBER, strokeWidth=2)
        .encode(x=alt.X("at:Q"), tooltip=tip("what", "limit", "N")),
    ]
    return Drawing(
        "Lead time",
        "How long before it came each failure was foretold; the stroke is the median of its class. Right of the dashed line "
        f"there was time for a drain, a restart and the loads after it ({action_s:g} s).",
        layered(layers, lanes_px(labels, 40)),
    )


def reliability(evaluation: Mapping[str, Any]) -> Drawing:
    """Whether what is forecast with a probability comes true that often."""
    calibration = evaluation["calibration"]
    rows = [
        {
            "forecast": rounded(point["forecast"]),
            "observed": rounded(point["observed"]),
            "low": rounded((point.get("observed_ci95") or [point["observed"]] * 2)[0]),
            "high": rounded((point.get("observed_ci95") or [point["observed"]] * 2)[1]),
            "n": point["n"],
        }
        for point in calibration["points"]
    ]
    scale = alt.Scale(domain=[0, 1])
    x_axis = alt.Axis(title="Forecast probability (0 to 1)", tickCount=6)
    y_axis = axis("Share that came true (0 to 1)")
    tips = [
        tip("forecast", "forecast, mean"),
        tip("observed", "came true"),
        tip("low", "95 % interval from"),
        tip("high", "to"),
        tip("n", "forecasts"),
    ]
    layers = [
        chart([{"forecast": 0.0, "observed": 0.0}, {"forecast": 1.0, "observed": 1.0}])
        .mark_line(strokeDash=[4, 3], color=GREY)
        .encode(x=alt.X("forecast:Q", axis=x_axis, scale=scale), y=alt.Y("observed:Q", axis=y_axis, scale=scale)),
        chart(rows)
        .mark_rule(color=BLUE, strokeWidth=2)
        .encode(
            x=alt.X("forecast:Q", axis=x_axis, scale=scale), y=alt.Y("low:Q", axis=y_axis, scale=scale), y2="high:Q"
        ),
        chart(rows)
        .mark_line(color=BLUE, point=alt.OverlayMarkDef(filled=True, size=60, color=BLUE))
        .encode(
            x=alt.X("forecast:Q", axis=x_axis, scale=scale),
            y=alt.Y("observed:Q", axis=y_axis, scale=scale),
            tooltip=tips,
        ),
    ]
    error = calibration.get("ece")
    of_forecasts = calibration.get("ece_of_forecasts")
    said = f" Expected calibration error {error:.3g}" if error is not None else ""
    said += f", of forecasts above 5 % {of_forecasts:.3g}" if of_forecasts is not None else ""
    return Drawing(
        "Reliability",
        "On the dashed line a forecast of 0.8 comes true eight times in ten; below it the predictor cries wolf, above it is "
        f"too shy.{said}{'.' if said else ''}",
        layered(layers, 300),
    )


def class_recalls(evaluation: Mapping[str, Any]) -> Drawing:
    """Recall of each class, with its interval."""
    classes = [each for each in evaluation["classes"] if each["failures"]]
    labels = [each["class"].replace("_", " ") for each in classes]
    rows = [
        {
            "class": label,
            "y": place + 0.5,
            "recall": rounded(each["recall"] or 0.0),
            "low": rounded((each["recall_ci95"] or [0.0, 1.0])[0]),
            "high": rounded((each["recall_ci95"] or [0.0, 1.0])[1]),
            "of": f"{each['foretold']} of {each['failures']}",
            "named": f"{each['class_named']} of {each['foretold']}",
        }
        for place, (label, each) in enumerate(zip(labels, classes, strict=True))
    ]
    x_axis = alt.Axis(title="Recall (0 to 1)", tickCount=6)
    scale = alt.Scale(domain=[0, 1])
    tips = [
        tip("class", "class", "N"),
        tip("of", "foretold", "N"),
        tip("recall", "recall"),
        tip("low", "95 % interval from"),
        tip("high", "to"),
        tip("named", "its class was named for", "N"),
    ]
    layers = [
        chart(rows)
        .mark_rule(strokeWidth=3, color=BLUE)
        .encode(x=alt.X("low:Q", axis=x_axis, scale=scale), x2="high:Q", y=lane_axis(labels), tooltip=tips),
        chart(rows)
        .mark_point(filled=True, size=90, opacity=1, color=BLUE)
        .encode(x=alt.X("recall:Q", axis=x_axis, scale=scale), y=lane_axis(labels), tooltip=tips),
    ]
    return Drawing(
        "Class by class",
        "Of the failures of each class that show beforehand, the share that was foretold in time, with its 95 % interval: a "
        "wide bar is a class with few failures.",
        layered(layers, lanes_px(labels, 34)),
    )


def method_log(evaluation: Mapping[str, Any]) -> Log:
    """All methods at their own thresholds, the predictor without each of its parts among them."""
    log = Log(
        "Methods",
        "Each at the threshold that the calibration worlds gave it, the same way for all; “without” and “only” say what "
        "each part of the predictor is worth.",
        (
            "Method",
            "Recall >",
            "95 % interval >",
            "False a node and day >",
            "95 % interval of it >",
            "Precision >",
            "Lead, median (s) >",
        ),
    )
    for row in evaluation["methods"]:
        lead = row["lead_s"]["median"]
        log.rows.append(
            (
                row["method"],
                _share(row["recall"]),
                _range(row["recall_ci95"]),
                f"{row['false_a_node_day']:.3g}",
                _range(row["false_a_node_day_ci95"]),
                _share(row["precision"]),
                "–" if lead is None else number(lead),
            )
        )
    return log


def in_words(evaluation: Mapping[str, Any]) -> list[str]:
    """What must be said beside the charts: sudden failures, and why accuracy is not the figure."""
    said = []
    strict = evaluation["sudden"].get("strict") or {}
    if strict.get("failures"):
        said.append(
            f"Failures without any sign: {strict['foretold']} of {strict['failures']} were foretold, where alarms at the "
            f"same rate would hit {100 * strict['chance']:.2g} % by chance. Much more than chance would mean that the "
            "simulator leaks."
        )
    downtime = (evaluation.get("downtime") or {}).get("worlds") or {}
    if downtime.get("n"):
        closed, bounds = downtime.get("gap_closed"), downtime.get("gap_closed_ci95")
        said.append(
            f"Downtime over {downtime['n']} worlds: {downtime['reactive_minutes']:.3g} minutes where nothing is foreseen, "
            f"{downtime['predictor_minutes']:.3g} with the predictor, {downtime['oracle_minutes']:.3g} if all were known"
            + (f"; it closes {closed:.2f} of the gap (95 % CI {_range(bounds)})." if closed is not None else ".")
        )
    calibration = evaluation["calibration"]
    if calibration.get("accuracy") is not None:
        said.append(
            f"Accuracy says little: it is {100 * calibration['accuracy']:.2f} %, and that of “never fails” is "
            f"{100 * calibration['accuracy_of_never_fails']:.2f} %."
        )
    return said


def _method(evaluation: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((row for row in evaluation["methods"] if row["method"] == name), None)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _range(bounds: Any) -> str:
    return f"{bounds[0]:.3g} to {bounds[1]:.3g}" if bounds else "–"
