"""Replay of what the simulator recorded, through the real policy."""

from __future__ import annotations

from pathlib import Path

from twin.experiment.replay import replay
from twin.experiment.twin_world import TwinWorld
from twin.policy.cluster_policy import ClusterPolicy
from twin.record.reader import open_run
from twin.scenario.schema import Scenario

SCENARIO = Scenario.model_validate(
    {
        "schema": 1,
        "name": "short-crash",
        "claim": "A run equals its replay.",
        "cluster": {"nodes": 3, "models": {"llama3.1:8b": {"replicas": 2}}, "slots_per_model": 2},
        "workload": {
            "arrivals": {"kind": "poisson", "rate_rps": 2.0},
            "prompt_tokens": {"kind": "constant", "mean": 100},
            "output_tokens": {"kind": "exponential", "mean": 80},
            "deadline_s": 30,
            "warmup_s": 5,
            "duration_s": 40,
        },
        "faults": [{"kind": "server_crash", "at_s": 15, "target": "node-0", "duration_s": 20}],
    }
)


def test_a_run_equals_its_replay_by_the_same_policy_and_differs_by_another(tmp_path: Path) -> None:
    TwinWorld().run(SCENARIO, 1, tmp_path / "run", lambda line: None)
    record = open_run(tmp_path / "run")
    spec = SCENARIO.cluster.spec()
    same = replay(record, ClusterPolicy(spec, SCENARIO.policy.parameters()))
    assert (same.differing, same.differences) == (0, [])
    assert same.compared > 80
    choice = SCENARIO.policy.model_copy(update={"preset": "none"})
    assert replay(record, ClusterPolicy(spec, choice.parameters())).differing > 0
