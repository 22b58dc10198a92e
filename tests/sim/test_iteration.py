"""The analytic clock against the iteration-level mode: the same world, one event a step."""

from __future__ import annotations

import pytest

from tests.scenario.documents import scenario
from tests.sim.test_runner import PREFILL_S_PER_TOKEN, Bench
from tests.sim.worlds import simulate
from twin.record.figures import compute_figures
from twin.sim.iteration import IterationRunner


class IterationBench(Bench):
    def __init__(self, step_s: list[float], slots: int) -> None:
        super().__init__(step_s, slots)
        old = self.runner
        self.runner = IterationRunner(self.engine, "m", 5.0, 4096, slots, step_s, PREFILL_S_PER_TOKEN, old._on_idle)


def test_a_sequence_alone_takes_its_prompt_and_its_steps() -> None:
    bench = IterationBench([0.01], 1)
    bench.submit_at(1.0, 1, 200, 51)
    assert bench.run() == {1: pytest.approx(1.0 + 0.2 + 50 * 0.01)}
    assert bench.jobs[1].first_token_s == pytest.approx(1.2)


def test_who_comes_in_the_middle_of_an_iteration_waits_for_its_end() -> None:
    bench = IterationBench([0.01, 0.02], 2)
    bench.submit_at(0.0, 1, 100, 11)
    bench.submit_at(0.105, 2, 50, 2)  # in the middle of the first step after the prompt
    ended = bench.run()
    assert bench.jobs[2].joined_s == pytest.approx(0.11)
    assert bench.jobs[2].first_token_s == pytest.approx(0.11 + 0.05 + 0.01)
    assert ended[2] == pytest.approx(0.17 + 0.02)
    assert ended[1] == pytest.approx(0.17 + 0.02 + 7 * 0.01)


def test_a_cancelled_sequence_leaves_and_the_next_joins_at_the_boundary() -> None:
    bench = IterationBench([0.01], 1)
    bench.submit_at(0.0, 1, 0, 100)
    bench.submit_at(0.001, 2, 0, 3)
    bench.engine.call_at(0.055, lambda: bench.runner.cancel(bench.jobs[1]))
    assert bench.run() == {2: pytest.approx(0.06 + 3 * 0.01)}


def test_the_fast_mode_is_within_one_per_cent_of_it_in_the_mean_and_makes_far_fewer_events() -> None:
    changes = {"workload__duration_s": 400, "record": {"journal": False}}
    fast, slow = (simulate(scenario(**changes, cluster__iteration_level=mode))[1] for mode in (False, True))
    mean = {name: compute_figures(record)["e2e_s"]["mean"] for name, record in (("fast", fast), ("slow", slow))}
    assert mean["fast"] == pytest.approx(mean["slow"], rel=0.01)
    assert slow.manifest["events"] > 10 * fast.manifest["events"]
