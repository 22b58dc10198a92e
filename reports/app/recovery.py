"""Recovery time: how long detection, mitigation and recovery took, over many faults, beside what is promised."""

from __future__ import annotations

import streamlit as st

from reports.app.shared import SELECTED, empty, listed, note_problem, show, stories, table, titled
from reports.study_charts import TIME_WORDS, recovery_curves, recovery_strip
from reports.words import number
from twin.experiment.library import Shelf, lines_of
from twin.experiment.recovery_times import Name, TimesOf, times_of_runs, times_of_study

RUNS_MAX = 200
NAMES: list[Name] = ["ttd_s", "ttm_s", "ttr_s"]


def page() -> None:
    """Draw it."""
    st.title("Recovery time", anchor=False)
    options = [shelf for shelf in listed() if (shelf.kind == "runs" and shelf.runs) or shelf.summary.get("points")]
    if not options:
        empty(
            "Nothing here has recovery times. Break something, more than once:",
            "ollamamax run scenarios/node-crash.yaml --replications 20",
            "ollamamax compare scenarios/node-crash.yaml --vary policy.preset=none,default",
        )
        return
    selected = st.session_state.get(SELECTED, [])
    first = [shelf for shelf in options if str(shelf.folder) in selected] or _with_faults(options)
    chosen = st.multiselect(
        "Results, one or several beside each other",
        options,
        default=first,
        format_func=titled,
        key="recovery_shelves",
        help="Choose what was measured before and after a change to see both.",
    )
    name: Name = st.segmented_control(
        "Time", NAMES, default="ttr_s", format_func=TIME_WORDS.__getitem__, key="recovery_time", required=True
    )
    groups: list[TimesOf] = []
    for shelf in chosen:
        note_problem(shelf)
        groups += _groups(shelf, name, several=len(chosen) > 1)
    shown = [group for group in groups if group.faults]
    if not shown:
        empty("No fault of these results has such a time: nothing was broken, or nothing failed. Choose others.")
        return
    show(recovery_strip(shown))
    show(recovery_curves(shown))
    st.subheader("In numbers", anchor=False)
    st.caption(
        "The median is that of Kaplan and Meier, which counts faults that were not seen to their end for as long as "
        "they were watched; a dash is what so few faults cannot tell."
    )
    table([_row(group) for group in groups], "recovery_table")


def _with_faults(options: list[Shelf]) -> list[Shelf]:
    """The latest comparison, else the latest runs."""
    compared = [shelf for shelf in options if shelf.kind == "compare" and lines_of(shelf.folder)]
    broken = [shelf for shelf in compared if any(line["recoveries"] for line in lines_of(shelf.folder))]
    return (broken or options)[:1]


def _groups(shelf: Shelf, name: Name, several: bool) -> list[TimesOf]:
    if shelf.kind == "runs":
        label = f"{shelf.scenario}, {shelf.world}" + (f", {shelf.started[11:16]}" if several else "")
        return [times_of_runs(label, stories(shelf.runs[:RUNS_MAX]), name)]
    return times_of_study(shelf.summary, lines_of(shelf.folder), name)


def _row(group: TimesOf) -> dict[str, str]:
    summary = group.summary
    ci95 = summary["ci95"] or [None, None]
    values = sorted(fault["value_s"] for fault in group.faults if not fault["censored"])
    return {
        "Of": group.label,
        "Faults": number(summary["n"]),
        "Not seen to the end": number(summary["censored"]),
        "Median (s)": _said(summary["median"]),
        "95 % interval (s)": f"{_said(ci95[0])} to {_said(ci95[1])}" if ci95 != [None, None] else "–",
        "Fastest to slowest (s)": f"{_said(values[0])} to {_said(values[-1])}" if values else "–",
        "Promised (s)": _said(group.limit_s),
        "Within it": "–" if group.within is None else f"{group.within} of {summary['n']}",
        "Nothing to observe": number(group.nothing),
    }


def _said(value: float | None) -> str:
    return "–" if value is None else number(round(value, 3))
