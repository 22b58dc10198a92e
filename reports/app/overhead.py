"""Overhead: what fault tolerance costs while nothing breaks: latency, probes, and the gateway beside other proxies."""

from __future__ import annotations

import streamlit as st

from reports.app.shared import choose, empty, escaped, listed, note_problem, root, show, stories, table
from reports.study_charts import cost_chart, proxy_chart
from reports.words import number
from twin.experiment.library import documents, lines_of
from twin.experiment.overhead import had_faults, measures_overhead, relative_costs

BENCH = "python -m live.gateway.bench --json > runs/gateway-bench.json"
COMPARE = "ollamamax compare scenarios/no-fault.yaml --vary policy.preset=none,default"
PROXY_FIGURES = (
    ("added_p50_ms", "Time that a proxy adds to a request, median", "ms"),
    ("processor_us_per_request", "Processor time for a request", "µs"),
    ("processor_us_per_record", "Processor time for a further record of a stream", "µs"),
    ("added_stall_p99_ms", "Lateness of records under many streams that a proxy adds, p99", "ms"),
)


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


def _probes() -> None:
    st.subheader("Probe traffic", anchor=False)
    shelves = [shelf for shelf in listed() if shelf.kind == "runs" and shelf.runs][:8]
    told = [(shelf, story) for shelf in shelves for story in stories(shelf.runs[:1])]
    if not told:
        empty("There is no run that can be read. Make one:", "ollamamax run scenarios/no-fault.yaml")
        return
    st.caption(
        "Probes that the policy sent in the first run of each of the latest results; a generation probe asks for one "
        "token, all others cost a node next to nothing."
    )
    rows = []
    for shelf, story in told:
        probes = story.probes
        per_minute, per_request = probes["per_node_minute"], probes["generations_per_request"]
        rows.append(
            {
                "Run of": f"{shelf.scenario}, {shelf.world}, {shelf.policy}",
                "Probes for each node and minute": "–" if per_minute is None else number(round(per_minute, 2)),
                "Generation probes for each 100 requests": "–"
                if per_request is None
                else number(round(100 * per_request, 2)),
                "By kind": ", ".join(f"{kind} {number(count)}" for kind, count in probes["by_kind"].items() if count)
                or "none",
            }
        )
    table(rows, "overhead_probes")


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
    for name, title, unit in PROXY_FIGURES:
        if any(isinstance(each.get(name), dict) for each in bench["targets"]):
            show(proxy_chart(bench["targets"], name, title, unit))
