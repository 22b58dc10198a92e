"""Pinning and cgroups, on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from live.rig.errors import RigError
from live.rig.machine import Cgroup, NotPermitted, cgroup_support, pin, pinned_thread, usable_cores

BUSY = "while True: pass"
BUSY_WITH_THREAD_AND_CHILD = """
import subprocess, sys, threading, time
subprocess.Popen(["sleep", "60"])
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    if cgroup_support().refused:
        pytest.skip(cgroup_support().refused)
    cgroup = Cgroup.plan(f"test-{os.getpid()}")
    cgroup.create()
    yield cgroup
    cgroup.remove()
    assert not any(folder.exists() for folder in cgroup.folders.values())


def cpu_share(process: psutil.Process, over_s: float) -> float:
    def used_s() -> float:
        times = process.cpu_times()
        return times.user + times.system

    before_s, started_s = used_s(), time.monotonic()
    time.sleep(over_s)
    return (used_s() - before_s) / (time.monotonic() - started_s)


@pytest.mark.skipif(not usable_cores(), reason="this system cannot pin")
def test_pin_reaches_every_thread_and_child() -> None:
    core = usable_cores()[-1]
    command = [sys.executable, "-c", BUSY_WITH_THREAD_AND_CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        assert len(family) == 2
        pin(process.pid, [core])
        for member in family:
            for thread in Path(f"/proc/{member.pid}/task").iterdir():
                assert os.sched_getaffinity(int(thread.name)) == {core}
        for member in family:
            member.kill()


@pytest.mark.skipif(not usable_cores(), reason="this system cannot pin")
def test_a_process_started_in_a_pinned_thread_is_born_pinned_and_the_thread_is_put_back() -> None:
    core, before = usable_cores()[0], os.sched_getaffinity(0)
    with pinned_thread([core]):
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert shown.stdout.split() == [str(core)]
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not usable_cores(), reason="this system cannot pin")
def test_a_core_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(NotPermitted, match=r"cores \[9999\] are not all usable here; choose from \["):
        pin(os.getpid(), [9999])


def test_a_quota_slows_a_process_and_clearing_it_gives_the_core_back(cgroup: Cgroup) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        cgroup.add(process.pid)
        cgroup.set_cpu_quota(0.2)
        assert cpu_share(psutil.Process(process.pid), 1.0) < 0.3
        cgroup.clear_cpu_quota()
        assert cpu_share(psutil.Process(process.pid), 0.5) > 0.3
        process.kill()


def test_a_quota_below_a_tenth_of_a_core_is_possible(cgroup: Cgroup) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        cgroup.add(process.pid)
        cgroup.set_cpu_quota(0.02)
        assert cpu_share(psutil.Process(process.pid), 1.0) < 0.08
        process.kill()


def test_a_quota_of_nothing_is_refused(cgroup: Cgroup) -> None:
    with pytest.raises(RigError, match="use freeze"):
        cgroup.set_cpu_quota(0)


def test_a_frozen_process_stands_still_until_thawed(cgroup: Cgroup) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        cgroup.add(process.pid)
        cgroup.freeze()
        assert cpu_share(psutil.Process(process.pid), 0.2) < 0.1
        cgroup.thaw()
        assert cpu_share(psutil.Process(process.pid), 0.2) > 0.1
        process.kill()


def test_a_process_over_its_memory_limit_is_killed_by_the_kernel(cgroup: Cgroup) -> None:
    code = "import sys; sys.stdin.readline(); kept = bytearray(200_000_000)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        cgroup.add(process.pid)
        cgroup.set_memory_limit(50_000_000)
        process.communicate(b"\n", timeout=10)
    assert process.returncode == -9


def test_what_is_not_permitted_is_said_in_one_line() -> None:
    support = cgroup_support()
    assert bool(support.refused) == (len(support.parents) < 3)
    nothing = Cgroup(0, {})
    nothing.create()
    nothing.add(os.getpid())
    with pytest.raises(NotPermitted):
        nothing.freeze()
    nothing.remove()


def test_a_cgroup_with_a_process_in_it_cannot_be_removed_and_says_so() -> None:
    if cgroup_support().refused:
        pytest.skip(cgroup_support().refused)
    cgroup = Cgroup.plan(f"test-full-{os.getpid()}")
    cgroup.create()
    with subprocess.Popen(["sleep", "60"]) as process:
        cgroup.add(process.pid)
        with pytest.raises(RigError, match="cannot be removed"):
            cgroup.remove()
        process.kill()
    cgroup.remove()
