"""Prediction: how well failures are foretold, and one node's telemetry with what showed and what was foretold."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from reports.app.shared import choose, empty, escaped, listed, root, show, show_log
from reports.node_charts import foretold, happenings, telemetry, title_of
from reports.prediction_charts import (
    WANTED,
    class_recalls,
    in_words,
    lead_times,
    method_log,
    recall_curves,
    reliability,
)
from twin.experiment.library import documents
from twin.record.one_node import NodeStory, node_story, readable_columns
from twin.record.reader import MANIFEST, RunUnreadable, open_run

FIRST_COLUMNS = ("vram_used_gib", "gpu_temperature_c", "ollama_error_lines")


def page() -> None:
    """Draw it."""
    st.title("Prediction", anchor=False)
    _evaluation()
    _one_node()


def _evaluation() -> None:
    found = documents(root(), WANTED)
    if not found:
        empty(
            "No evaluation of a predictor lies among the runs. Make one (it runs worlds that the model has not seen):",
            f"ollamamax evaluate --json > {root().name}/evaluation.json",
        )
        return
    place = len(found) - 1
    if len(found) > 1:
        place = st.selectbox(
            "Evaluation",
            range(len(found)),
            index=place,
            format_func=lambda at: str(found[at][0].name),
            key="prediction_file",
        )
    path, evaluation = found[place]
    try:
        drawings = [
            recall_curves(evaluation),
            class_recalls(evaluation),
            lead_times(evaluation),
            reliability(evaluation),
        ]
        log, said = method_log(evaluation), in_words(evaluation)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        st.warning(escaped(f"{path} is not of this version ({error}); make it again with `ollamamax evaluate --json`."))
        return
    worlds = ", ".join(
        f"{count} {split.replace('_', ' ')}" for split, count in (evaluation.get("worlds") or {}).items()
    )
    st.caption(escaped(f"{path.name}; worlds: {worlds or 'not said'}"))
    for sentence in said:
        st.markdown(escaped(sentence))
    for drawing in drawings:
        show(drawing)
    show_log(log, "prediction_methods")


def _one_node() -> None:
    st.header("One node", anchor=False)
    options = [shelf for shelf in listed() if shelf.kind == "runs" and shelf.runs]
    if not options:
        empty("There is no run that can be read. Make one with signs:", "ollamamax run scenarios/slow-decay.yaml")
        return
    shelf = choose("Run of", options, "prediction_shelf")
    left, right = st.columns(2)
    run = shelf.runs[0]
    if len(shelf.runs) > 1:
        run = left.selectbox("Run", shelf.runs, format_func=lambda it: it.name, key=f"prediction_run_{shelf.folder}")
    try:
        readable = _readable(str(run), (run / MANIFEST).stat().st_mtime)
    except (RunUnreadable, OSError) as error:
        st.warning(escaped(str(error)))
        return
    if not readable:
        empty("This run recorded no telemetry. Run it with record.telemetry_period_s: 1.")
        return
    nodes = list(readable)
    node = right.selectbox("Node", nodes, index=_eventful(run, nodes), key=f"prediction_node_{run}")
    columns = readable[node]
    if not columns:
        empty(
            f"No agent read the machine of {node}, so there is only what the gateway saw. Run it with cluster.agents: true."
        )
        return
    first = [name for name in FIRST_COLUMNS if name in columns] or columns[:3]
    chosen = st.multiselect(
        "Telemetry", columns, default=first, format_func=title_of,
        key=f"prediction_columns_{run}_{node}",
    )  # fmt: skip
    story = _told(str(run), (run / MANIFEST).stat().st_mtime, node, tuple(chosen))
    st.markdown(escaped(happenings(story)))
    if story.forecasts:
        show(foretold(story))
    else:
        none = "this record has no table of forecasts" if story.forecasts is None else "the predictor gave no warning"
        st.caption(f"No warnings are drawn: {none}.")
    for name in chosen:
        show(telemetry(story, name))


@st.cache_data(show_spinner=False, max_entries=64)
def _readable(run: str, _stamp: float) -> dict[str, list[str]]:
    return readable_columns(open_run(Path(run)))


@st.cache_data(show_spinner="Reading the telemetry ...", max_entries=64)
def _told(run: str, _stamp: float, node: str, columns: tuple[str, ...]) -> NodeStory:
    return node_story(open_run(Path(run)), node, list(columns))


def _eventful(run: Path, nodes: list[str]) -> int:
    """The place of the first node that a fault or its signs held."""
    record = open_run(run)
    held = {*record.table("faults", ["node"])["node"].to_pylist(), *record.table("signs", ["node"])["node"].to_pylist()}
    return next((place for place, node in enumerate(nodes) if node in held), 0)
