"""Overhead: what fault tolerance costs while nothing breaks: latency, probes, and the gateway beside other proxies."""

from __future__ import annotations

import streamlit as st

from reports.app.shared import choose, empty, escaped, listed, note_problem, root, show, show_log, stories
from reports.logs import probe_log
from reports.study_charts import cost_chart, placement_of, proxy_charts
from twin.experiment.library import documents, lines_of
from twin.experiment.overhead import had_faults, measures_overhead, relative_costs

BENCH = "python -m live.gateway.bench --json > runs/gateway-bench.json"
COMPARE = "ollamamax compare scenarios/no-fault.yaml --vary policy.preset=none,default"


def page() -> None:
    """Draw it."""
    st.title("Overhead", anchor=False)
    _paired()
    _probes()
    _proxies()


def _paired() -> None:
    options = [shelf for shelf in listed() if shelf.kind == "compare" and measures_overhead(shelf.summary)]
    options.sort(key=lambda shelf: had_faults(lines_of(shelf.folder)))
    if not options:
        st.subheader("What it costs where nothing breaks", anchor=False)
        empty("It was not measured: run the same trace with fault tolerance off and on.", COMPARE)
        return
    shelf = choose("Comparison with fault tolerance off", options, "overhead_shelf")
    note_problem(shelf)
    lines = lines_of(shelf.folder)
    if had_faults(lines):
        st.warning("Nodes were broken in these runs, so the differences are not only what watching costs. Better:")
        st.code(COMPARE, language="sh")
    rows = relative_costs(shelf.summary, lines)
    if not rows:
        empty("No pair of its runs is finished yet; this page fills as they come.")
        return
    show(cost_chart(rows))
    if placed := placement_of(shelf.summary):
        st.caption(placed[0])
        st.code(placed[1], language="sh", wrap_lines=True)


def _probes() -> None:
    shelves = [shelf for shelf in listed() if shelf.kind == "runs" and shelf.runs][:8]
    told = [(shelf, story) for shelf in shelves for story in stories(shelf.runs[:1])]
    if not told:
        st.subheader("Probe traffic", anchor=False)
        empty("There is no run that can be read. Make one:", "ollamamax run scenarios/no-fault.yaml")
        return
    show_log(
        probe_log([(f"{shelf.scenario}, {shelf.world}, {shelf.policy}", story) for shelf, story in told]),
        "overhead_probes",
    )
    st.caption("The first run of each of the latest results.")


def _proxies() -> None:
    found = documents(root(), {"targets"})
    measured = [
        (path, it)
        for path, it in found
        if isinstance(it["targets"], list)
        and all(isinstance(each, dict) and "target" in each for each in it["targets"])
    ]
    if not measured:
        st.subheader("The gateway beside other proxies", anchor=False)
        empty("It was not measured on this machine, or its result does not lie among the runs:", BENCH)
        return
    path, bench = measured[-1]
    if len(measured) > 1:
        path, bench = st.selectbox(
            "Benchmark", measured, index=len(measured) - 1, format_func=lambda it: str(it[0].name), key="overhead_bench"
        )
    st.caption(f"The gateway beside other proxies: {escaped(str(path))}, made by {escaped(BENCH.partition(' >')[0])}.")
    for drawing in proxy_charts(bench):
        show(drawing)
