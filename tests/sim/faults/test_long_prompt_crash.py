"""F02: a marginal GPU dies under long prompts."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import LOAD_S, client_sees, rows
from tests.sim.worlds import NodeBench
from twin.sim.runner import Job


def test_a_long_prompt_fails_before_its_first_token_and_takes_with_it_what_runs_beside_it() -> None:
    bench = NodeBench(slots=2)
    bench.node.add_runner("a")
    bench.node.conditions.set("fault", "fatal_prompt_tokens", 100.0)
    bench.node.conditions_changed()
    bench.ask(0.0, "beside", "a", tokens=500)
    long = Job("a", 101, 50, lambda job, error: bench.ended.update(long=(bench.engine.now, error)))
    bench.at(1.0, bench.node.submit, long)
    bench.ask(1.5, "next", "a")
    ended = bench.run()
    assert ended["long"] == (pytest.approx(1.005), "server_error"), "half way to its first token"
    assert ended["beside"] == (pytest.approx(1.005), "error_record")
    assert ended["next"][1] == "", "a short one works on the runner that is loaded anew"
    assert ended["next"][0] > 1.5 + 4.5


def test_short_prompts_work_and_the_fault_is_injected_when_the_first_long_one_comes() -> None:
    spread = {"kind": "lognormal", "mean": 100, "cv": 1.0}
    record = client_sees({"kind": "long_prompt_crash", "tokens": 300}, workload__prompt_tokens=spread)
    long = [row["arrival_s"] for row in rows(record) if row["prompt_tokens"] > 300 and row["arrival_s"] > 20.5]
    failed = [row for row in rows(record) if row["outcome"] != "succeeded"]
    (fault,) = record.table("faults").to_pylist()
    assert long
    assert fault["injected_s"] == pytest.approx(long[0], abs=0.01)
    for row in failed:
        if row["prompt_tokens"] > 300:
            assert row["first_token_s"] is None
    assert {row["prompt_tokens"] > 300 for row in failed} == {True, False}


def test_where_no_long_prompt_comes_nothing_was_injected() -> None:
    record = client_sees({"kind": "long_prompt_crash", "tokens": 300})
    assert record.table("faults").num_rows == 0
    assert {row["outcome"] for row in rows(record)} == {"succeeded"}
    assert max(row["end_s"] - row["arrival_s"] for row in rows(record)) < LOAD_S
