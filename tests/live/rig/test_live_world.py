"""Drills: the whole of the live world at once, short."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from itertools import chain, islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from live.rig.errors import RigError
from live.rig.injection import check_possible, not_real
from live.rig.ledger import RIG_FOLDER, ledger_folder
from live.rig.live_world import LiveWorld
from twin.experiment.run import Result, replay_run, run_scenario
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.loader import load

SHORT = [
    "cluster.nodes=3",
    "workload.warmup_s=2",
    "workload.duration_s=18",
    "faults.0.at_s=5",
    "steady_state.success_ratio.window_s=5",
    "steady_state.hold_s=3",
    "replications=1",
]


def drill(name: str, nodes: Any, out: Path, *changes: str) -> Result:
    scenario = load(Path(f"scenarios/{name}.yaml"), [*SHORT, *changes])
    return run_scenario(LiveWorld(nodes), scenario, out, lambda line: None)


def held(result: Result) -> dict[str, Any]:
    """The figures of a drill in which nothing was lost, the node was really repaired, and the record is sound."""
    summary, figures = result.summary, result.summary["figures"]
    assert summary["notes"] == []
    assert summary["verdict"] == "pass", summary["expectations"]
    assert not any(summary["invariants"].values()), summary["invariants"]
    assert figures["requests_lost"] == 0
    assert figures["requests_offered"] > 40
    folder = result.replications[0].record.folder
    assert folder is not None
    outcome = replay_run(folder)
    assert outcome.compared > 50
    assert outcome.same
    return dict(figures)


def served_since_fault(result: Result) -> int:
    served = result.replications[0].record.manifest["served_generations"]
    return max(node["since_its_fault"] or 0 for node in served.values())


@pytest.mark.real
def test_a_killed_emulated_node_is_found_restarted_and_serves_again(toxiproxy_server: Path, tmp_path: Path) -> None:
    result = drill("node-crash", "emulated", tmp_path, "faults.0.target=node-0")
    figures = held(result)
    assert figures["actions"]["restart"] == 1
    assert figures["incidents_healed"] == 1
    assert 0.0 < figures["ttd_s"] < 3.0
    assert 0.0 < figures["ttr_s"] < 12.0
    assert served_since_fault(result) > 0  # by its own log


@pytest.mark.real
def test_a_killed_real_node_is_found_restarted_and_serves_again(
    ollama: Path, toxiproxy_server: Path, tmp_path: Path
) -> None:
    result = drill("node-crash", "real", tmp_path, "faults.0.target=node-0")
    figures = held(result)
    assert figures["actions"]["restart"] == 1
    assert 0.0 < figures["ttr_s"] < 12.0
    assert served_since_fault(result) > 0


@pytest.mark.real
def test_a_real_runner_that_hangs_behind_green_endpoints_is_found_within_seconds(
    ollama: Path, toxiproxy_server: Path, tmp_path: Path
) -> None:
    result = drill("runner-hang", "real", tmp_path, "workload.duration_s=22", "faults.0.target=node-0")
    figures = held(result)
    assert figures["actions"]["restart"] == 1
    assert 0.0 < figures["ttd_s"] < 10.0
    assert served_since_fault(result) > 0


@pytest.mark.real
@pytest.mark.long
def test_a_partition_is_survived_without_a_restart(toxiproxy_server: Path, tmp_path: Path) -> None:
    result = drill("partition", "emulated", tmp_path, "faults.0.duration_s=8", "faults.0.target=node-0")
    figures = result.summary["figures"]
    assert figures["requests_lost"] == 0
    assert "restart" not in figures["actions"]
    assert not any(result.summary["invariants"].values())


@pytest.mark.real
@pytest.mark.long
def test_conditions_signs_and_pulls_of_emulated_nodes_are_done_recorded_and_put_back(
    toxiproxy_server: Path, tmp_path: Path
) -> None:
    damage = "{kind: damaged_model, at_s: 6, target: node-0, duration_s: 6}"
    disk = "{kind: disk_full, at_s: 10, target: node-1, lead_s: 4}"
    warmth = "{kind: thermal_throttle, at_s: 9, target: node-2, lead_s: 4, comes_to_nothing: true}"
    result = drill("node-crash", "emulated", tmp_path, f"faults=[{damage}, {disk}, {warmth}]", "faults.0.at_s=6")
    record = result.replications[0].record
    assert result.summary["figures"]["requests_lost"] == 0
    assert not any(result.summary["invariants"].values())
    faults = {row["kind"]: row for row in record.table("faults").to_pylist()}
    assert set(faults) == {"damaged_model", "disk_full"}
    assert "model_files_truncated" in faults["damaged_model"]["detail"]
    assert faults["damaged_model"]["ended_by"] == "schedule"
    assert faults["disk_full"]["detail"].endswith("no space left on device")
    signs = {row["kind"]: row["outcome"] for row in record.table("signs").to_pylist()}
    assert signs == {"disk_full": "failed", "thermal_throttle": "nothing"}
    refused = [row for row in record.table("probes").to_pylist() if row["error"] == "server_error"]
    assert {row["node"] for row in refused} == {"node-0"}, "its loads are refused"


def test_a_fault_that_no_signal_can_do_to_a_real_node_is_refused_before_the_run() -> None:
    scenario = load(Path("scenarios/scheduler-deadlock.yaml"))
    with pytest.raises(RigError, match=r"faults\[0\]: scheduler_deadlock cannot be done to real nodes; use --nodes"):
        check_possible(scenario, "real")
    check_possible(scenario, "emulated")
    scenario = load(Path("scenarios/scheduler-deadlock.yaml"), ["faults=[{kind: load_failure, at_s: 10}]"])
    with pytest.raises(RigError, match=r"faults\[0\]: load_failure cannot be done to real nodes; use --nodes"):
        check_possible(scenario, "real")
    check_possible(scenario, "emulated")


def test_the_catalogue_says_truly_what_can_be_done_to_real_nodes() -> None:
    for kind, fault in FAULT_KINDS.items():
        it = fault.model_construct(kind=kind, at_s=10.0)
        steps = list(chain(islice(it.onset(), 31), it.ending()))
        own_models = any(step.foreign is not None and step.foreign.own_models != "none" for step in steps)
        undoable = own_models or any(not_real(step) for step in steps)
        possible = it.about.part == "node" and not undoable and not it.about.twin_only
        assert bool(it.about.live) == possible, kind


# -- what happens when it does not go well ------------------------------------------------------------------------


def start_drill(out: Path) -> subprocess.Popen[str]:
    """A drill in a process of its own, under way."""
    command = [sys.executable, "-m", "ollamamax", "run", "scenarios/node-crash.yaml", "--world", "live"]
    command += ["--nodes", "emulated", "--out", str(out)]
    for change in (*SHORT, "workload.duration_s=60"):
        command += ["--set", change]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(r"\d+ of \d+ requests ended", line):
            return process
    raise AssertionError(f"the drill did not start: {process.communicate()}")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], limit_s: float = 10.0) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=limit_s)
    return not alive


@pytest.mark.real
def test_ctrl_c_in_a_drill_puts_everything_back(toxiproxy_server: Path, tmp_path: Path) -> None:
    process = start_drill(tmp_path)
    children = family(process)
    assert len(children) >= 4  # three nodes and a Toxiproxy
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3, (out, err)
    assert "Interrupted after 0 of 1 replications" in out
    assert "Traceback" not in err
    assert gone(children)


@pytest.mark.real
def test_a_second_ctrl_c_within_fifty_milliseconds_does_not_stop_the_putting_back(
    toxiproxy_server: Path, tmp_path: Path
) -> None:
    process = start_drill(tmp_path)
    children = family(process)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3, (out, err)
    assert "Traceback" not in err
    assert gone(children, limit_s=0.1), "the drill ended before its processes had"
    assert list(Path(tempfile.gettempdir()).glob(f"{RIG_FOLDER}{process.pid}-*")) == []


@pytest.mark.real
def test_a_toxiproxy_that_dies_breaks_the_drill_off_in_one_line(toxiproxy_server: Path, tmp_path: Path) -> None:
    process = start_drill(tmp_path)
    children = family(process)
    toxiproxy = next(child for child in children if "toxiproxy" in child.name() or "toxiproxy" in child.exe())
    toxiproxy.kill()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    lines = [line for line in err.splitlines() if line.startswith("ollamamax:")]
    assert len(lines) == 1
    assert "Toxiproxy" in lines[0]
    assert "Traceback" not in err
    assert gone(children)


@pytest.mark.real
@pytest.mark.long
def test_what_a_killed_drill_left_is_ended_by_the_next(toxiproxy_server: Path, tmp_path: Path) -> None:
    process = start_drill(tmp_path)
    children = family(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    time.sleep(0.1)
    assert any(child.is_running() for child in children)
    folders = list(Path(tempfile.gettempdir()).glob(f"{RIG_FOLDER}{process.pid}-*"))
    assert len(folders) == 1
    drill("node-crash", "emulated", tmp_path, "faults=[]", "workload.duration_s=5")
    assert gone(children)
    assert not folders[0].exists()
    assert list(ledger_folder().glob(f"{process.pid}-*")) == []


@pytest.mark.real
def test_a_drill_can_wait_for_the_midst_of_an_answer(toxiproxy_server: Path, tmp_path: Path) -> None:
    changes = ["faults.0.in_answer=true", "workload.arrivals.rate_rps=2", "live.rate_rps=2"]
    result = drill("runner-crash", "emulated", tmp_path, *changes)
    record = result.replications[0].record
    [struck] = record.table("faults").to_pylist()
    broken = [row for row in record.table("attempts").to_pylist() if row["node"] == struck["node"]]
    assert struck["injected_s"] > 4.99
    assert any(row["tokens"] > 0 and abs(row["end_s"] - struck["injected_s"]) < 0.5 for row in broken), broken
