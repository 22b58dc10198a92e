"""Processes that the rig answers for, and what it does about those that a killed rig has left."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from live.rig.machine import Cgroup, cgroup_support
from live.rig.processes import (
    Ledger,
    ManagedProcess,
    ProcessFailed,
    end_leftovers,
    free_port,
    is_running,
    marked_processes,
    plain_environment,
)

# A web server that has started a child of its own, as Ollama starts its runners.
SERVER = """
import http.server, signal, subprocess, sys
subprocess.Popen(["sleep", "60"])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
Serve = Callable[..., tuple[ManagedProcess, str]]


@pytest.fixture
def serve(ledger: Ledger, tmp_path: Path) -> Serve:
    def make(*arguments: str, code: str = SERVER) -> tuple[ManagedProcess, str]:
        port = free_port()
        process = ManagedProcess(
            "server",
            [sys.executable, "-c", code, str(port), *arguments],
            ledger=ledger,
            log=tmp_path / "server.log",
            environment=plain_environment(),
        )
        return process, f"http://127.0.0.1:{port}/"

    return make


async def test_a_started_process_answers_and_a_stopped_one_leaves_no_child(serve: Serve) -> None:
    process, address = serve()
    await process.start(address, 10)
    (child,) = process.children()
    assert process.is_alive()
    await process.stop()
    assert not process.is_alive()
    assert not is_running(child)


async def test_a_process_that_does_not_listen_to_sigterm_is_killed(serve: Serve) -> None:
    process, address = serve("deaf")
    await process.start(address, 10)
    (child,) = process.children()
    await process.stop(grace_s=0.2)
    assert not process.is_alive()
    assert not is_running(child)


async def test_stop_also_ends_the_orphans_of_a_process_that_died_by_itself(serve: Serve) -> None:
    process, address = serve()
    await process.start(address, 10)
    (child,) = process.children()
    process.send(signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert is_running(child)
    await process.stop()
    assert not is_running(child)


async def test_a_process_that_ends_while_starting_is_an_error_with_its_last_line(serve: Serve) -> None:
    process, address = serve(code="raise SystemExit('the disk is full')")
    with pytest.raises(ProcessFailed, match=r"ended while starting: the disk is full; see .*server.log"):
        await process.start(address, 10)


async def test_a_process_that_never_answers_is_an_error_and_is_not_left_running(serve: Serve, ledger: Ledger) -> None:
    process, address = serve(code="import time; time.sleep(60)")
    with pytest.raises(ProcessFailed, match=r"did not answer at http.* within 0.3 s"):
        await process.start(address, 0.3)
    assert marked_processes(ledger.token) == []


async def test_a_port_in_use_is_an_error_that_names_it(serve: Serve) -> None:
    first, address = serve()
    await first.start(address, 10)
    second, _ = serve()
    with pytest.raises(ProcessFailed, match=r"port \d+ on 127.0.0.1 is in use"):
        await second.start(address, 10)
    await first.stop()


def test_free_ports_differ_and_are_below_those_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32768


# A rig that starts one process, says who it is, and then waits to be killed.
RIG = """
import asyncio, sys, time
from pathlib import Path
from live.rig.machine import Cgroup
from live.rig.processes import Ledger, ManagedProcess, free_port, plain_environment
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
