"""Runs: everything that lies in the folder, what came of it, and what is wrong with what cannot be read."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from reports.app.shared import SELECTED, VERDICT_MARKS, empty, listed, root, table
from reports.words import LABELS, figure
from twin.experiment.library import Shelf

KEY_FIGURES = ("requests_lost", "success_ratio", "ttd_s", "ttr_s")
WRONG_MAX = 20
KINDS = {"runs": "runs", "compare": "comparison", "sweep": "sweep"}


def page() -> None:
    """Draw it."""
    st.title("Runs", anchor=False)
    found = listed()
    if not found:
        empty(
            f"There are no runs in {root().resolve()}. Make some, or name another folder: ollamamax dashboard --runs DIR",
            "ollamamax run scenarios/node-crash.yaml",
        )
        return
    shown = _filtered(found)
    bad = sum(bool(shelf.problem) for shelf in shown)
    said = f"{len(shown)} of {len(found)} results in {root()}, the latest first. Select some to look at them."
    st.caption(f"{said}{f' {bad} of them cannot be read, or not all of it: see below.' if bad else ''}")
    if not shown:
        empty("Nothing fits the filters; clear one.")
        return
    event = st.dataframe(
        pd.DataFrame([_row(shelf) for shelf in shown]),
        hide_index=True,
        key="runs_table",
        on_select="rerun",
        selection_mode="multi-row",
        height=min(35 * (len(shown) + 1) + 3, 640),
        column_config={
            "Scenario": st.column_config.TextColumn(pinned=True),
            "Problem": st.column_config.TextColumn(width="large", help="What is wrong with it, and what to do"),
            "Lost": st.column_config.TextColumn(
                help="Requests admitted that neither succeeded nor were cancelled; mean"
            ),
        },
    )
    chosen = [shown[place] for place in (event.selection.rows if event else []) if place < len(shown)]
    if chosen:
        st.session_state[SELECTED] = [str(shelf.folder) for shelf in chosen]
        _next(chosen)
    if bad:
        st.subheader("What is wrong", anchor=False)
        wrong = [shelf for shelf in shown if shelf.problem][:WRONG_MAX]
        table([{"Result": shelf.name, "What is wrong, and what to do": shelf.problem} for shelf in wrong], "runs_wrong")


def _filtered(found: list[Shelf]) -> list[Shelf]:
    left, middle, right, far = st.columns([3, 2, 2, 2])
    text = left.text_input("Filter", key="runs_text", placeholder="part of a scenario's or folder's name")
    worlds = middle.multiselect("World", sorted({it.world for it in found if it.world}), key="runs_worlds")
    kinds = right.multiselect("Kind", list(KINDS), format_func=KINDS.__getitem__, key="runs_kinds")
    verdicts = far.multiselect(
        "Verdict", list(VERDICT_MARKS), format_func=VERDICT_MARKS.__getitem__, key="runs_verdicts"
    )
    return [
        shelf
        for shelf in found
        if text.lower() in f"{shelf.scenario} {shelf.name}".lower()
        and (not worlds or shelf.world in worlds)
        and (not kinds or shelf.kind in kinds)
        and (not verdicts or shelf.verdict in verdicts)
    ]


def _row(shelf: Shelf) -> dict[str, Any]:
    figures = shelf.summary.get("figures") if shelf.kind == "runs" else None
    shown = {"requests_lost": "Lost", "success_ratio": "Success ratio", "ttd_s": "TTD", "ttr_s": "TTR"}
    what = f"{len(shelf.runs)}"
    if shelf.kind != "runs":
        what = f"{sum(point.get('n', 0) for point in shelf.summary.get('points', ()))}"
    return {
        "Scenario": shelf.scenario or shelf.name,
        "Kind": KINDS[shelf.kind],
        "World": shelf.world or "–",
        "Runs": what,
        "When (UTC)": shelf.started[:16].replace("T", " ") or "–",
        "Verdict": VERDICT_MARKS.get(shelf.verdict, "–"),
        **{title: _mean(name, figures) for name, title in shown.items()},
        "Problem": shelf.problem,
        "Folder": shelf.name,
    }


def _mean(name: str, figures: Any) -> str:
    if not isinstance(figures, dict) or name not in LABELS:
        return "–"
    value = figures.get(name)
    value = value.get("mean") if isinstance(value, dict) else value
    return figure(name, value) if value is not None else "–"


def _next(chosen: list[Shelf]) -> None:
    """Where what was selected can be looked at."""
    kinds, worlds = {shelf.kind for shelf in chosen}, {shelf.world for shelf in chosen}
    offered = ["run", "recovery"] if "runs" in kinds else []
    offered += ["worlds"] if {"twin", "live"} <= worlds else []
    offered += ["compare", "recovery", "overhead"] if "compare" in kinds else []
    offered += ["sweep"] if "sweep" in kinds else []
    pages = st.session_state.get("pages") or {}
    links = [pages[name] for name in dict.fromkeys(offered) if name in pages]
    if links:
        st.caption("Look at what is selected:")
        for column, link in zip(st.columns(max(4, len(links))), links, strict=False):
            column.page_link(link)
