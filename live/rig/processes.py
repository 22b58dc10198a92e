"""Child processes that the rig answers for: started in a group of their own, ended with all that they started.

Whatever a rig starts or changes it first writes into its *ledger*, a file outside the run. A rig that is killed
leaves its ledger behind, and the next one ends what it names. The kernel's lock on the ledger says whether its owner
still lives, so rigs that run side by side leave each other alone.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from live.rig.components import cache_folder
from live.rig.errors import RigError, last_line
from live.rig.machine import Cgroup, pinned_thread, remove_cgroup, set_frozen

# Every process of a rig carries "<token of the ledger>:<name>" in this environment variable, and hands it on to
# what it starts: so an orphan is found even when the process that started it is gone.
MARK = "OLLAMAMAX_RIG"
# Below the range from which systems take the ports of outgoing connections (Linux 32768, macOS 49152): the port of a
# node that is down must still be free when it comes back.
PORTS = range(20_000, 32_000)
POLL_S = 0.02
DEATH_LIMIT_S = 10.0
# Create times are worked out from the boot time and differ by rounding between two readers.
SAME_CREATE_TIME_S = 1.0

_ports_given: set[int] = set()


class ProcessFailed(RigError):
    """A process of the rig did not start, or does not end; the message names its log."""


def free_port() -> int:
    """A free TCP port on loopback that no outgoing connection will take and this process has not given out before.

    Raises RigError where none is left.
    """
    for _ in range(1000):
        port = random.SystemRandom().choice(PORTS)
        if port not in _ports_given and _is_free(port):
            _ports_given.add(port)
            return port
    raise RigError(f"no free port among {PORTS.start} to {PORTS.stop} on 127.0.0.1; end what holds them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it, so that connections that ended a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def plain_environment() -> dict[str, str]:
    """What a child needs of this process's environment, and nothing that would change how it behaves."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8"}


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
    with _locked(folder / "lock"):
        for lock_path in folder.glob("*-*.lock"):
            with lock_path.open("r") as owner_lock:
                try:
                    fcntl.flock(owner_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its owner lives
                path = lock_path.with_suffix(".json")
                ended += _end_what_is_in(path)
                path.unlink(missing_ok=True)
                path.with_suffix(".draft").unlink(missing_ok=True)
                lock_path.unlink()
    return ended


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


def marked_processes(token: str, name: str | None = None) -> list[psutil.Process]:
    """The living processes with the mark of a ledger, of one name or of all. Reads every process: milliseconds."""
    wanted = f"{token}:" if name is None else f"{token}:{name}"
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
            if (mark == wanted or (name is None and mark.startswith(wanted))) and is_running(process):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return found


def is_running(process: psutil.Process) -> bool:
    """Whether a process is there and not merely waiting for its parent to read its exit status."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


class ManagedProcess:
    """A server that the rig starts, ends and answers for, together with every process that it starts.

    `log` takes its output and is appended to over restarts. All waiting is asynchronous.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ledger: Ledger,
        log: Path,
        environment: Mapping[str, str],
        cores: Sequence[int] | None = None,
        cgroup: Cgroup | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._ledger = ledger
        self._environment = {**environment, MARK: f"{ledger.token}:{name}"}
        self._cores = cores
        self._cgroup = cgroup
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the server. Raises ProcessFailed while it is not running."""
        if self._process is None or self._process.poll() is not None:
            raise ProcessFailed(f"{self.name} is not running; start it first, or see {self.log}")
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the server process runs; a stopped or hung one counts as running."""
        return self._process is not None and self._process.poll() is None

    async def start(self, answers_at: str, limit_s: float) -> None:
        """Starts it and waits until an HTTP GET of `answers_at` gets any answer.

        Raises ProcessFailed when it ends before that or needs more than `limit_s`; then nothing of it is left.
        """
        if self.is_alive():
            raise ProcessFailed(f"{self.name} is already running as process {self.pid}; stop it first")
        port = urlsplit(answers_at).port
        if port is not None and not _is_free(port):
            # Otherwise whoever has the port would answer in its place.
            raise ProcessFailed(f"{self.name} cannot start: port {port} on 127.0.0.1 is in use; choose another port")
        try:
            self._spawn()  # milliseconds, and nothing can be cancelled halfway
            await self._wait_until_answers(answers_at, limit_s)
        except BaseException:
            await asyncio.shield(self.kill())
            raise

    def _spawn(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output, pinned_thread(self._cores):
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessFailed(f"{self.name}: {self._command[0]} cannot be started: {error.strerror}") from error
        # Should the rig be killed right here, the mark in its environment still gives the process away.
        self._ledger.add_process(self._process.pid)
        if self._cgroup is not None:
            self._cgroup.add(self._process.pid)

    async def _wait_until_answers(self, address: str, limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        # trust_env is off by default: a proxy of the operator's is not for loopback.
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=limit_s)) as client:
            while time.monotonic() < deadline_s:
                if not self.is_alive():
                    reason = last_line(self.log.read_text(errors="replace"))
                    raise ProcessFailed(f"{self.name} ended while starting: {reason}; see {self.log}")
                try:
                    async with client.get(address) as answer:
                        await answer.read()
                        return
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(POLL_S)
        raise ProcessFailed(f"{self.name} did not answer at {address} within {limit_s:g} s; see {self.log}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the server process alone. Raises ProcessFailed while it is not running."""
        os.kill(self.pid, number)

    def children(self) -> list[psutil.Process]:
        """The living processes that the server has started, at any depth; empty while it is not running."""
        if not self.is_alive():
            return []
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in found if is_running(child)]

    async def stop(self, grace_s: float = 5.0) -> None:
        """Asks it to end, and after `grace_s` kills it; ends whatever it started. Does nothing when nothing is left.

        Raises ProcessFailed when something does not die.
        """
        if self._process is not None and self.is_alive():
            self._thaw()
            self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, grace_s)
        await self.kill()

    async def kill(self) -> None:
        """Kills it and all that it started, orphans included, and waits until they are gone.

        Raises ProcessFailed when something does not die within 10 s.
        """
        if self.is_alive():
            self.send(signal.SIGKILL)
        self._thaw()
        deadline_s = time.monotonic() + DEATH_LIMIT_S
        # The server first, then again and again whoever is left: it may have been about to start another.
        while (
            survivors := await asyncio.to_thread(marked_processes, self._ledger.token, self.name)
        ) or self.is_alive():
            if time.monotonic() > deadline_s:
                pids = ", ".join(str(process.pid) for process in survivors)
                raise ProcessFailed(f"{self.name}: processes {pids} do not die; look for them in the kernel (state D)")
            for process in survivors:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await asyncio.sleep(POLL_S)
        if self._process is not None:
            self._ledger.remove_process(self._process.pid)
            self._process = None

    def _thaw(self) -> None:
        """What is frozen acts on no signal, not even on SIGKILL."""
        if self._cgroup is not None:
            for folder in self._cgroup.folders.values():
                set_frozen(folder, frozen=False)
