"""Twin and live: one scenario in both worlds, figure by figure and upon each other."""

from __future__ import annotations

import shlex

import streamlit as st

from reports.app.shared import SELECTED, choose, empty, escaped, listed, note_problem, show, show_log, stories
from reports.beside_charts import difference_log, differences, overlays, worlds_in_words
from reports.charts import success_over_time
from reports.lanes import node_lanes
from twin.experiment.beside import as_live, compare_worlds, unlike
from twin.experiment.library import Shelf
from twin.record.story import Story

TWINS_LOOKED_AT = 20
LIVE = "ollamamax run scenarios/node-crash.yaml --world live --nodes emulated --set cluster.nodes=3"


def page() -> None:
    """Draw it."""
    st.title("Twin and live", anchor=False)
    runs = [shelf for shelf in listed() if shelf.kind == "runs" and shelf.runs]
    live = [shelf for shelf in runs if shelf.world == "live"]
    if not live:
        empty("There is no live run that can be read. Make one, with emulated or with real nodes:", LIVE)
        return
    chosen = choose("Live runs", live, "worlds_live")
    note_problem(chosen)
    twins = _twins_of(chosen, runs)
    if not twins:
        empty(
            f"There is no run of {chosen.scenario} in the twin to lay beside it. Make some on the same settings:",
            _twin_command(chosen, next(iter(stories(chosen.runs[:1])), None)),
        )
        return
    together = _live_beside(chosen, live)
    twin = choose("Twin runs", twins, f"worlds_twin_{chosen.folder}")
    note_problem(twin)
    live_stories = [story for shelf in together for story in stories(shelf.runs)]
    twin_stories = stories(twin.runs)
    if not live_stories or not twin_stories:
        return
    differing = unlike(live_stories[0], twin_stories[0])
    if differing:
        st.warning(
            escaped(
                f"These two did not run the same: {'; '.join(differing)}. So a difference need not be the twin's error. "
                "For the twin on what the live world ran:"
            )
        )
        st.code(_twin_command(chosen, live_stories[0]), language="sh", wrap_lines=True)
    rows = compare_worlds([it.figures for it in live_stories], [it.figures for it in twin_stories])
    st.markdown(f"#### {escaped(worlds_in_words(rows))}")
    st.caption(
        f"{len(live_stories)} live run{'s' if len(live_stories) > 1 else ''} of {escaped(chosen.scenario)} beside "
        f"{len(twin_stories)} of the twin. A figure is "
        "indistinguishable where the means differ by less than live runs do among each other (with one live run: where it "
        "lies among the twin's runs), close within 5 % (10 % for tails and times of recovery), off beyond."
    )
    show(differences(rows))
    show_log(difference_log(rows), "worlds_figures")
    st.header("Upon each other", anchor=False)
    for drawing in overlays(live_stories, twin_stories):
        show(drawing)
    st.header("Side by side", anchor=False)
    left, right = st.columns(2)
    for column, name, story in ((left, "Live", live_stories[0]), (right, "Twin", twin_stories[0])):
        with column:
            st.markdown(f"**{name}**, seed {story.manifest.get('seed')}")
            for drawing in [node_lanes(story)[0], success_over_time(story)]:
                show(drawing)


def _twins_of(live: Shelf, runs: list[Shelf]) -> list[Shelf]:
    """Runs of the same scenario in the twin: those that ran most nearly the same first."""
    twins = [shelf for shelf in runs if shelf.world == "twin" and shelf.scenario == live.scenario][:TWINS_LOOKED_AT]
    told = stories(live.runs[:1])
    if not told:
        return twins
    differing = {it.folder: len(unlike(told[0], of[0])) if (of := stories(it.runs[:1])) else len(runs) for it in twins}
    return sorted(twins, key=lambda shelf: differing[shelf.folder])


def _live_beside(chosen: Shelf, live: list[Shelf]) -> list[Shelf]:
    """All live runs with the same settings, unless the reader wants the chosen one alone."""
    same = [shelf for shelf in live if shelf.digest == chosen.digest and shelf.scenario == chosen.scenario]
    selected = set(st.session_state.get(SELECTED, []))
    if len(same) < 2:
        return [chosen]
    both = st.toggle(
        f"All {len(same)} results with the same settings together",
        value=not selected & {str(chosen.folder)},
        key="worlds_all",
    )
    return same if both else [chosen]


def _twin_command(live: Shelf, story: Story | None) -> str:
    """The command of the live run, for the twin: with the settings that the live world had of its own."""
    command = str(live.summary.get("command") or f"ollamamax run scenarios/{live.scenario}.yaml")
    words = shlex.split(command)
    for option in ("--world", "--nodes", "--out", "--replications", "--seed"):
        if option in words:
            place = words.index(option)
            del words[place : place + 2]
    for setting in as_live(story.manifest["scenario"]) if story is not None else []:
        words += ["--set", setting]
    return shlex.join([*words, "--replications", "20"])
