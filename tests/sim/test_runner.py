"""The analytic clock of a runner against a simulation of every iteration, token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.policy.vocabulary import AttemptError
from twin.sim.engine import Engine
from twin.sim.runner import Job, Runner

PREFILL_S_PER_TOKEN = 0.001


class Bench:
    """A runner on simulated time."""

    def __init__(self, step_s: list[float], slots: int, prefill_s_per_token: float = PREFILL_S_PER_TOKEN) -> None:
        self.engine = Engine()
        self.idle_s: list[float] = []
        self.runner = Runner(
            self.engine,
            "m",
            5.0,
            4096,
            slots,
            step_s,
            prefill_s_per_token,
            lambda _: self.idle_s.append(self.engine.now),
        )
        self.ended: dict[int, float] = {}
        self.jobs: dict[int, Job] = {}

    def submit_at(self, time_s: float, number: int, prompt: int, output: int) -> None:
        def submit() -> None:
            job = self.jobs[number] = Job("m", prompt, output, partial(self._end, number))
            job.submitted_s = self.engine.now
            self.runner.submit(job)

        self.engine.call_at(time_s, submit)

    def _end(self, number: int, job: Job, error: AttemptError) -> None:
        assert error == ""
        assert number not in self.ended, "it ended twice"
        assert job.tokens == job.output_tokens
        self.ended[number] = self.engine.now

    def run(self, until_s: float = 1e6) -> dict[int, float]:
        self.engine.call_at(until_s, self.engine.finish)
        self.engine.run_calls()
        return self.ended


@dataclass
class Sequence:
    number: int
    prompt: int
    output: int
    tokens: int = 0


@dataclass
class Iterations:
    """Ollama's own loop, one iteration after the other: let in who waits, evaluate their prompts, one token for each."""

    step_s: list[float]
    slots: int
    prefill_s_per_token: float
    arrivals: dict[int, list[Sequence]]  # number of the iteration before which they arrive
    ended: dict[int, float] = field(default_factory=dict)
    arrived_s: dict[int, float] = field(default_factory=dict)
    first_s: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        now, iteration = 0.0, 0
        waiting: list[Sequence] = []
        batch: list[Sequence] = []
        last = max(self.arrivals)
        while batch or waiting or iteration <= last:
            for sequence in self.arrivals.get(iteration, []):
                self.arrived_s[sequence.number] = now
                waiting.append(sequence)
            iteration += 1
            while waiting and len(batch) < self.slots:
                joined = waiting.pop(0)
                batch.append(joined)
                if joined.prompt and self.prefill_s_per_token:
                    now += joined.prompt * self.prefill_s_per_token  # nobody decodes meanwhile
                    joined.tokens = 1  # the prompt's last step gives the first token
                    self.first_s[joined.number] = now
                for sequence in [s for s in batch if s.tokens == s.output]:
                    self.ended[sequence.number] = now
                    batch.remove(sequence)
            if not batch:
                now += 1.0  # idle until the next arrivals
                continue
            now += self.step_s[min(len(batch), len(self.step_s)) - 1]
            for sequence in batch:
                sequence.tokens += 1
                self.first_s.setdefault(sequence.number, now)
            for sequence in [s for s in batch if s.tokens == s.output]:
                self.ended[sequence.number] = now
                batch.remove(sequence)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    slots=st.integers(1, 4),
    steps_ms=st.lists(st.integers(1, 30), min_size=1, max_size=4).map(sorted),
    prefill=st.booleans(),
    cases=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 300), st.integers(2, 60)), min_size=1, max_size=8),
)
def test_the_clock_ends_every_sequence_when_the_iterations_do(
    slots: int, steps_ms: list[int], prefill: bool, cases: list[tuple[int, int, int]]
) -> None:
    step_s = [ms / 1000.0 for ms in steps_ms]
    per_token_s = PREFILL_S_PER_TOKEN if prefill else 0.0
    arrivals: dict[int, list[Sequence]] = {}
    for number, (iteration, prompt, output) in enumerate(cases):
        arrivals.setdefault(iteration, []).append(Sequence(number, prompt, output))
    truth = Iterations(step_s, slots, per_token_s, arrivals)
    truth.run()
    bench = Bench(step_s, slots, per_token_s)
    for number, (_, prompt, output) in sorted(enumerate(cases), key=lambda case: (truth.arrived_s[case[0]], case[0])):
        # A hair after the iteration, so that what ends with it has ended.
        bench.submit_at(truth.arrived_s[number] + 1e-10, number, prompt, output)
    assert bench.run() == pytest.approx(truth.ended, rel=1e-6)
    if prefill:
        first = {number: job.first_token_s for number, job in bench.jobs.items()}
        assert first == pytest.approx(truth.first_s, rel=1e-6)


def test_a_sequence_alone_takes_its_prompt_and_its_steps() -> None:
    bench = Bench([0.01], 1)
    bench.submit_at(1.0, 1, 200, 51)
    assert bench.run() == {1: pytest.approx(1.0 + 0.2 + 50 * 0.01)}
    assert bench.jobs[1].first_token_s == pytest.approx(1.2)
    assert bench.runner.busy_s == pytest.approx(0.7)


def test_a_prefill_stops_the_whole_batch() -> None:
    bench = Bench([0.01], 2)
    bench.submit_at(0.0, 1, 0, 100)
    bench.submit_at(0.5, 2, 300, 11)
    assert bench.run() == {1: pytest.approx(1.0 + 0.3), 2: pytest.approx(0.5 + 0.3 + 0.1)}


def test_each_token_of_a_prompt_takes_longer_for_those_before_it() -> None:
    bench = Bench([0.01], 1)
    bench.runner.prefill_growth_s = 1e-6
    bench.submit_at(1.0, 1, 200, 1)
    bench.run()
    assert bench.jobs[1].first_token_s == pytest.approx(1.0 + 0.2 + 0.02)  # 200 x 200 / 2 pairs


def test_what_is_remembered_of_a_prompt_need_not_be_evaluated_but_is_attended_to() -> None:
    bench = Bench([0.01], 1)
    bench.runner.prefill_growth_s = 1e-6
    job = Job("m", 200, 1, lambda job, error: None)
    assert bench.runner._prompt_s(job, 50) == pytest.approx(0.05 + 50 * 175 * 1e-6)


def test_a_fuller_batch_is_slower_for_everyone() -> None:
    bench = Bench([0.01, 0.015], 2)
    bench.submit_at(0.0, 1, 0, 100)
    bench.submit_at(0.0, 2, 0, 100)
    assert bench.run() == {1: pytest.approx(1.5), 2: pytest.approx(1.5)}


def test_more_than_the_slots_wait_in_order_and_without_bound() -> None:
    bench = Bench([0.01], 1)
    for number in range(1000):
        bench.submit_at(0.0, number, 0, 10)
    ended = bench.run()
    assert list(ended) == list(range(1000))
    assert ended[999] == pytest.approx(100.0)


@pytest.mark.parametrize("prompt", [0, 400])
@pytest.mark.parametrize("pause_s", [0.1, 0.3, 0.55])
def test_a_pause_moves_everything_by_its_length(prompt: int, pause_s: float) -> None:
    def run(stood_s: float) -> dict[int, float]:
        bench = Bench([0.01, 0.012], 2)
        bench.submit_at(0.0, 1, prompt, 60)
        bench.submit_at(0.05, 2, 0, 70)
        if stood_s:
            bench.engine.call_at(pause_s, bench.runner.pause)
            bench.engine.call_at(pause_s + stood_s, bench.runner.resume)
        return bench.run()

    before, after = run(0.0), run(30.0)
    assert after == {number: pytest.approx(end_s + 30.0) for number, end_s in before.items()}


def test_what_comes_during_a_pause_begins_at_its_end() -> None:
    bench = Bench([0.01], 4)
    bench.engine.call_at(1.0, bench.runner.pause)
    bench.submit_at(50.0, 1, 300, 11)
    bench.engine.call_at(61.0, bench.runner.resume)
    assert bench.run() == {1: pytest.approx(61.0 + 0.3 + 0.1)}
    assert bench.jobs[1].first_token_s == pytest.approx(61.3)


def test_a_client_that_leaves_frees_its_slot_and_speeds_up_the_others() -> None:
    bench = Bench([0.01, 0.02], 2)
    bench.submit_at(0.0, 1, 0, 100)
    bench.submit_at(0.0, 2, 0, 100)
    bench.submit_at(0.0, 3, 0, 10)
    bench.engine.call_at(1.0, lambda: bench.runner.cancel(bench.jobs[2]))
    # 50 tokens each by 1.0; then 1 and 3 share to 1.2; then 1 is alone for its last 40.
    assert bench.run() == {3: pytest.approx(1.2), 1: pytest.approx(1.6)}


def test_a_client_that_leaves_a_paused_runner_is_noticed_when_it_goes_on() -> None:
    bench = Bench([0.01], 1)
    bench.submit_at(0.0, 1, 0, 100)
    bench.submit_at(0.0, 2, 0, 100)
    bench.engine.call_at(0.5, bench.runner.pause)

    def leave() -> None:
        bench.jobs[1].abandoned = True
        bench.runner.cancel(bench.jobs[1])
        assert bench.runner.count == 1

    bench.engine.call_at(1.0, leave)
    bench.engine.call_at(2.0, bench.runner.resume)
    assert bench.run() == {2: pytest.approx(3.0)}


def test_a_killed_runner_gives_its_jobs_back_with_the_tokens_they_have() -> None:
    bench = Bench([0.01, 0.02], 2)
    bench.submit_at(0.0, 1, 0, 100)
    bench.submit_at(0.5, 2, 0, 100)
    bench.submit_at(0.6, 3, 0, 100)
    found: dict[int, int] = {}

    def kill() -> None:
        killed = bench.runner.kill()
        found.update({number: job.tokens for number, job in bench.jobs.items() if job in killed})

    bench.engine.call_at(1.0, kill)
    assert bench.run() == {}
    assert found == {1: 75, 2: 25, 3: 0}


def test_a_slowdown_counts_from_when_it_comes() -> None:
    bench = Bench([0.01], 1)
    bench.submit_at(0.0, 1, 0, 100)
    bench.engine.call_at(0.5, lambda: bench.runner.set_slowdown(3.0))
    assert bench.run() == {1: pytest.approx(0.5 + 1.5)}


def test_it_says_when_it_gets_idle() -> None:
    bench = Bench([0.01], 1)
    bench.submit_at(0.0, 1, 0, 10)
    bench.submit_at(5.0, 2, 0, 10)
    bench.run()
    assert bench.idle_s == pytest.approx([0.1, 5.1])
    assert math.isclose(bench.runner.idle_since_s, 5.1)
