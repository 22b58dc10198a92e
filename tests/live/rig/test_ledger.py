"""What a killed rig has left is ended by the next one, and nothing else is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from live.hands.process import is_running
from live.rig.ledger import RIG_FOLDER, Ledger, end_leftovers, marked_processes
from live.rig.machine import Cgroup, cgroup_support
from live.rig.random_drills import KINDS
from twin.scenario.faults import FAULT_KINDS

# A web server that has started a child of its own, as Ollama starts its runners.
SERVER = """
import http.server, subprocess, sys
subprocess.Popen(["sleep", "60"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""

# A rig that starts one process, says who it is, and then waits to be killed.
RIG = """
import asyncio, sys, time
from pathlib import Path
from live.rig.machine import Cgroup
from live.rig.ledger import Ledger
from live.rig.processes import ManagedProcess, free_port, plain_environment
folder, code = Path(sys.argv[1]), sys.argv[2]
ledger = Ledger(folder)
cgroup = Cgroup.plan(f"{ledger.token}-left")
ledger.add_cgroup(cgroup)
cgroup.create()
port = free_port()
process = ManagedProcess("server", [sys.executable, "-c", code, str(port)], ledger=ledger,
                         log=folder / "server.log", environment=plain_environment(), cgroup=cgroup)
asyncio.run(process.start(f"http://127.0.0.1:{port}/", 10))
if "freezer" in cgroup.folders:
    cgroup.freeze()
print(ledger.token, flush=True)
time.sleep(60)
"""


def start_rig(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    rig = subprocess.Popen([sys.executable, "-c", RIG, str(folder), SERVER], stdout=subprocess.PIPE, text=True)
    assert rig.stdout is not None
    return rig, rig.stdout.readline().strip()


def kill(rig: "subprocess.Popen[str]") -> None:
    rig.kill()
    rig.communicate()


def test_what_a_killed_rig_left_is_ended_by_the_next(tmp_path: Path) -> None:
    rig, token = start_rig(tmp_path)
    kill(rig)
    left = marked_processes(token)
    assert len(left) == 2, "the server and its child, still running"
    ended = end_leftovers(tmp_path)
    assert marked_processes(token) == []
    assert not any(is_running(process) for process in left)
    assert len(ended) == 2 + len(cgroup_support().parents)
    assert not any((parent / f"ollamamax-{token}-left").exists() for parent in cgroup_support().parents.values())
    assert end_leftovers(tmp_path) == [], "a second time there is nothing to do"


def test_a_rig_that_lives_is_left_alone(tmp_path: Path) -> None:
    rig, token = start_rig(tmp_path)
    try:
        assert end_leftovers(tmp_path) == []
        assert len(marked_processes(token)) == 2
    finally:
        kill(rig)
        end_leftovers(tmp_path)


def test_a_process_that_took_over_the_number_of_an_ended_one_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        rig_left = '{"processes": {"%d": %f}, "cgroups": []}' % (stranger.pid, psutil.boot_time())  # noqa: UP031
        (tmp_path / "1-dead.json").write_text(rig_left)
        (tmp_path / "1-dead.lock").touch()
        assert end_leftovers(tmp_path) == []
        assert stranger.poll() is None
        stranger.kill()


def test_a_closed_ledger_leaves_no_file(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_ledger_with_something_in_it_stays_for_the_next_rig(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add_cgroup(Cgroup(1, {"cpu": tmp_path / "gone"}))
    ledger.add_process(os.getpid())
    ledger.remove_process(os.getpid())
    ledger.close()
    assert (tmp_path / f"{ledger.token}.json").exists()
    assert end_leftovers(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_working_folder_of_a_rig_that_is_gone_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as ended:
        pass
    gone = tmp_path / f"{RIG_FOLDER}{ended.pid}-0123456789ab"
    elsewhere = tmp_path / f"{RIG_FOLDER}{os.getpid()}-0123456789ab"  # its ledger is in another folder
    strange = tmp_path / f"{RIG_FOLDER}of-somebody"
    for folder in (gone, elsewhere, strange):
        folder.mkdir()
    ledger = Ledger(tmp_path / "ledgers")
    own = tmp_path / f"{RIG_FOLDER}{ledger.token}"
    own.mkdir()
    assert end_leftovers(tmp_path / "ledgers") == [f"removed {gone} of a rig that was killed"]
    assert [folder.exists() for folder in (elsewhere, strange, own)] == [True, True, True]
    ledger.close()


def test_the_catalogue_says_how_a_machine_does_what_the_rig_can_do() -> None:
    for kind, fault in FAULT_KINDS.items():
        if kind in KINDS:
            assert fault.about.live, f"{kind} is drilled at random, but its file does not say how"
    assert not FAULT_KINDS["scheduler_deadlock"].about.live, "no signal deadlocks the scheduler of a real node"
