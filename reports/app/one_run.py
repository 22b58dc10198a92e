"""One run: the claim and its verdict, then what happened, on one time axis, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from reports.app.shared import (
    choose,
    empty,
    escaped,
    listed,
    note_problem,
    show,
    show_log,
    stories,
    table,
    verdict_line,
)
from reports.charts import timeline
from reports.lanes import moment_lanes
from reports.logs import blast_log, decision_log, fault_log, invariant_log, request_log, run_log
from reports.page import badness, figure_rows, figures_note
from reports.words import VERDICT_SIGNS, VERDICTS, ci95, figure, limit, notes, run_again, verdict_sentence
from twin.experiment.library import Shelf
from twin.record.decisions import nodes_at, route_calls
from twin.record.query import query
from twin.record.reader import RunUnreadable, open_run
from twin.record.story import Story

AROUND_S = 15.0


def page() -> None:
    """Draw it."""
    options = [shelf for shelf in listed() if shelf.kind == "runs" and shelf.runs]
    if not options:
        st.title("One run", anchor=False)
        empty("There is no run that can be read. Make one:", "ollamamax run scenarios/node-crash.yaml")
        return
    shelf = choose("Runs of", options, "run_shelf")
    note_problem(shelf)
    told = stories(shelf.runs)
    if not told:
        return
    place = max(range(len(told)), key=lambda index: badness(told[index]))
    if len(told) > 1:
        place = st.selectbox(
            "Run",
            range(len(told)),
            index=place,
            format_func=lambda index: _run_title(told[index], index == place),
            key=f"run_of_{shelf.folder}",
        )
    story = told[place]
    _head(shelf, story)
    for drawing in timeline(story):
        show(drawing)
    show_log(fault_log(story), "run_faults")
    show_log(blast_log(story), "run_blast")
    _decisions(story)
    _requests(story, shelf.runs[place] if len(told) == len(shelf.runs) else None)
    _figures(shelf, story)
    summary = shelf.summary or {"invariants": story.manifest.get("invariants") or {}}
    show_log(invariant_log(summary), "run_invariants")
    if len(told) > 1:
        show_log(run_log(told), "run_all")
    st.subheader("Run it again", anchor=False)
    st.code(_again(shelf, story), language="sh", wrap_lines=True)


def _run_title(story: Story, worst: bool) -> str:
    lost = story.figures["requests_lost"]
    ttr = figure("ttr_s", story.figures["ttr_s"])
    return f"seed {story.manifest.get('seed')} · {lost} lost · TTR {ttr}{' · the worst' if worst else ''}"


def _head(shelf: Shelf, story: Story) -> None:
    scenario = story.manifest["scenario"]
    st.title(str(scenario.get("claim") or scenario.get("name") or "One run"), anchor=False)
    world = story.manifest.get("world", "")
    when = str(story.manifest.get("started") or "")[:16].replace("T", " ")
    st.caption(
        f"Scenario {scenario.get('name')}, in the {world} world, {when} UTC, version {story.manifest.get('version')}"
    )
    if not shelf.summary:
        verdict_line("", "This folder has no summary, so its claim was not judged; the figures below are of this run.")
        return
    verdict_line(shelf.verdict, verdict_sentence(shelf.summary))
    for note in notes(shelf.summary):
        st.caption(f"{escaped(note)}")
    several = shelf.summary["replications"] > 1
    rows = []
    for each in shelf.summary["expectations"]:
        row = {
            "Expected": each["name"],
            "Limit": limit(each["limit"], each["name"]),
            "Mean" if several else "Measured": figure(each["name"], each["value"]),
        }
        if several:
            row |= {
                "95 % interval": ci95(each.get("ci95"), each["name"]),
                "Worst run": figure(each["name"], each.get("worst")),
                "Kept in": f"{each.get('kept')} of {shelf.summary['replications']} runs",
            }
        rows.append(row | {"Verdict": f"{VERDICT_SIGNS[each['verdict']]} {VERDICTS[each['verdict']]}"})
    if rows:
        table(rows, "run_expected")


def _decisions(story: Story) -> None:
    place = show_log(decision_log(story), "run_decisions", select=True)
    if not story.decisions:
        return
    if place is None:
        st.caption("Select a decision to see the moment in which it was taken.")
        return
    row = story.decisions[place]
    st.markdown(f"**{escaped(row['what'])}** at {escaped(row['node'])}, {row['at']:,.2f} s. Why: {escaped(row['why'])}")
    show(moment_lanes(story, row["at"], AROUND_S))


def _requests(story: Story, folder: Path | None) -> None:
    log = request_log(story, most=len(story.troubled))
    place = show_log(log, "run_requests", select=True)
    if not log.rows or folder is None:
        return
    if place is None:
        st.caption("Select a request to see why it went to which node.")
        return
    _why(folder, story.troubled[place])


def _why(folder: Path, row: dict[str, Any]) -> None:
    """Each decision of the policy about one request, and what it could see of the nodes then."""
    try:
        with query(open_run(folder)) as ask:
            calls = route_calls(ask, row["request_id"])
            seen = {call["at"]: nodes_at(ask, call["at"]) for call in calls}
    except RunUnreadable as error:
        st.warning(escaped(str(error)))
        return
    if not calls:
        empty("This run has no journal, so its decisions one by one are not known. Run it with record.journal: true.")
        return
    for call in calls:
        st.markdown(f"**{call['at']:,.3f} s, attempt {call['attempt'] + 1}:** {escaped(call['said'])}")
        if seen[call["at"]]:
            table(seen[call["at"]], f"why_{row['request_id']}_{call['at']}_{call['attempt']}")


def _figures(shelf: Shelf, story: Story) -> None:
    figures = shelf.summary.get("figures") or story.figures
    st.subheader("Figures", anchor=False)
    st.caption(f"{escaped(figures_note(story.manifest))}")
    for group, rows in figure_rows(figures):
        with st.expander(group, expanded=group in ("Requests", "Failures")):
            table(
                [
                    {"Figure": row["label"], "Value": ", ".join(row["lines"]), "Definition": row["meaning"]}
                    for row in rows
                ],
                f"run_figures_{group}",
            )


def _again(shelf: Shelf, story: Story) -> str:
    if shelf.summary:
        return run_again(shelf.summary, story.manifest.get("scenario_file"))
    manifest = story.manifest
    name = manifest["scenario"].get("name")
    world = "" if manifest.get("world") == "twin" else f" --world {manifest.get('world')}"
    return f"ollamamax run scenarios/{name}.yaml --seed {manifest.get('seed')} --replications 1{world}"
