"""Child processes that we answer for: started in a session of their own, ended with all that they started.

Every such process carries a mark in its environment and hands it on to what it starts; so an orphan is found even when
the process that started it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from live.hands.output import last_line
from twin.errors import OperatorError

DEATH_LIMIT_S = 10.0
POLL_S = 0.02


class ProcessFailed(OperatorError):
    """A process did not start, or does not end; the message names its log."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback."""
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


def processes_with(variable: str, mark: str, *, prefix: bool = False) -> list[psutil.Process]:
    """The living processes whose environment has this mark (or one that begins so). Reads them all: milliseconds."""
    found = []
    # Not psutil.process_iter: it keeps a cache that threads would share, and nodes are ended in several at once.
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            value = process.environ().get(variable, "")
            if (value == mark or (prefix and value.startswith(mark))) and is_running(process):
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
    """A server that we start, end and answer for, together with every process that it starts.

    `log` takes its output and is appended to over restarts. `mark` is a variable of its environment and its value,
    which must be this process's alone. All waiting is asynchronous.
    """

    failure: type[ProcessFailed] = ProcessFailed

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        mark: tuple[str, str],
    ) -> None:
        self.name = name
        self.log = log
        self.mark = mark
        self._command = [str(part) for part in command]
        self._environment = {**environment, mark[0]: mark[1]}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the server. Raises ProcessFailed while it is not running."""
        if self._process is None or self._process.poll() is not None:
            raise self.failure(f"{self.name} is not running; start it first, or see {self.log}")
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the server process runs; a stopped or hung one counts as running."""
        return self._process is not None and self._process.poll() is None

    async def start(self, answers_at: str, limit_s: float) -> None:
        """Starts it and waits until an HTTP GET of `answers_at` gets any answer.

        Raises ProcessFailed when it ends before that or needs more than `limit_s`; then nothing of it is left.
        """
        if self.is_alive():
            raise self.failure(f"{self.name} is already running as process {self.pid}; stop it first")
        port = urlsplit(answers_at).port
        if port is not None and not is_free(port):
            # Otherwise whoever has the port would answer in its place.
            raise self.failure(f"{self.name} cannot start: port {port} on 127.0.0.1 is in use; choose another port")
        try:
            self._spawn()  # milliseconds, and nothing can be cancelled halfway
            await self._wait_until_answers(answers_at, limit_s)
        except BaseException:
            await asyncio.shield(self.kill())
            raise

    def _spawn(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output, self._birth():
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
                raise self.failure(f"{self.name}: {self._command[0]} cannot be started: {error.strerror}") from error
        self._born(self._process.pid)

    def _birth(self) -> contextlib.AbstractContextManager[None]:
        """What surrounds the start of the process."""
        return contextlib.nullcontext()

    def _born(self, pid: int) -> None:
        """The process has been started."""

    def _dead(self, pid: int) -> None:
        """The process and all that it started are gone."""

    async def _wait_until_answers(self, address: str, limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        # trust_env is off by default: a proxy of the operator's is not for loopback.
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=limit_s)) as client:
            while time.monotonic() < deadline_s:
                if not self.is_alive():
                    reason = last_line(self.log.read_text(errors="replace"))
                    raise self.failure(f"{self.name} ended while starting: {reason}; see {self.log}")
                try:
                    async with client.get(address) as answer:
                        await answer.read()
                        return
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(POLL_S)
        raise self.failure(f"{self.name} did not answer at {address} within {limit_s:g} s; see {self.log}")

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
        while (survivors := await asyncio.to_thread(processes_with, *self.mark)) or self.is_alive():
            if time.monotonic() > deadline_s:
                pids = ", ".join(str(process.pid) for process in survivors)
                raise self.failure(f"{self.name}: processes {pids} do not die; look for them in the kernel (state D)")
            for process in survivors:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await asyncio.sleep(POLL_S)
        if self._process is not None:
            self._dead(self._process.pid)
            self._process = None

    def _thaw(self) -> None:
        """What is frozen acts on no signal, not even on SIGKILL."""
