"""Compare: variants on the same seeds, by paired differences; which is best, and what it costs."""

from __future__ import annotations

from typing import Any

import streamlit as st

from reports.app.shared import choose, empty, escaped, listed, note_problem, show, table
from reports.study_charts import bare_label, by_seed, in_a_sentence, label_of, meaning_of, pair_forest, same_in_all
from reports.words import VERDICT_SIGNS, ci95, figure
from twin.experiment.conduct import words
from twin.experiment.library import Shelf, lines_of
from twin.experiment.points import figure_of

COSTS = ("attempts_per_request", "tokens_generated", "false_actions", "queue_wait_s.mean")


def page() -> None:
    """Draw it."""
    st.title("Compare", anchor=False)
    options = [shelf for shelf in listed() if shelf.kind == "compare" and shelf.summary.get("points")]
    if not options:
        empty(
            "There is no comparison. Make one; the first value is the baseline:",
            "ollamamax compare scenarios/node-crash.yaml --vary policy.preset=none,reactive,default",
        )
        return
    shelf = choose("Comparison", options, "compare_shelf")
    note_problem(shelf)
    study = shelf.summary
    st.markdown(f"#### {escaped(_answer(study))}")
    st.caption(f"{escaped(str(study['claim']))} Each variant ran on the same {study['replications']} seeds.")
    _ranking(study)
    drawings = pair_forest(study["pairs"])
    same = same_in_all(study["pairs"])
    if not drawings and not same:
        empty("No pair of runs is finished yet; this page fills as they come.")
    for drawing in drawings:
        show(drawing)
    if same:
        st.markdown(f"The same in every pair of runs: {escaped(', '.join(bare_label(name) for name in same))}.")
    _seeds(shelf)
    st.subheader("Do it again", anchor=False)
    st.code(
        study.get("command") or f"ollamamax compare scenarios/{study['scenario']}.yaml", language="sh", wrap_lines=True
    )


def _answer(study: dict[str, Any]) -> str:
    """The comparison in one sentence or two."""
    said = []
    for point in study["points"][1:]:
        of_point = [pair for pair in study["pairs"] if pair["variant"] == point["settings"]]
        better = [in_a_sentence(pair["figure"]) for pair in of_point if pair["verdict"] == "better"]
        worse = [in_a_sentence(pair["figure"]) for pair in of_point if pair["verdict"] == "worse"]
        parts = [f"better in {', '.join(better)}"] if better else []
        parts += [f"worse in {', '.join(worse)}"] if worse else []
        said.append(f"{words(point['settings'])} is {' and '.join(parts) or 'not shown to differ'}.")
    return (
        f"Against {words(study['points'][0]['settings'])}: {' '.join(said)}" if said else "There is one variant only."
    )


def _ranking(study: dict[str, Any]) -> None:
    points = study["points"]
    names = [each["name"] for each in points[0]["expectations"]]
    names = list(dict.fromkeys([*names, "requests_lost", "success_ratio", "ttr_s", "e2e_s.p95", *COSTS]))
    # The order is that of the claim: what is kept, then what is lost. Nothing is computed but the order.
    ranked = sorted(
        range(len(points)),
        key=lambda place: (
            ("pass", "unknown", "fail").index(points[place]["verdict"]),
            _mean(points[place], "requests_lost") or 0.0,
            _mean(points[place], "e2e_s.p95") or 0.0,
        ),
    )
    st.subheader("Ranking", anchor=False)
    st.caption(
        "By the verdict on the claim, then by requests lost, then by the 95th percentile of the latency. Means over "
        "the replications with their 95 % intervals; the last columns are what it costs."
    )
    rows = []
    for rank, place in enumerate(ranked, start=1):
        point = points[place]
        row = {"Rank": str(rank), "Variant": words(point["settings"]) + (" (baseline)" if not place else "")}
        row["Claim"] = f"{VERDICT_SIGNS[point['verdict']]} {point['verdict']}"
        row |= {label_of(name): _cell(point, name) for name in names}
        rows.append(row)
    transposed = [
        {"": title, **{f"{row['Rank']} · {row['Variant']}": row[title] for row in rows}}
        for title in rows[0]
        if title not in ("Rank", "Variant")
    ]
    table(transposed, "compare_ranking")


def _mean(point: dict[str, Any], name: str) -> float | None:
    value = figure_of(point["figures"], name)
    value = value.get("mean") if isinstance(value, dict) else value
    return None if value is None else float(value)


def _cell(point: dict[str, Any], name: str) -> str:
    value = figure_of(point["figures"], name)
    said = figure(name, _mean(point, name))
    if isinstance(value, dict) and value.get("ci95"):
        said += f" ({ci95(value['ci95'], name)})"
    times = point["recovery"].get(name)
    if times and times["censored"]:
        said += f", {times['n'] - times['censored']} of {times['n']} seen"
    return said


def _seeds(shelf: Shelf) -> None:
    names = list(dict.fromkeys(pair["figure"] for pair in shelf.summary["pairs"] if pair["difference"]))
    if not names:
        return
    same = same_in_all(shelf.summary["pairs"])
    first = next((place for place, each in enumerate(names) if each not in same), 0)
    name = st.selectbox(
        "Seed by seed", names, index=first, format_func=label_of, key="compare_figure", help="One line for each seed."
    )
    show(by_seed(shelf.summary, lines_of(shelf.folder), name))
    st.caption(f"{escaped(bare_label(name))}: {escaped(meaning_of(name))}.")
