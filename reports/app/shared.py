"""What the pages share: the folder they look at, what is cached, how a chart and an empty page look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from reports.drawing import LEGEND_COLUMNS, Drawing, theme
from reports.logs import Log
from reports.words import VERDICT_SIGNS, VERDICTS
from twin.experiment.library import Shelf, shelves
from twin.record.cached import story_of
from twin.record.reader import MANIFEST, RunUnreadable
from twin.record.story import Story

ROOT_VARIABLE = "OLLAMAMAX_RUNS"
SELECTED = "selected"
WRAPPED_ROWS_MAX = 30
AXIS_PX, LEGEND_TITLE_PX, LEGEND_ROW_PX = 48, 30, 16
VERDICT_MARKS = {key: f"{VERDICT_SIGNS[key]} {VERDICTS[key]}" for key in VERDICTS}
VERDICT_COLOURS = {"pass": "green", "fail": "red", "unknown": "orange"}


def root() -> Path:
    """The folder that is looked at."""
    return Path(os.environ.get(ROOT_VARIABLE, "runs"))


@st.cache_data(ttl=5.0, show_spinner=False, max_entries=4)
def _listed(folder: str) -> list[Shelf]:
    return shelves(Path(folder))


def listed() -> list[Shelf]:
    """What lies there, the latest first; looked at again every few seconds."""
    return _listed(str(root()))


@st.cache_data(show_spinner="Reading the run ...", max_entries=256)
def _story(folder: str, _stamp: float) -> Story:
    return story_of(Path(folder))


def story(folder: Path) -> Story:
    """A run's story; the same one while the folder is the same. Raises `RunUnreadable`."""
    try:
        stamp = (folder / MANIFEST).stat().st_mtime
    except OSError:
        stamp = 0.0
    return _story(str(folder), stamp)


def stories(folders: Sequence[Path]) -> list[Story]:
    """The stories of those that can be read; what is wrong with the others is said on the page."""
    found = []
    for folder in folders:
        try:
            found.append(story(folder))
        except RunUnreadable as error:
            st.warning(f"{error}")
    return found


def show(drawing: Drawing) -> None:
    """A chart with its title and its sentence."""
    st.subheader(drawing.title, anchor=False)
    st.caption(escaped(drawing.sentence))
    spec = drawing.spec()
    # Streamlit fits axis and legend into a chart's height, which is meant for its marks alone.
    around_px = AXIS_PX + legends_px(spec)
    spec |= {"height": spec["height"] + around_px, "config": theme(st.context.theme.type == "dark")}
    st.vega_lite_chart(spec=spec, theme=None, width="stretch")


def legends_px(spec: dict[str, Any]) -> int:
    """How high the legends of a chart are, one below the other."""
    encodings = [layer.get("encoding", {}) for layer in spec.get("layer", [spec])]
    found: dict[str, int] = {}  # field to entries: layers that share a field share its legend
    for encoding in encodings:
        for channel in ("color", "shape"):
            of = encoding.get(channel)
            if isinstance(of, dict) and of.get("legend") and of.get("field"):
                entries = len((of.get("scale") or {}).get("domain") or ()) or 2 * LEGEND_COLUMNS
                found[of["field"]] = -(-entries // of["legend"].get("columns", LEGEND_COLUMNS))
    return sum(LEGEND_TITLE_PX + LEGEND_ROW_PX * rows for rows in found.values())


def show_log(log: Log, key: str, select: bool = False) -> int | None:
    """A table; with `select` the place of the row that the reader chose, or None."""
    st.subheader(log.title, anchor=False)
    left_out = f" {log.left_out} more are in the run folder." if log.left_out else ""
    st.caption(escaped(log.sentence + left_out))
    if not log.rows:
        return None
    return table(log.records(), key, select)


def table(rows: Sequence[dict[str, Any]], key: str, select: bool = False) -> int | None:
    """Rows as a table; with `select` the place of the chosen row. Long ones scroll, short ones show all their words."""
    frame = pd.DataFrame(rows)
    height = min(35 * (len(rows) + 1) + 3, 423)
    if not select:
        if len(rows) > WRAPPED_ROWS_MAX:
            st.dataframe(frame, hide_index=True, key=key, height=height)
        else:
            st.table(frame.set_index(frame.columns[0]), border="horizontal")
        return None
    wide = {name: st.column_config.TextColumn(width="large") for name in ("Why", "Went to") if name in frame}
    event = st.dataframe(
        frame,
        hide_index=True,
        key=key,
        height=height,
        on_select="rerun",
        selection_mode="single-row",
        column_config=wide,
    )
    chosen = event.selection.rows if event else []
    return int(chosen[0]) if chosen else None


def empty(said: str, *commands: str) -> None:
    """Nothing to show: why, and what to do about it."""
    st.info(said, icon=":material/info:")
    for command in commands:
        st.code(command, language="sh", wrap_lines=True)


def choose(label: str, options: Sequence[Shelf], key: str, preferred: Sequence[str] = ()) -> Shelf:
    """One of several results: the one selected on the page of runs, where it fits, else the latest."""
    wanted = [*st.session_state.get(SELECTED, []), *preferred]
    first = next((place for place, shelf in enumerate(options) if str(shelf.folder) in wanted), 0)
    return st.selectbox(label, options, index=first, format_func=titled, key=key)


def titled(shelf: Shelf) -> str:
    """A result in one line."""
    runs = f"{len(shelf.runs)} runs" if len(shelf.runs) != 1 else "1 run"
    what = runs if shelf.kind == "runs" else shelf.kind
    verdict = f" · {VERDICT_MARKS[shelf.verdict]}" if shelf.verdict in VERDICT_MARKS else ""
    varied = ""
    if shelf.kind != "runs":
        varied = " · " + ", ".join(shelf.summary.get("vary", {}))
    when = shelf.started[:16].replace("T", " ")
    return f"{shelf.scenario or shelf.name} · {shelf.world} · {what}{varied}{verdict} · {when}"


def verdict_line(verdict: str, sentence: str) -> None:
    """The verdict in its colour, and why."""
    colour = VERDICT_COLOURS.get(verdict, "gray")
    st.markdown(f"#### :{colour}[{VERDICT_MARKS.get(verdict, 'Not judged')}.] {escaped(sentence)}")


def escaped(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for sign in "\\`*_[]$<>~#":
        text = text.replace(sign, f"\\{sign}")
    return text


def note_problem(shelf: Shelf) -> None:
    """What is wrong with a result, where something is."""
    if shelf.problem:
        st.warning(escaped(shelf.problem))
