"""Engines change nothing of a result, lose nothing when a process dies, and leave an interruption to who asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scenario.documents import document
from twin.errors import OperatorError
from twin.experiment.conduct import Asked, conduct, plan_of
from twin.experiment.engine_dask import DaskEngine
from twin.experiment.engines import Engine, EngineLost, LocalEngine
from twin.experiment.study import RESULTS

LIMIT_S = 60.0


def square(number: int) -> int:
    return number * number


def die_once(path: str) -> str:
    """The process that does this the first time is killed, as by a kernel that is short of memory."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return path
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def fail(number: int) -> int:
    raise ValueError(f"no {number}")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    crash = {"kind": "server_crash", "at_s": 3, "target": "random", "duration_s": 4}
    whole = document(faults=[crash], expect={"requests_lost": {"max": 0}}, workload__duration_s=15, replications=3)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path


def studied(small: Path, engine: Engine, out: Path) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """A small study: the bits of its results but for the time that they took, its points and its pairs."""
    plan = plan_of("compare", Asked(small, vary=["policy.preset=default,none"]))
    folder, study = conduct(plan, engine, out)
    lines = [json.loads(line) for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["wall_s"]
    return json.dumps(lines), study["points"], study["pairs"]


# -- this machine -----------------------------------------------------------------------------------------------------


def test_one_process_or_two_give_the_same_bits(small: Path, tmp_path: Path) -> None:
    assert studied(small, LocalEngine(2), tmp_path) == studied(small, LocalEngine(1), tmp_path)


def test_each_task_is_done_once() -> None:
    assert sorted(LocalEngine(2).results(square, range(40))) == [square(number) for number in range(40)]


def test_what_a_killed_process_was_doing_is_done_again(tmp_path: Path) -> None:
    tasks = [str(tmp_path / f"task-{number}") for number in range(3)]
    for task in tasks[:2]:
        Path(task).touch()
    assert sorted(LocalEngine(2).results(die_once, tasks)) == tasks


def test_where_every_process_is_killed_it_gives_up_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.experiment.engines.DEATHS_IN_A_ROW_MAX", 2)
    with pytest.raises(EngineLost, match="2 times in a row a process of this machine was killed"):
        list(LocalEngine(2).results(die, range(4)))


def test_an_exception_of_the_work_comes_out() -> None:
    with pytest.raises(ValueError, match="no "):
        list(LocalEngine(2).results(fail, range(4)))


def until(true: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < give_up_s, what
        time.sleep(0.02)


def lines_below(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"*/{RESULTS}"))


def sweep(small: Path, out: Path, *more: str, replications: int = 60) -> subprocess.Popen[str]:
    """The command line in a process group of its own, as a terminal would have it."""
    command = [sys.executable, "-m", "ollamamax", "sweep", str(small), "--vary", "policy.preset=default,none"]
    command += ["--replications", str(replications), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_ctrl_c_keeps_what_is_finished_says_how_to_go_on_and_exits_with_3(small: Path, tmp_path: Path) -> None:
    running = sweep(small, tmp_path, "--jobs", "2")
    until(lambda: lines_below(tmp_path) >= 3, "nothing was finished")
    os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to every process
    _, said = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 3, said
    lines = said.splitlines()
    assert len(lines) == 1, said
    finished = lines_below(tmp_path)
    folder = next(tmp_path.glob("small-sweep-*"))
    assert lines[0].startswith(f"ollamamax: interrupted after {finished} of 120 runs; go on with: ")
    assert lines[0].endswith(f"--resume {folder}")
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert (study["complete"], sum(point["n"] for point in study["points"])) == (False, finished)
    rest = plan_of("sweep", Asked(small, resume=folder, replications=finished // 2 + 2))
    assert conduct(rest, LocalEngine(1), tmp_path, resume=folder)[1]["complete"] is True


# -- a Dask cluster ---------------------------------------------------------------------------------------------------


class DaskCluster:
    """A real scheduler and real workers, each a process."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        where = folder / "scheduler.json"
        self.scheduler = self._start("dask_scheduler", "--scheduler-file", str(where), "--port", "0")
        until(where.exists, "the scheduler does not start")
        self.address: str = json.loads(where.read_text(encoding="utf-8"))["address"]
        self.workers = [self.add_worker() for _ in range(workers)]

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{what}", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}  # the tests' own functions
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder
        )

    def add_worker(self) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", self.address, "--no-nanny", "--nthreads", "1", "--local-directory", ".")

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    folder = tmp_path / "dask"
    folder.mkdir()
    it = DaskCluster(folder, workers=2)
    yield it
    it.end()


@pytest.mark.long
def test_a_dask_cluster_of_its_own_gives_the_same_bits(small: Path, tmp_path: Path) -> None:
    local = studied(small, LocalEngine(1), tmp_path)
    assert studied(small, DaskEngine(None, jobs=2), tmp_path) == local


def test_a_killed_dask_worker_loses_nothing(small: Path, tmp_path: Path, cluster: DaskCluster) -> None:
    running = sweep(small, tmp_path, "--engine", "dask", "--scheduler", cluster.address, replications=15)
    until(lambda: lines_below(tmp_path) >= 4, "nothing was finished")
    cluster.workers[0].kill()
    said = running.communicate(timeout=LIMIT_S)[1]
    assert (running.returncode, said) == (0, "")
    folder = next(tmp_path.glob("small-sweep-*"))
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert [point["n"] for point in study["points"]] == [15, 15]
    local = plan_of("sweep", Asked(small, vary=["policy.preset=default,none"], replications=15))
    assert study["points"] == conduct(local, LocalEngine(1), tmp_path)[1]["points"]


def test_a_killed_dask_scheduler_ends_a_study_that_can_be_resumed(
    small: Path, tmp_path: Path, cluster: DaskCluster
) -> None:
    running = sweep(small, tmp_path, "--engine", "dask", "--scheduler", cluster.address)
    until(lambda: lines_below(tmp_path) >= 4, "nothing was finished")
    cluster.scheduler.kill()
    said = running.communicate(timeout=LIMIT_S)[1]
    assert running.returncode == 3, said
    finished = lines_below(tmp_path)
    assert said.startswith(f"ollamamax: the Dask scheduler is gone ({finished} of 120 runs are finished); go on with: ")
    assert len(said.splitlines()) == 1, said
    folder = next(tmp_path.glob("small-sweep-*"))
    plan = plan_of("sweep", Asked(small, resume=folder, replications=finished // 2 + 3))
    assert conduct(plan, LocalEngine(1), tmp_path, resume=folder)[1]["complete"] is True


def test_a_scheduler_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.experiment.engine_dask.CONNECT_S", 0.5)
    with pytest.raises(OperatorError, match=r"--scheduler tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        list(DaskEngine("tcp://127.0.0.1:9").results(square, [1, 2]))
    with pytest.raises(OperatorError, match=r"--scheduler nonsense://x"):
        list(DaskEngine("nonsense://x").results(square, [1, 2]))
