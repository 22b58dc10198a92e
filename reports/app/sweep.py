"""Sweep: how a figure goes over one or two keys of the scenario, as curves and as a map."""

from __future__ import annotations

from typing import Any

import streamlit as st

from reports.app.shared import choose, empty, escaped, listed, note_problem, show, table
from reports.study_charts import bare_label, label_of, meaning_of, sweep_curve, sweep_map
from reports.words import VERDICT_SIGNS
from twin.experiment.conduct import words
from twin.experiment.points import figure_of
from twin.record.names import BETTER

FIRST = ("requests_lost", "ttr_s", "e2e_s.p95", "success_ratio")


def page() -> None:
    """Draw it."""
    st.title("Sweep", anchor=False)
    options = [shelf for shelf in listed() if shelf.kind in ("sweep", "compare") and shelf.summary.get("points")]
    options.sort(key=lambda shelf: shelf.kind != "sweep")
    if not options:
        empty(
            "There is no sweep. Make one over one or two keys:",
            "ollamamax sweep scenarios/node-crash.yaml --vary cluster.nodes=2,3,5,8,15 "
            "--vary workload.arrivals.rate_rps=2,4,8",
        )
        return
    shelf = choose("Sweep", options, "sweep_shelf")
    note_problem(shelf)
    study = shelf.summary
    st.markdown(f"#### {escaped(_answer(study))}")
    names = [name for name in dict.fromkeys([*FIRST, *BETTER]) if _observed(study, name)]
    if not names:
        empty("No run of it is finished yet; this page fills as they come.")
        return
    keys = list(study["vary"])
    left, middle, right = st.columns(3)
    expected = [each["name"] for each in study["points"][0]["expectations"] if each["name"] in names]
    varying = next((name for name in [*expected, *names] if _varies(study, name)), names[0])
    name = left.selectbox("Figure", names, index=names.index(varying), format_func=label_of, key="sweep_figure")
    along = middle.selectbox("Along", keys, key=f"sweep_along_{shelf.folder}")
    others = [key for key in keys if key != along]
    down = right.selectbox("And", others, key=f"sweep_down_{shelf.folder}_{along}") if others else None
    fixed: dict[str, Any] = {}
    for key in others:
        if key != down:
            fixed[key] = st.selectbox(f"{key} is", study["vary"][key], key=f"sweep_{shelf.folder}_{key}")
    st.caption(f"{escaped(bare_label(name))}: {escaped(meaning_of(name))}.")
    if down is not None:
        show(sweep_map(study, name, along, down, fixed))
    show(sweep_curve(study, name, along, fixed))
    st.subheader("Where the claim holds", anchor=False)
    st.caption(f"{escaped(str(study['claim']))}")
    table(
        [
            {
                "Point": words(point["settings"]),
                "Claim": f"{VERDICT_SIGNS[point['verdict']]} {point['verdict']}",
                "Runs": str(point["n"]),
            }
            for point in study["points"]
        ],
        "sweep_points",
    )
    st.subheader("Do it again", anchor=False)
    st.code(
        study.get("command") or f"ollamamax sweep scenarios/{study['scenario']}.yaml", language="sh", wrap_lines=True
    )


def _answer(study: dict[str, Any]) -> str:
    kept = sum(point["verdict"] == "pass" for point in study["points"])
    best = f" Best seen: {words(study['best'])}." if study.get("best") else ""
    return f"The claim holds at {kept} of {len(study['points'])} points.{best}"


def _observed(study: dict[str, Any], name: str) -> bool:
    return any(_mean(point, name) is not None for point in study["points"])


def _varies(study: dict[str, Any], name: str) -> bool:
    return len({_mean(point, name) for point in study["points"]}) > 1


def _mean(point: dict[str, Any], name: str) -> float | None:
    value = figure_of(point["figures"], name)
    return value.get("mean") if isinstance(value, dict) else value
