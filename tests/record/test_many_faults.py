"""A long run has tens of thousands of faults, incidents and actions: what is computed of each must not grow with their
number."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.record.runs import Run
from twin.record import figures as figures_module
from twin.record.figures import compute_figures, holding
from twin.record.reader import RunRecord
from twin.record.recovery import recoveries, rows_by_node

CODE = str(Path(figures_module.__file__).parent)


def lines_run(do: Callable[[], Any]) -> int:
    """How many lines of `twin.record` the interpreter runs: the work, whatever the machine does meanwhile."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


def troubled(faults: int, nodes: int = 2) -> RunRecord:
    """Faults in turn on the nodes; each fails an attempt and a probe of the load path, and is restarted away."""
    run = Run()
    for index in range(faults):
        at_s, node = 20.0 * index, f"node-{index % nodes}"
        run.fault(at_s, node, planned_end_s=at_s + 15.0, ended_s=at_s + 4.0, fault_id=index)
        run.incident(at_s + 1.0, node, verified_s=at_s + 5.0, closed_s=at_s + 9.0)
        run.action(at_s + 2.0, "restart", node)
        run.failed_attempt(at_s + 0.5, node)
        run.probe(at_s + 1.0, False, "load_path", node).probe(at_s + 5.0, True, "load_path", node)
        run.probe(at_s + 5.0, True, "generation", node)
        run.request(at_s + 6.0, at_s + 7.0, node=node)
    return run.end(simulated_s=20.0 * faults)


def test_twice_the_faults_are_twice_the_work() -> None:
    few, many = troubled(300), troubled(600)
    of_few, of_many = (lines_run(lambda record=record: compute_figures(record)) for record in (few, many))
    assert of_few > 300  # it was looked at at all
    assert of_many < 2.2 * of_few


def test_faults_on_many_nodes_are_no_more_work_than_on_few() -> None:
    few, many = troubled(300, nodes=2), troubled(300, nodes=100)
    of_few, of_many = (lines_run(lambda record=record: recoveries(record)) for record in (few, many))
    assert of_many < 2.2 * of_few


def test_each_of_many_faults_has_its_own_times() -> None:
    found = recoveries(troubled(200))
    assert {(it.ttd.value_s, it.ttm.value_s) for it in found} == {(1.0, 0.5)}
    assert {it.ttr.value_s for it in found[:-1]} == {5.0}
    figures = compute_figures(troubled(200), found)
    assert (figures["incidents_healed"], figures["false_actions"]) == (200, 0)


def test_the_sweep_finds_whatever_held_a_node_at_each_moment() -> None:
    draw = random.Random(7)
    nodes = ("a", "b", "c")
    faults = [
        {"node": draw.choice(nodes), "injected_s": at_s, "ended_s": draw.choice([None, at_s, at_s + draw.randrange(9)])}
        for at_s in (draw.randrange(40) for _ in range(60))
    ]
    moments = [(draw.choice([*nodes, "d"]), float(draw.randrange(50))) for _ in range(200)]
    for (node, time_s), found in zip(moments, holding(faults, moments), strict=True):
        expected = [
            fault
            for fault in faults
            if fault["node"] == node
            and fault["injected_s"] <= time_s
            and (fault["ended_s"] is None or time_s <= fault["ended_s"])
        ]
        assert sorted(map(id, found)) == sorted(map(id, expected))


def test_the_rows_of_each_node_are_found_in_their_order() -> None:
    run = Run()
    for index, node in enumerate(["b", "a", "b", "", "c", "a"]):
        run.request(index, index + 0.5, node=node)
    requests = run.end().table("requests", ["node"])
    assert [rows.tolist() for rows in rows_by_node(requests, ["a", "b", "d"])] == [[1, 5], [0, 2], []]
