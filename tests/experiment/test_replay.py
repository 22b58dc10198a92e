from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.record.runs import Run, manifest
from twin.experiment.replay import replay
from twin.policy.vocabulary import (
    ActionResult,
    AttemptEnded,
    Command,
    Incident,
    Observation,
    PolicyState,
    Probe,
    RequestId,
    RequestSpec,
    Route,
)
from twin.record.journal import JournalingPolicy
from twin.record.reader import RunRecord, RunUnreadable
from twin.record.writer import Recorder


class InTurn:
    """Sends requests to its nodes in turn, and leaves out those that have failed `patience` times."""

    def __init__(self, patience: int = 1) -> None:
        self.waiting = 0
        self.incidents: list[Incident] = []
        self.patience = patience
        self.failures = [0, 0, 0]
        self.turn = 0
        self.probes = 0

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        good = [node for node, failures in enumerate(self.failures) if failures < self.patience]
        self.turn += 1
        return Route("dispatch", f"node-{good[self.turn % len(good)]}")

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        return ()

    def observe(self, now: float, observation: Observation) -> None:
        if isinstance(observation, AttemptEnded) and observation.outcome == "failed":
            self.failures[int(observation.node[-1])] += 1

    def decide(self, now: float) -> Sequence[Command]:
        if max(self.failures) < self.patience:
            return ()
        self.probes += 1
        return [Probe(self.probes, "node-1", "generation", "m", 1.0)]

    def next_wakeup(self) -> float:
        return 0.0

    def snapshot(self) -> PolicyState:
        return PolicyState(0.0, {})


def recorded() -> RunRecord:
    """Six requests; the first one to node-1 fails."""
    recorder = Recorder(None)
    policy = JournalingPolicy(InTurn(), recorder)
    for number in range(6):
        now = float(number)
        route = policy.route(now, RequestSpec(number, "m", 10, True, now, now + 60.0), 0)
        failed = number == 0
        ended = AttemptEnded(
            number, 0, route.node, "m", "failed" if failed else "succeeded", "reset" if failed else "", now, now, 1
        )
        policy.observe(now + 0.5, ended)
        policy.released(now + 0.5)
        policy.decide(now + 0.5)
    policy.observe(7.0, ActionResult(1, "node-1", "restart", "done"))
    return recorder.close(manifest())


def test_the_same_policy_decides_the_same() -> None:
    result = replay(recorded(), InTurn())
    assert (result.same, result.compared, result.differing, result.differences) == (True, 18, 0, [])


def test_another_policy_is_told_apart_at_its_first_other_decision_in_words() -> None:
    result = replay(recorded(), InTurn(patience=2))
    first = result.differences[0]
    assert (first.sequence, first.time_s, first.call, first.now) == (3, 0.5, "decide", "nothing")
    assert str(first).startswith('0.500 s, call 3 (decide): was [{"probe":{"probe_id":1,"node":"node-1"')
    assert str(first).endswith("is now nothing")
    assert result.differences[1].call == "route of request 1, attempt 0"


def test_only_the_first_differences_are_kept_but_all_are_counted() -> None:
    result = replay(recorded(), InTurn(patience=2), shown=2)
    assert len(result.differences) == 2
    assert result.differing == len(replay(recorded(), InTurn(patience=2), shown=100).differences) > 2


def test_a_run_without_a_journal_cannot_be_replayed() -> None:
    with pytest.raises(RunUnreadable, match=r"has no journal, so it cannot be replayed; run the scenario again"):
        replay(Run().end(), InTurn())
