"""F22: prompts lose their front, without a word."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, rows
from tests.sim.worlds import NodeBench
from twin.record.figures import compute_figures
from twin.sim.runner import Job


def test_long_prompts_are_cut_and_short_ones_are_not() -> None:
    record = client_sees(
        {"kind": "context_truncation", "context_tokens": 2048, "duration_s": 20},
        workload__prompt_tokens={"kind": "empirical", "values": [100, 3000]},
    )
    served = rows(record)
    assert {row["outcome"] for row in served} == {"succeeded"}
    for row in served:
        cut = 20.5 <= row["arrival_s"] < 40.5 and row["prompt_tokens"] == 3000
        assert row["answer"] == ("truncated_prompt" if cut else "right")
        assert row["prompt_eval_count"] == (2048 if cut else row["prompt_tokens"])
    assert compute_figures(record)["answers_wrong"] == sum(row["answer"] != "right" for row in served) > 5


def test_a_prompt_above_the_models_own_context_is_cut_on_a_sound_node_too() -> None:
    bench = NodeBench()
    long, fits = Job("a", 5000, 5, lambda _job, _error: None), Job("a", 4096, 5, lambda _job, _error: None)
    bench.at(0.0, bench.node.submit, long)
    bench.at(9.0, bench.node.submit, fits)
    bench.run(20.0)
    assert (long.answer, long.prompt_tokens) == ("truncated_prompt", 4096)
    assert (fits.answer, fits.prompt_tokens) == ("right", 4096)
