"""The ledger of what a rig has started and changed, and the end of what a killed rig has left behind.

Whatever a rig starts or changes it first writes into its ledger, a file outside the run. A rig that is killed leaves
its ledger, and the next one ends what it names. The kernel's lock on the ledger says whether its owner still lives,
so rigs that run side by side leave each other alone.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from live.hands.process import DEATH_LIMIT_S, processes_with
from live.rig.components import cache_folder
from live.rig.machine import Cgroup, remove_cgroup, set_frozen

# Every process of a rig carries "<token of the ledger>:<name>" in this environment variable, and hands it on to
# what it starts: so an orphan is found even when the process that started it is gone.
MARK = "OLLAMAMAX_RIG"
RIG_FOLDER = "ollamamax-rig-"
"""What the working folder of a rig is called, before the token of its ledger."""
_TOKEN = re.compile(r"\d+-[0-9a-f]{12}")
# Create times are worked out from the boot time and differ by rounding between two readers.
SAME_CREATE_TIME_S = 1.0


class Ledger:
    """What one rig has started and changed and not yet put back: a JSON file that outlives the rig if it is killed."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or ledger_folder()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.token = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._path = self._folder / f"{self.token}.json"
        self._processes: dict[int, float] = {}
        self._cgroups: list[str] = []
        with _locked(self._folder / "lock"):
            self._owner_lock = (self._folder / f"{self.token}.lock").open("w")
            fcntl.flock(self._owner_lock, fcntl.LOCK_EX)
            self._write()

    def add_process(self, pid: int) -> None:
        """Notes a process with its create time; one that has already ended is not noted."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._processes[pid] = psutil.Process(pid).create_time()
            self._write()

    def remove_process(self, pid: int) -> None:
        """Strikes out a process that has ended."""
        self._processes.pop(pid, None)
        self._write()

    def add_cgroup(self, cgroup: Cgroup) -> None:
        """Notes a cgroup; to be called before it is made."""
        self._cgroups += [str(folder) for folder in cgroup.folders.values()]
        self._write()

    def remove_cgroup(self, cgroup: Cgroup) -> None:
        """Strikes out a cgroup that has been removed."""
        gone = {str(folder) for folder in cgroup.folders.values()}
        self._cgroups = [folder for folder in self._cgroups if folder not in gone]
        self._write()

    @property
    def is_empty(self) -> bool:
        """Whether everything in it has been put back."""
        return not self._processes and not self._cgroups

    def close(self) -> None:
        """Removes the ledger if all in it was put back; otherwise it stays for the `end_leftovers` of the next rig."""
        with _locked(self._folder / "lock"):
            if self.is_empty:
                self._path.unlink(missing_ok=True)
                Path(self._owner_lock.name).unlink(missing_ok=True)
            self._owner_lock.close()

    def _write(self) -> None:
        record = {"processes": self._processes, "cgroups": self._cgroups}
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(record))
        draft.replace(self._path)


def ledger_folder() -> Path:
    """Where the rigs of this user keep their ledgers."""
    return cache_folder() / "rig"


def end_leftovers(folder: Path | None = None) -> list[str]:
    """Ends the processes and removes the cgroups that rigs which were killed have left; returns a line for each.

    Blocks, for seconds at worst: call it in a thread. A process is ended only if it carries the mark of a dead rig or
    its create time is the one noted. Rigs that live are left alone.
    """
    folder = folder or ledger_folder()
    if not folder.is_dir():
        return []
    ended: list[str] = []
    living: set[str] = set()
    dead: set[str] = set()
    with _locked(folder / "lock"):
        for lock_path in folder.glob("*-*.lock"):
            with lock_path.open("r") as owner_lock:
                try:
                    fcntl.flock(owner_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    living.add(lock_path.stem)
                    continue  # its owner lives
                dead.add(lock_path.stem)
                path = lock_path.with_suffix(".json")
                ended += _end_what_is_in(path)
                path.unlink(missing_ok=True)
                path.with_suffix(".draft").unlink(missing_ok=True)
                lock_path.unlink()
        ended += _remove_folders(living, dead)
    return ended


def _remove_folders(living: set[str], dead: set[str]) -> list[str]:
    """Remove the working folders of rigs whose owners are gone. A folder is named by the token of its ledger."""
    removed = []
    for path in Path(tempfile.gettempdir()).glob(f"{RIG_FOLDER}*"):
        token = path.name.removeprefix(RIG_FOLDER)
        if token in living or not _TOKEN.fullmatch(token):
            continue
        # One whose ledger is elsewhere lives as long as the process that it is named by.
        if token in dead or not psutil.pid_exists(int(token.partition("-")[0])):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(f"removed {path} of a rig that was killed")
    return removed


def _end_what_is_in(ledger: Path) -> list[str]:
    record = json.loads(ledger.read_text()) if ledger.exists() else {"processes": {}, "cgroups": []}
    victims = {process.pid: process for process in marked_processes(ledger.stem)}
    for pid, created_s in record["processes"].items():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if abs(process.create_time() - created_s) < SAME_CREATE_TIME_S:
                victims[process.pid] = process
    cgroups = [Path(path) for path in record["cgroups"]]
    for cgroup in cgroups:
        set_frozen(cgroup, frozen=False)  # what is frozen cannot die
    ended = []
    for process in victims.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            ended.append(f"ended process {process.pid} ({process.name()}) of a rig that was killed")
            process.kill()
    psutil.wait_procs(list(victims.values()), timeout=DEATH_LIMIT_S)
    for cgroup in cgroups:
        if cgroup.exists():
            remove_cgroup(cgroup)
            ended.append(f"removed cgroup {cgroup} of a rig that was killed")
    return ended


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def marked_processes(token: str) -> list[psutil.Process]:
    """The living processes with the mark of a ledger."""
    return processes_with(MARK, f"{token}:", prefix=True)
