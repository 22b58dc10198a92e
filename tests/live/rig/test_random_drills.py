"""Drills at random: the same seed gives the same drill, a leak is seen, and a short one leaves nothing."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from live.rig.random_drills import KINDS, NODES, Outcome, held, run_rounds, scenario_of


def test_a_seed_gives_the_same_faults_and_another_seed_others() -> None:
    assert scenario_of(3, "real").faults == scenario_of(3, "real").faults
    assert scenario_of(3, "real").faults != scenario_of(4, "real").faults
    kinds = {fault.about.kind for seed in range(40) for fault in scenario_of(seed, "real").faults}
    assert kinds == set(KINDS)
    assert {fault.target for seed in range(40) for fault in scenario_of(seed, "real").faults} == {
        f"node-{index}" for index in range(NODES)
    }


def test_what_is_left_open_is_seen(tmp_path: Path) -> None:
    before = held()
    child = subprocess.Popen(["sleep", "30"])
    with socket.socket() as opened, (tmp_path / "file").open("w"):
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        left = held().left_since(before)
    child.kill()
    child.wait()
    assert left == ["1 children", "1 sockets", "1 files"]
    assert held().left_since(before) == []


def test_memory_that_grows_after_the_first_rounds_is_seen() -> None:
    assert Outcome(memory_mib=[100.0, 180.0, 200.0]).growth_mib() is None
    assert Outcome(memory_mib=[100.0, 180.0, 200.0, 231.0]).growth_mib() == 31.0


@pytest.mark.real
@pytest.mark.long
def test_drills_at_random_lose_nothing_and_leave_nothing(toxiproxy_server: Path) -> None:
    outcome = run_rounds(0.6, "emulated", 1, load_s=24.0)
    assert outcome.rounds >= 2
    assert outcome.problems == []
