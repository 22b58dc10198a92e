"""What the slots of a runner remember of the conversations that they served."""

from __future__ import annotations

from functools import partial

from tests.sim.worlds import HARDWARE
from twin.sim.engine import Engine
from twin.sim.node import ModelOnNode, OllamaNode
from twin.sim.prefixes import SlotPrefixes
from twin.sim.runner import Job


def test_a_slot_gives_back_what_the_prompt_repeats_and_no_more_than_it_holds() -> None:
    prefixes = SlotPrefixes()
    assert prefixes.take(7, 0, free=1) == 0
    prefixes.give(7, 150)
    assert prefixes.take(7, 120, free=1) == 120
    prefixes.give(7, 300)
    assert prefixes.take(7, 900, free=1) == 300
    assert prefixes.reused_tokens == 420


def test_the_least_recently_used_slot_is_lost_once_no_slot_is_unused() -> None:
    prefixes = SlotPrefixes()
    for session in (1, 2):
        prefixes.take(session, 0, free=3)
        prefixes.give(session, 100)
    prefixes.take(0, 0, free=3)  # the third slot was never used
    prefixes.give(0, 50)
    assert prefixes.take(1, 100, free=3) == 100
    prefixes.give(1, 100)
    prefixes.take(3, 0, free=3)  # of 2, a stranger's and 1, session 2 was used longest ago
    prefixes.give(3, 100)
    assert prefixes.take(2, 100, free=3) == 0
    prefixes.give(2, 100)
    assert prefixes.take(1, 100, free=3) == 100


class PrefixBench:
    """One node that takes 10 ms a prompt token and 10 ms a step."""

    def __init__(self, slots: int = 1) -> None:
        self.engine = Engine()
        hardware = HARDWARE.model_copy(update={"prefill_tokens_per_s": 100.0})
        models = {"a": ModelOnNode("a", 4.0, 5.0, 4096)}
        self.node = OllamaNode(self.engine, "node-0", hardware, models, slots, 512, None)
        self.node.remembers_prefixes = True
        self.node.add_runner("a")
        self.first_token_s: dict[str, float] = {}
        self.jobs: dict[str, Job] = {}

    def ask(self, at_s: float, name: str, prompt: int, session: int, shared: int, output: int = 10) -> None:
        def submit() -> None:
            job = self.jobs[name] = Job("a", prompt, output, partial(self._end, name), None, 0, 0, session, shared)
            self.node.submit(job)

        self.engine.call_at(at_s, submit)

    def _end(self, name: str, job: Job, error: str) -> None:
        assert not error
        self.first_token_s[name] = round(job.first_token_s - job.joined_s, 6)

    def at(self, at_s: float, what: object) -> None:
        self.engine.call_at(at_s, what)  # type: ignore[arg-type]

    def run(self) -> dict[str, float]:
        self.engine.run_calls()
        return self.first_token_s


def test_the_next_turn_at_the_same_node_evaluates_only_what_is_new() -> None:
    bench = PrefixBench()
    bench.ask(0, "first", 100, session=1, shared=0)
    bench.ask(10, "second", 160, session=1, shared=110)
    assert bench.run() == {"first": 1.0, "second": 0.5}


def test_a_stranger_in_the_only_slot_costs_the_conversation_its_prefix() -> None:
    bench = PrefixBench()
    bench.ask(0, "first", 100, session=1, shared=0)
    bench.ask(5, "stranger", 20, session=0, shared=0)
    bench.ask(10, "second", 160, session=1, shared=110)
    assert bench.run()["second"] == 1.6
    bench = PrefixBench(slots=2)
    bench.ask(0, "first", 100, session=1, shared=0)
    bench.ask(5, "stranger", 20, session=0, shared=0)
    bench.ask(10, "second", 160, session=1, shared=110)
    assert bench.run()["second"] == 0.5


def test_a_new_runner_remembers_nothing() -> None:
    bench = PrefixBench()
    bench.ask(0, "first", 100, session=1, shared=0)
    bench.at(5, bench.node.kill_runner)
    bench.ask(10, "second", 160, session=1, shared=110)
    assert bench.run()["second"] == 1.6


def test_a_turn_that_was_cancelled_leaves_what_it_had_evaluated() -> None:
    bench = PrefixBench()
    bench.ask(0, "first", 100, session=1, shared=0, output=1000)
    bench.at(2, lambda: bench.node.cancel(bench.jobs["first"]))
    bench.ask(10, "again", 100, session=1, shared=99)
    assert bench.run() == {"again": 0.01}
