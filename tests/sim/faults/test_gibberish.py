"""F21: the text is wrong until the model is loaded anew."""

from __future__ import annotations

from typing import Any

from tests.sim.test_faults import client_sees, rows
from tests.sim.worlds import NodeBench
from twin.record.figures import compute_figures
from twin.record.reader import RunRecord


def answers(record: RunRecord) -> dict[int, str]:
    return {round(row["arrival_s"]): row["answer"] for row in rows(record)}


def test_every_request_succeeds_and_from_then_on_no_answer_is_right() -> None:
    record = client_sees({"kind": "gibberish"})
    seen = answers(record)
    assert {row["outcome"] for row in rows(record)} == {"succeeded"}
    assert {second for second, answer in seen.items() if answer == "gibberish"} == set(range(19, 60)), (
        "from those on that were under way"
    )
    assert compute_figures(record)["answers_wrong"] == 41
    assert record.table("faults").to_pylist()[0]["ended_by"] == "teardown", "nothing ends it by itself"


def test_half_of_the_answers_are_wrong_where_half_are_asked_for() -> None:
    wrong = [
        answer for answer in answers(client_sees({"kind": "gibberish", "share": 0.5})).values() if answer != "right"
    ]
    assert len(wrong) in (20, 21)


def test_loading_the_model_anew_ends_it() -> None:
    by_operator = client_sees({"kind": "gibberish", "duration_s": 10})
    assert answers(by_operator)[45] == "right"
    by_crash = client_sees({"kind": "gibberish"}, faults=[
        {"kind": "gibberish", "at_s": 20.5, "target": "node-0"},
        {"kind": "runner_crash", "at_s": 30.5, "target": "node-0"},
    ])  # fmt: skip
    fault = by_crash.table("faults").to_pylist()[0]
    assert (fault["kind"], fault["ended_by"], fault["ended_s"]) == ("gibberish", "action", 30.5)
    assert answers(by_crash)[40] == "right"


def test_an_unload_cures_one_model_and_the_fault_is_over_with_the_last() -> None:
    bench = NodeBench()
    seen: dict[str, Any] = {}
    bench.ask(0.0, "a", "a")
    bench.ask(6.0, "b", "b")
    bench.at(20.0, bench.node.garble_runner, 1.0)
    bench.at(21.0, bench.node.unload, "a")
    bench.ask(22.0, "a again", "a")
    bench.ask(22.0, "b again", "b")
    bench.run()
    seen = {name: job.answer for name, job in bench.jobs.items()}
    assert seen == {"a": "right", "b": "right", "a again": "right", "b again": "gibberish"}
