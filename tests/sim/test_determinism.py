"""Seed, scenario and version give the same record, bit for bit; a policy does not move the draws of the world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pyarrow.compute as pc
import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.experiment.replay import replay
from twin.experiment.twin_world import TwinWorld
from twin.policy.cluster_policy import ClusterPolicy
from twin.record.reader import record_digest
from twin.scenario.schema import Scenario

FAULTS = [
    {"kind": "server_crash", "at_s": 8, "target": "random", "duration_s": 15},
    {"kind": "runner_hang", "at_s": 25, "target": "random", "duration_s": 10},
]
ONE_RUN = """
import json, sys
from twin.experiment.twin_world import TwinWorld
from twin.record.reader import record_digest
from twin.scenario.schema import Scenario
record = TwinWorld().run(Scenario.model_validate(json.loads(sys.argv[1])), int(sys.argv[2]), None, lambda line: None)
print(record_digest(record))
"""


def broken(**changes: Any) -> Scenario:
    return scenario(**{"cluster__nodes": 3, "faults": FAULTS} | changes)


def digest_in_another_process(seed: int, hash_seed: int) -> str:
    document = json.dumps(broken().model_dump(mode="json", by_alias=True, exclude_unset=True))
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", ONE_RUN, document, str(seed)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_the_same_seed_gives_the_same_record_in_processes_with_other_hash_seeds() -> None:
    one, other = digest_in_another_process(7, 1), digest_in_another_process(7, 2)
    assert len(one) == 64
    assert one == other == record_digest(TwinWorld().run(broken(), 7, None, lambda line: None))


def test_another_seed_gives_another_record() -> None:
    digests = {record_digest(simulate(broken(), seed)[1]) for seed in range(1, 5)}
    assert len(digests) == 4


@pytest.mark.parametrize("preset", ["reactive", "none"])
def test_the_policy_does_not_change_what_arrives_nor_what_breaks(preset: str) -> None:
    def world(name: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        _, record = simulate(broken(policy={"preset": name}), 3)
        keys = ("request_id", "arrival_s", "model", "prompt_tokens", "output_tokens", "stream")
        arrived = sorted(tuple(row[key] for key in keys) for row in record.table("requests").to_pylist())
        struck = [(row["kind"], row["node"], row["injected_s"]) for row in record.table("faults").to_pylist()]
        return arrived, struck

    assert world(preset) == world("default")


@pytest.mark.parametrize("preset", ["none", "reactive", "default"])
def test_the_journal_replays_to_the_same_decisions(preset: str) -> None:
    it = broken(policy={"preset": preset})
    record = TwinWorld().run(it, 2, None, lambda line: None)
    again = replay(record, ClusterPolicy(it.cluster.spec(), it.policy.parameters()))
    assert (again.differing, again.differences) == (0, [])
    assert again.compared > 80


def test_the_checkers_find_nothing_in_a_run_with_faults() -> None:
    for preset in ("none", "reactive", "default"):
        world, _ = simulate(broken(policy={"preset": preset}), 4)
        assert {it.name: it.first for it in world.checkers if it.violations} == {}


def test_an_aborted_run_leaves_nothing_behind() -> None:
    it = broken(
        policy={"overrides": {"healer.enabled": False}},
        faults=[{"kind": "server_crash", "at_s": 5, "target": "all"}],
        abort_when={"success_ratio": {"below": 0.9, "window_s": 10}},
        workload__deadline_s=8,
    )
    world, record = simulate(it)
    assert world.aborted.startswith("at ")
    assert world.aborted.endswith("over 10 s, below 0.9")
    assert {check.name: check.first for check in world.checkers if check.violations} == {}
    outcomes = record.table("requests", ["outcome"])["outcome"].to_pylist()
    assert "cancelled" not in outcomes  # no client went away: what was under way is lost
    assert outcomes.count("failed") > 10
    assert world.waiting() == 0
    assert max(row["arrival_s"] for row in record.table("requests").to_pylist()) < 30


@pytest.mark.parametrize("keep_alive_s", [1.0, 1.5])
def test_a_model_that_was_let_go_is_no_hung_runner(keep_alive_s: float) -> None:
    # The token of a generation probe then takes a load: nobody may be restarted for that.
    it = scenario(cluster__keep_alive_s=keep_alive_s, workload__arrivals={"kind": "poisson", "rate_rps": 0.3})
    for seed in (1, 2, 3):
        _, record = simulate(it, seed)
        assert record.table("actions").filter(pc.equal(record.table("actions")["kind"], "restart")).num_rows == 0
