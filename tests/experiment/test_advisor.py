"""Looking ahead: the remedies simulated from the state that the cluster is in, before a node is disturbed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.experiment.test_what_if import cluster, state_at
from twin.experiment import advisor
from twin.experiment.advisor import answer, candidate_of
from twin.experiment.replay import replay
from twin.experiment.twin_world import TwinWorld
from twin.policy.vocabulary import Question
from twin.scenario.loader import load

DEADLOCK = Path("scenarios/scheduler-deadlock.yaml")
STUCK = {"kind": "scheduler_deadlock", "at_s": 20, "target": "node-0"}


def question(*options: str) -> Question:
    return Question(3, "node-0", options, 60.0, 1.0)


def test_each_option_that_can_be_simulated_gets_the_requests_that_it_loses() -> None:
    it = cluster(faults=[STUCK])
    advice = answer(it, state_at(it, 30.0), question("restart", "kill_runner", "nothing"), seed=7)
    assert advice.status == "done"
    assert set(advice.lost) == {"restart", "nothing"}


def test_a_restart_of_the_only_replica_under_load_loses_more_than_doing_nothing() -> None:
    tokens = {"kind": "constant", "mean": 60}
    it = cluster(
        cluster__models={"llama3.1:8b": {"replicas": 1}},
        cluster__nodes=1,
        workload__output_tokens=tokens,
        workload__deadline_s=4,
        workload__arrivals={"kind": "constant", "rate_rps": 1.1},
    )
    advice = answer(it, state_at(it, 30.0), question("restart", "nothing"), seed=7)
    assert advice.lost["restart"] > advice.lost["nothing"]


def test_who_needs_too_long_says_so() -> None:
    it = cluster()
    advice = answer(it, state_at(it, 30.0), question("restart", "nothing"), seed=7, limit_s=0.0)
    assert advice.status == "late"
    assert not advice.lost


@pytest.mark.parametrize("remedy", ["kill_runner", "reload", "free_memory"])
def test_what_cannot_be_simulated_is_left_out(remedy: str) -> None:
    assert candidate_of(remedy, "node-0") is None


def test_a_run_that_looks_ahead_says_what_it_saw_and_replays() -> None:
    scenario = load(DEADLOCK, ["policy.healer.look_ahead=true", "policy.healer.look_ahead_horizon_s=30"])
    record = TwinWorld().run(scenario, 3, None, lambda line: None)
    (restart,) = (it for it in record.table("actions").to_pylist() if it["kind"] == "restart")
    assert "looking ahead, requests lost: nothing 0, restart 0" in restart["reason"]
    assert replay(record, TwinWorld().policy(scenario)).same


@pytest.mark.parametrize(
    ("limit_s", "status", "simulated"),
    [
        (1.5, "late", []),
        (2.5, "done", ["restart", "nothing"]),
        (3.5, "done", ["restart", "nothing", "rest"]),
    ],
)
def test_what_was_chosen_and_doing_nothing_come_first_and_the_rest_where_there_is_time(
    monkeypatch: pytest.MonkeyPatch, limit_s: float, status: str, simulated: list[str]
) -> None:
    it = cluster()
    clock_s = 0.0

    def takes_a_second(*_: object) -> list[Any]:
        nonlocal clock_s
        clock_s += 1.0
        return [SimpleNamespace(figures={"requests_lost": 1, "requests_rejected": 0})]

    monkeypatch.setattr(advisor, "look_ahead", takes_a_second)
    monkeypatch.setattr(advisor, "time", SimpleNamespace(perf_counter=lambda: clock_s))
    advice = answer(it, state_at(it, 30.0), question("restart", "rest", "nothing"), seed=7, limit_s=limit_s)
    assert (advice.status, list(advice.lost)) == (status, simulated)
    assert ("2 of 3 were simulated" in advice.detail) is (limit_s == 2.5)
