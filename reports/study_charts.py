"""Charts of many runs: recovery times, paired differences, maps of a sweep, costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reports.drawing import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    LANE_PLOT_PX,
    MARKS_MAX,
    PURPLE,
    VERMILION,
    Drawing,
    Row,
    axis,
    chart,
    colours_seen,
    lanes_px,
    layered,
    legend,
    or_none,
    points_with_intervals,
    rounded,
    tip,
    wrapped,
)
from reports.words import LABELS, figure, number, seconds
from twin.experiment.conduct import words
from twin.experiment.points import figure_of
from twin.experiment.recovery_times import TimesOf, not_yet
from twin.experiment.study import key_of
from twin.record.names import FIGURES

ROW_PX = 46
TITLE_CHARACTERS = 40  # in a line of a title below a chart
PAIR_PX = 40
TIME_WORDS = {
    "ttd_s": "Time to detection (TTD)",
    "ttm_s": "Time to mitigation (TTM)",
    "ttr_s": "Time to recovery (TTR)",
}
VERDICT_COLOURS = {"better": GREEN, "worse": VERMILION, "no difference shown": GREY}
PERCENTS = (-100, -50, -20, -10, -5, 0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Where an axis of far-reaching percentages has its marks."""
ACROSS: dict[str, Any] = {"titleAngle": 0, "titleAlign": "left", "titleX": 0, "titleY": -8, "titleBaseline": "bottom"}
SERIES = (BLUE, AMBER, GREEN, PURPLE, GREY)


FULL_LABELS = {
    "requests_admitted": "Requests admitted",
    "requests_rejected": "Requests turned away",
    "requests_succeeded": "Requests that succeeded",
    "requests_lost": "Requests lost",
    "requests_cancelled": "Requests cancelled",
    "incidents_healed": "Incidents healed",
}
"""Labels that stand alone, without the group that says of what."""


def bare_label(name: str) -> str:
    """A figure's name for people: `e2e_s.p95` is "Arrival to end, p95"."""
    first, _, key = name.partition(".")
    said = FULL_LABELS.get(first) or LABELS.get(first, first)
    return said[:1].upper() + said[1:] + (f", {key}" if key else "")


def label_of(name: str) -> str:
    """The same with its unit, for axes and columns: "Arrival to end, p95 (s)"."""
    unit = FIGURES.get(name.partition(".")[0], ("", ""))[0]
    return in_seconds(bare_label(name)) if unit == "s" else bare_label(name)


def in_a_sentence(name: str) -> str:
    """The same within a sentence, without its abbreviation and commas: "time to recovery", "arrival to end (p95)"."""
    said, comma, key = bare_label(name).partition(", ")
    said = said.partition(" (")[0]
    return said[:1].lower() + said[1:] + (f" ({key})" if comma else "")


def in_seconds(said: str) -> str:
    """A title with its unit; one pair of brackets is enough: "Time to recovery (TTR, s)"."""
    return f"{said[:-1]}, s)" if said.endswith(")") else f"{said} (s)"


def meaning_of(name: str) -> str:
    """A figure's definition."""
    return FIGURES.get(name.partition(".")[0], ("", ""))[1]


# -- recovery times -----------------------------------------------------------------------------------------------


def recovery_strip(groups: Sequence[TimesOf]) -> Drawing:
    """Every fault as a point, group by group, with the median, its interval and the promised limit."""
    what = TIME_WORDS[groups[0].name]
    labels = [group.label for group in groups]
    points: list[Row] = []
    middles: list[Row] = []
    limits: list[Row] = []
    for place, group in enumerate(groups):
        shown = group.faults[: max(1, MARKS_MAX // len(groups))]
        for index, fault in enumerate(shown):
            spread = ((index * 0.618034) % 1.0 - 0.5) * 0.5  # evenly, and the same each time
            said = "not seen to its end" if fault["censored"] else "observed"
            points.append({**fault, "value_s": rounded(fault["value_s"]), "y": place + 0.5 + spread, "seen": said})
        median, ci95 = group.summary["median"], group.summary["ci95"] or [None, None]
        if median is not None:
            middles.append(
                {"at": rounded(median), "low": or_none(ci95[0]), "high": or_none(ci95[1]), "y": place + 0.5}
                | {"y1": place + 0.2, "y2": place + 0.8, "label": group.label}
            )
        if group.limit_s is not None:
            limits.append(
                {"at": group.limit_s, "y1": place, "y2": place + 1.0, "label": f"promised: {group.limit_s:g} s"}
            )
    x = alt.X("value_s:Q", axis=alt.Axis(title=in_seconds(what), grid=True, tickCount=8), scale=alt.Scale(zero=True))
    y = lane_axis(labels)
    kinds = {"observed": ("circle", BLUE), "not seen to its end": ("triangle-right", VERMILION)}
    seen = [said for said in kinds if any(row["seen"] == said for row in points)]
    key = legend(seen, LANE_PLOT_PX) if seen != ["observed"] else None
    layers = [
        chart(points)
        .mark_point(size=42, opacity=0.75)
        .encode(
            x=x,
            y=y,
            shape=alt.Shape(
                "seen:N",
                scale=alt.Scale(domain=seen, range=[kinds[said][0] for said in seen]),
                title=None,
                legend=key,
            ),
            color=alt.Color(
                "seen:N",
                scale=alt.Scale(domain=seen, range=[kinds[said][1] for said in seen]),
                title=None,
                legend=key,
            ),
            tooltip=[
                tip("kind", "fault", "N"),
                tip("node", "node", "N"),
                tip("seed", "seed", "N"),
                tip("value_s", "took (s)"),
                tip("seen", "it is", "N"),
            ],
        ),
        chart([row for row in middles if row["low"] is not None and row["high"] is not None])
        .mark_bar(height=5, color=GREY, opacity=0.55)
        .encode(
            x=alt.X("low:Q"),
            x2="high:Q",
            y=y,
            tooltip=[tip("low", "95 % interval of the median, from (s)"), tip("high", "to (s)")],
        ),
        chart(middles)
        .mark_rule(strokeWidth=2.5)
        .encode(
            x=alt.X("at:Q"),
            y=lane_axis(labels, "y1"),
            y2="y2:Q",
            tooltip=[tip("label", "of", "N"), tip("at", "median (s)")],
        ),
        chart(limits)
        .mark_rule(strokeDash=[5, 4], color=AMBER, strokeWidth=2)
        .encode(x=alt.X("at:Q"), y=lane_axis(labels, "y1"), y2="y2:Q", tooltip=tip("label", "limit", "N")),
    ]
    return Drawing(what, _recovery_sentence(groups), layered(layers, lanes_px(labels, ROW_PX)))


def recovery_curves(groups: Sequence[TimesOf]) -> Drawing:
    """The share of faults that have not been detected, mitigated or recovered from so far."""
    verb = {"ttd_s": "detected", "ttm_s": "mitigated", "ttr_s": "recovered from"}[groups[0].name]
    labels = [group.label for group in groups]
    rows = [
        {"after": rounded(row["after_s"]), "share": rounded(row["share"]), "group": group.label}
        for group in groups
        for row in not_yet(group)
    ]
    lines = (
        chart(rows)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X(
                "after:Q", axis=alt.Axis(title="Time since the injection (s)", tickCount=8), scale=alt.Scale(zero=True)
            ),
            y=alt.Y("share:Q", axis=axis("Share of faults (0 to 1)"), scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("group:N", title=None, legend=legend(labels), scale=alt.Scale(domain=labels)),
            tooltip=[tip("group", "of", "N"), tip("after", "after (s)"), tip("share", f"share not yet {verb}")],
        )
    )
    never = [group for group in groups if group.faults and not not_yet(group)]
    rest = (
        f" Without a curve, since none was ever {verb}: {', '.join(group.label for group in never)}." if never else ""
    )
    return Drawing(
        f"Not yet {verb}",
        f"The share of faults that were not {verb} so long after their injection (Kaplan and Meier, so that runs that ended "
        f"too early are counted for as long as they were watched): the sooner a curve is down, the better.{rest}",
        layered([lines], 220),
    )


def _recovery_sentence(groups: Sequence[TimesOf]) -> str:
    said = []
    for group in groups[:6]:
        summary = group.summary
        if not summary["n"]:
            said.append(f"{group.label}: nothing to observe.")
            continue
        median = f"median {seconds(summary['median'])}" if summary["median"] is not None else "no median"
        if summary["ci95"] and None not in summary["ci95"]:
            median += f" (95 % CI {seconds(summary['ci95'][0])} to {seconds(summary['ci95'][1])})"
        part = f"{group.label}: {median} over {summary['n']} fault{'s' if summary['n'] != 1 else ''}"
        if summary["censored"]:
            part += f", {summary['censored']} of them not seen to their end"
        if group.limit_s is not None:
            part += f"; {group.within} of {summary['n']} within the promised {group.limit_s:g} s"
        said.append(part + ".")
    return (
        "Every fault is a point; the upright stroke is the median, the grey bar its interval, the dashed stroke the "
        f"promised limit. {' '.join(said)}"
    )


# -- comparisons --------------------------------------------------------------------------------------------------


def pair_forest(pairs: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Paired differences with their intervals: a chart for each figure, since they have different units.

    A figure that is the same in every pair has none; `same_in_all` names it.
    """
    names = dict.fromkeys(pair["figure"] for pair in pairs)
    left_out = same_in_all(pairs)
    drawings = [
        _forest(name, [pair for pair in pairs if pair["figure"] == name]) for name in names if name not in left_out
    ]
    return [drawing for drawing in drawings if drawing is not None]


def same_in_all(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Figures that do not differ in any pair of runs."""
    names = dict.fromkeys(pair["figure"] for pair in pairs)
    return [name for name in names if all(_same(pair) for pair in pairs if pair["figure"] == name)]


def _same(pair: Mapping[str, Any]) -> bool:
    difference = pair["difference"]
    return bool(difference) and not difference["mean"] and not any(difference["ci95"] or [0.0])


def _forest(name: str, pairs: Sequence[Mapping[str, Any]]) -> Drawing | None:
    shown = [pair for pair in pairs if pair["difference"]]
    if not shown:
        return None
    labels = [words(pair["variant"]) for pair in shown]
    rows = []
    for place, pair in enumerate(shown):
        mean, ci95 = pair["difference"]["mean"], pair["difference"]["ci95"] or [pair["difference"]["mean"]] * 2
        rows.append(
            {
                "variant": labels[place],
                "y": place + 0.5,
                "mean": rounded(mean),
                "low": rounded(ci95[0]),
                "high": rounded(ci95[1]),
                "n": pair["difference"]["n"],
                "p": "–" if pair["p_adjusted"] is None else f"{pair['p_adjusted']:.3g}",
                "verdict": pair["verdict"],
            }
        )
    colour = colours_seen("verdict", VERDICT_COLOURS, rows)
    tips = [
        tip("variant", "variant", "N"),
        tip("mean", "mean difference"),
        tip("low", "95 % interval from"),
        tip("high", "to"),
        tip("n", "pairs"),
        tip("p", "p (Holm)", "N"),
        tip("verdict", "it is", "N"),
    ]
    y = lane_axis(labels)
    unit = FIGURES.get(name.partition(".")[0], ("", ""))[0]
    x_axis = alt.Axis(title=wrapped(f"Difference from the baseline{f' ({unit})' if unit else ''}"), tickCount=6)
    layers = [
        chart([{"zero": 0.0}]).mark_rule(strokeDash=[4, 3], color=GREY).encode(x=alt.X("zero:Q", axis=x_axis)),
        *points_with_intervals(rows, "mean", y, colour, tips, {"axis": x_axis}),
    ]
    base = words(pairs[0]["baseline"])
    said = "; ".join(_pair_in_words(pair, name) for pair in shown[:4])
    return Drawing(
        bare_label(name),
        f"Mean of the differences from {base} on the same seeds, with its 95 % interval; on the dashed line there is "
        f"none. {said}.",
        layered(layers, lanes_px(labels, PAIR_PX)),
    )


def _pair_in_words(pair: Mapping[str, Any], name: str) -> str:
    mean = pair["difference"]["mean"]
    size = figure(name, abs(mean))
    way = "the same on average" if not mean else f"{size} {'more' if mean > 0 else 'less'}"
    return f"{words(pair['variant'])}: {way}, {pair['verdict']}"


def by_seed(study: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], name: str) -> Drawing:
    """A figure of every replication, the variants beside each other, each seed a line."""
    labels = [words(point["settings"]) for point in study["points"]]
    keys = {key_of(point["settings"]): label for point, label in zip(study["points"], labels, strict=True)}
    rows = []
    for line in lines:
        label = keys.get(key_of(line["settings"]))
        value = figure_of(line["figures"], name)
        if label is not None and isinstance(value, (int, float)):
            rows.append({"variant": label, "value": rounded(value), "seed": line["seed"]})
    x = alt.X("variant:N", sort=labels, axis=alt.Axis(title=None, labelAngle=0, labelLimit=220))
    y = alt.Y("value:Q", axis=axis(label_of(name)), scale=alt.Scale(zero=False))
    tips = [tip("variant", "variant", "N"), tip("seed", "seed", "N"), tip("value", label_of(name))]
    layers = [
        chart(rows[:MARKS_MAX]).mark_line(opacity=0.35, color=GREY).encode(x=x, y=y, detail="seed:N"),
        chart(rows[:MARKS_MAX])
        .mark_point(filled=True, size=45, color=BLUE, opacity=0.8)
        .encode(x=x, y=y, tooltip=tips),
    ]
    return Drawing(
        f"{bare_label(name)}, seed by seed",
        "Each line is one seed under every variant: the more lines go the same way, the less likely it is by chance.",
        layered(layers, 240),
    )


# -- sweeps -------------------------------------------------------------------------------------------------------


def sweep_curve(study: Mapping[str, Any], name: str, along: str, fixed: Mapping[str, Any]) -> Drawing:
    """A figure along one key with its 95 % intervals; a line for each value of the keys that are not fixed."""
    rows: list[Row] = []
    values = study["vary"][along]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    for point in _points(study, fixed):
        value = figure_of(point["figures"], name)
        mean, ci95 = _mean(value)
        if mean is None:
            continue
        rest = {key: each for key, each in point["settings"].items() if key != along and key not in fixed}
        rows.append(
            {
                "along": point["settings"][along] if numeric else _text(point["settings"][along]),
                "mean": rounded(mean),
                "low": rounded(ci95[0] if ci95 else mean),
                "high": rounded(ci95[1] if ci95 else mean),
                "of": words(rest) or along,
                "verdict": point["verdict"],
            }
        )
    order = None if numeric else [_text(value) for value in values]
    x: alt.X
    if numeric:
        far = min(values) > 0 and max(values) / min(values) > 30
        x = alt.X(
            "along:Q",
            axis=alt.Axis(title=along, values=list(values), format=",~r"),
            scale=alt.Scale(type="log" if far else "linear", zero=False, nice=False),
        )
    else:
        x = alt.X("along:N", sort=order, axis=alt.Axis(title=along, labelAngle=0))
    y_axis = axis(label_of(name))
    lines = list(dict.fromkeys(row["of"] for row in rows))
    colour = alt.Color("of:N", title=None, legend=legend(lines) if len(lines) > 1 else None, sort=None)
    tips = [
        tip("of", "where", "N"),
        tip("along", along, "N"),
        tip("mean", label_of(name)),
        tip("low", "95 % interval from"),
        tip("high", "to"),
        tip("verdict", "claim", "N"),
    ]
    layers = [
        chart(rows).mark_area(fillOpacity=0.18).encode(x=x, y=alt.Y("low:Q", axis=y_axis), y2="high:Q", color=colour),
        chart(rows).mark_line().encode(x=x, y=alt.Y("mean:Q", axis=y_axis), color=colour),
        chart(rows)
        .mark_point(filled=True, size=60, opacity=1)
        .encode(x=x, y=alt.Y("mean:Q", axis=y_axis), color=colour, tooltip=tips),
    ]
    unseen = len(_points(study, fixed)) - len(rows)
    rest_said = f" At {unseen} points it was not observed." if unseen else ""
    return Drawing(
        bare_label(name),
        f"The mean over the replications along {along}, with its 95 % interval as a band: where bands do not touch, the "
        f"difference is more than chance.{rest_said}",
        layered(layers, 260),
    )


def sweep_map(study: Mapping[str, Any], name: str, across: str, down: str, fixed: Mapping[str, Any]) -> Drawing:
    """A figure over two keys as shades, the mean written in each field."""
    rows: list[Row] = []
    for point in _points(study, fixed):
        mean, ci95 = _mean(figure_of(point["figures"], name))
        rows.append(
            {
                "across": _text(point["settings"][across]),
                "down": _text(point["settings"][down]),
                "mean": or_none(mean),
                "said": "not seen" if mean is None else number(float(f"{mean:.3g}")),
                "ci": f"{number(round(ci95[0], 4))} to {number(round(ci95[1], 4))}" if ci95 else "–",
                "verdict": point["verdict"],
                "mark": {"fail": "✗", "unknown": "?", "pass": ""}[point["verdict"]],
            }
        )
    known = [row["mean"] for row in rows if row["mean"] is not None]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    x = alt.X(
        "across:N",
        sort=[_text(value) for value in study["vary"][across]],
        axis=alt.Axis(title=across, labelAngle=0, grid=False),
    )
    y = alt.Y(
        "down:N",
        sort=[_text(value) for value in study["vary"][down]],
        # Across, above the axis: beside a map of few rows a long key would be cut.
        axis=alt.Axis(
            title=down,
            titleAngle=0,
            titleAlign="left",
            titleX=0,
            titleY=-8,
            titleBaseline="bottom",
            minExtent=64,
            grid=False,
        ),
    )
    tips = [
        tip("across", across, "N"),
        tip("down", down, "N"),
        tip("said", label_of(name), "N"),
        tip("ci", "95 % interval", "N"),
        tip("verdict", "claim", "N"),
    ]
    shade = alt.Color(
        "mean:Q",
        scale=alt.Scale(range=["#d7e6f4", "#12507f"], nice=False),
        title=label_of(name),
        legend=alt.Legend(orient="bottom", direction="horizontal", gradientLength=220),
    )
    text = alt.condition(f"datum.mean === null || datum.mean < {middle}", alt.value("#1f2328"), alt.value("#ffffff"))
    layers = [
        chart(rows).mark_rect(stroke="#8a8f9840").encode(x=x, y=y, color=shade, tooltip=tips),
        chart(rows).mark_text(fontSize=12).encode(x=x, y=y, text="said:N", color=text, tooltip=tips),
        chart([row for row in rows if row["mark"]])
        .mark_text(fontSize=11, dy=14)
        .encode(x=x, y=y, text="mark:N", color=text, tooltip=tips),
    ]
    failed = sum(row["verdict"] == "fail" for row in rows)
    said = f"The claim fails at {failed} of {len(rows)} points, marked ✗." if failed else "The claim fails nowhere."
    return Drawing(
        bare_label(name),
        f"The mean over the replications at each point: the darker, the larger. {said}",
        layered(layers, max(2, len(study["vary"][down])) * 52),
    )


def _points(study: Mapping[str, Any], fixed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        point
        for point in study["points"]
        if point["n"] and all(point["settings"].get(key) == value for key, value in fixed.items())
    ]


def _mean(value: Any) -> tuple[float | None, Sequence[float] | None]:
    if isinstance(value, Mapping):
        return value.get("mean"), value.get("ci95")
    return (None, None) if value is None else (float(value), None)


# -- overhead -----------------------------------------------------------------------------------------------------


def cost_chart(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Paired differences of latency and the like as shares of the baseline's, with their intervals."""
    variants = list(dict.fromkeys(words(row["variant"]) for row in rows))
    figures = list(dict.fromkeys(row["figure"] for row in rows))
    drawn: list[Row] = []
    for row in rows:
        place = figures.index(row["figure"])
        shift = (variants.index(words(row["variant"])) + 0.5) / len(variants)
        low, high = row["ci95"] or (row["relative"], row["relative"])
        drawn.append(
            {
                "y": place + shift,
                "percent": rounded(100 * row["relative"]),
                "low": rounded(100 * low),
                "high": rounded(100 * high),
                "variant": words(row["variant"]),
                "figure": label_of(row["figure"]),
                "bare": bare_label(row["figure"]),
                "absolute": figure(row["figure"], row["difference"]),
                "base": figure(row["figure"], row["baseline"]),
                "n": row["n"],
            }
        )
    labels = [label_of(name) for name in figures]
    y = lane_axis(labels)
    colour = alt.Color(
        "variant:N",
        scale=alt.Scale(domain=variants, range=list(SERIES[: len(variants)])),
        title=None,
        legend=legend(variants, LANE_PLOT_PX) if len(variants) > 1 else None,
    )
    x_axis = alt.Axis(title="Difference (% of the baseline)", values=list(PERCENTS))
    far = alt.Scale(type="symlog", constant=5)  # even near 0, and room for what is far off
    tips = [
        tip("figure", "figure", "N"),
        tip("variant", "variant", "N"),
        tip("percent", "difference (%)"),
        tip("low", "95 % interval from (%)"),
        tip("high", "to (%)"),
        tip("absolute", "that is", "N"),
        tip("base", "baseline", "N"),
        tip("n", "pairs"),
    ]
    layers = [
        chart([{"at": 0.0}]).mark_rule(strokeDash=[4, 3], color=GREY).encode(x=alt.X("at:Q", axis=x_axis, scale=far)),
        chart([{"at": 5.0, "what": "promised: less than 5 %"}])
        .mark_rule(strokeDash=[5, 4], color=AMBER, strokeWidth=2)
        .encode(x=alt.X("at:Q", axis=x_axis, scale=far), tooltip=tip("what", "limit", "N")),
        *points_with_intervals(drawn, "percent", y, colour, tips, {"axis": x_axis, "scale": far}),
    ]
    worst = max(drawn, key=lambda row: row["percent"])
    said = "On average nothing is dearer."
    if worst["percent"] > 0:
        said = f"The largest is {worst['bare']}: {number(round(worst['percent'], 2))} %, that is {worst['absolute']}."
    return Drawing(
        "What it costs where nothing breaks",
        "The same requests on the same seeds with and without: to the right of the dashed line at 0 it is dearer; the amber "
        f"line is the promised 5 %. {said}",
        layered(layers, lanes_px(labels, 36)),
    )


PLACEMENT = (
    "Two things are in a difference of latency here. The presets also place requests differently: without fault "
    "tolerance a request may go to any node, and the model is loaded there; with it, requests keep to the nodes that hold "
    "the model, and share those. Where every node holds the model, what remains is fault tolerance alone:"
)
"""What must be said beside `cost_chart`, unless the comparison was made with replicas of its own (`placement_of`)."""

ALIKE = (
    "ollamamax compare scenarios/no-fault.yaml --vary policy.preset=none,default "
    "--set cluster.models.llama3.1:8b.replicas=5"
)


def placement_of(study: Mapping[str, Any]) -> list[str]:
    """What is to be said of placement beside `cost_chart`: a sentence and a command; nothing where replicas were set."""
    settings = [*(study.get("changes") or ()), *study["vary"]]
    return [] if any("replicas" in str(each) for each in settings) else [PLACEMENT, ALIKE]


PROXY_FIGURES = (
    ("added_p50_ms", "Time that a proxy adds to a request, median", "ms"),
    ("processor_us_per_request", "Processor time for a request", "µs"),
    ("processor_us_per_record", "Processor time for a further record of a stream", "µs"),
    ("added_stall_p99_ms", "Lateness of records under many streams that a proxy adds, p99", "ms"),
)


def proxy_charts(bench: Mapping[str, Any]) -> list[Drawing]:
    """The gateway's benchmark beside other proxies: a chart for each figure that was measured."""
    return [
        proxy_chart(bench["targets"], name, title, unit)
        for name, title, unit in PROXY_FIGURES
        if any(isinstance(each.get(name), Mapping) for each in bench["targets"])
    ]


def proxy_chart(targets: Sequence[Mapping[str, Any]], name: str, title: str, unit: str) -> Drawing:
    """One figure of the gateway's benchmark for each proxy: the median over the rounds, and the lowest and highest."""
    shown = [each for each in targets if isinstance(each.get(name), Mapping) and each[name].get("median") is not None]
    labels = [str(each["target"]) for each in shown]
    rows = [
        {
            "target": label,
            "y": place + 0.5,
            "median": rounded(each[name]["median"]),
            "low": rounded(each[name]["low"]),
            "high": rounded(each[name]["high"]),
            "ours": "OllamaMax" if "ollamamax" in label.lower() else "others",
        }
        for place, (label, each) in enumerate(zip(labels, shown, strict=True))
    ]
    colour = alt.Color("ours:N", scale=alt.Scale(domain=["OllamaMax", "others"], range=[BLUE, GREY]), legend=None)
    x_axis = alt.Axis(title=wrapped(f"{title} ({unit})", TITLE_CHARACTERS), tickCount=6)
    tips = [
        tip("target", "proxy", "N"),
        tip("median", f"median ({unit})"),
        tip("low", "lowest round"),
        tip("high", "highest round"),
    ]
    y = lane_axis(labels)
    layers = points_with_intervals(rows, "median", y, colour, tips, {"axis": x_axis, "scale": alt.Scale(zero=True)})
    return Drawing(
        title,
        "Measured in front of the same stub node, interleaved: the point is the median over the rounds, the bar their "
        "lowest and highest. Further to the left is better.",
        layered(layers, lanes_px(labels, 34)),
    )


def lane_axis(labels: Sequence[str], field: str = "y") -> alt.Y:
    """A y axis on which each label has a lane of height 1."""
    values = [index + 0.5 for index in range(len(labels))]
    return alt.Y(
        f"{field}:Q",
        scale=alt.Scale(domain=[0, max(1, len(labels))], reverse=True, nice=False),
        axis=alt.Axis(
            values=values,
            labelExpr=f"{json.dumps([wrapped(label) for label in labels])}[floor(datum.value)]",
            title=None,
            grid=False,
            ticks=False,
            minExtent=64,
            labelPadding=8,
            labelLimit=230,
            labelOverlap=False,
        ),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
