"""Child processes that the rig answers for: started in a session of their own, ended with all that they started."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from live.rig.errors import RigError, last_line
from live.rig.ledger import DEATH_LIMIT_S, MARK, Ledger, is_running, marked_processes
from live.rig.machine import Cgroup, pinned_thread, set_frozen

# Below the range from which systems take the ports of outgoing connections (Linux 32768, macOS 49152): the port of a
# node that is down must still be free when it comes back.
PORTS = range(20_000, 32_000)
POLL_S = 0.02
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
