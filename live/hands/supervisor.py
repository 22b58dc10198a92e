"""An Ollama server as a local process of our own: started, kept alive, restarted, stopped; its output in a log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import structlog

from live.hands.process import ManagedProcess, ProcessFailed, processes_with
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action

_log = structlog.get_logger()

MARK = "OLLAMAMAX_SUPERVISED"
WATCH_PERIOD_S = 0.2
BACK_OFF_FIRST_S = 1.0
BACK_OFF_MAX_S = 60.0
STABLE_S = 60.0
"""A server that ran this long before it died is started again at once: the pause begins anew."""


class Supervisor:
    """Keeps one server running until `stop`. One that dies is started again after a pause that doubles each time.

    What an earlier supervisor of the same address left behind when it was killed is ended before the start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        url: str,
        log: Path,
        environment: Mapping[str, str],
        start_limit_s: float = 30.0,
        stop_grace_s: float = 5.0,
        back_off_s: float = BACK_OFF_FIRST_S,
    ) -> None:
        self.name = name
        self.restarts = 0  # of its own accord, since the start
        self._url = url
        self._start_limit_s = start_limit_s
        self._stop_grace_s = stop_grace_s
        self._back_off_first_s = self._back_off_s = back_off_s
        self._process = ManagedProcess(name, command, log=log, environment=environment, mark=(MARK, url))
        self._started_s = 0.0
        self._one_at_a_time = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id of the server. Raises `ProcessFailed` while it is not running."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the server process runs; a hung one does."""
        return self._process.is_alive()

    async def start(self) -> None:
        """Start the server and return once it answers. Raises `ProcessFailed`."""
        await asyncio.to_thread(self._end_leftovers)
        async with self._one_at_a_time:
            await self._start()
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name=f"supervise {self.name}")

    async def restart(self) -> None:
        """End what is left of it, hung or not, and start it again now. Raises `ProcessFailed`."""
        async with self._one_at_a_time:
            await self._process.stop(self._stop_grace_s)
            self._back_off_s = self._back_off_first_s
            await self._start()

    async def kill_runners(self) -> int:
        """Kill what the server has started; it starts runners again when they are needed. How many there were."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._kill_children)

    def _kill_children(self) -> int:
        killed = 0
        for child in self._process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
                killed += 1
        return killed

    async def stop(self) -> None:
        """End it with all that it started. May be called at any time, and twice."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        async with self._one_at_a_time:
            await self._process.stop(self._stop_grace_s)

    async def _start(self) -> None:
        self._started_s = time.monotonic()
        await self._process.start(f"{self._url}/api/version", self._start_limit_s)

    async def _watch(self) -> None:
        """Start it again whenever it has died."""
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            if self._process.is_alive() or self._one_at_a_time.locked():
                continue
            if time.monotonic() - self._started_s >= STABLE_S:
                self._back_off_s = self._back_off_first_s
            pause_s, self._back_off_s = self._back_off_s, min(2.0 * self._back_off_s, BACK_OFF_MAX_S)
            _log.warning("server_died", name=self.name, log=str(self._process.log), starts_again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            async with self._one_at_a_time:
                if self._process.is_alive():
                    continue
                try:
                    await self._process.kill()  # its runners may have outlived it
                    await self._start()
                    self.restarts += 1
                except ProcessFailed as error:
                    _log.warning("server_does_not_start", name=self.name, why=str(error))

    def _end_leftovers(self) -> None:
        for process in processes_with(MARK, self._url):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(5.0)


class SupervisedHands:
    """Restarts servers that are processes of our own, or kills their runners."""

    def __init__(self, supervisors: Mapping[str, Supervisor]) -> None:
        self._supervisors = supervisors

    async def perform(self, action: Action) -> HandResult:
        """Restart the node's server, done once it answers; or kill its runners."""
        supervisor = self._supervisors.get(action.node)
        if action.kind not in ("restart", "kill_runner") or supervisor is None:
            raise HandError(f"{action.node} has no server process of ours to {action.kind}")
        if action.kind == "kill_runner":
            killed = await supervisor.kill_runners()
            detail = f"killed {killed} runners" if killed else "no runner is seen: no model is loaded"
            return HandResult("done" if killed else "failed", detail)
        try:
            await supervisor.restart()
        except ProcessFailed as error:
            return HandResult("failed", str(error))
        return HandResult("done", f"process {supervisor.pid} answers")

    async def close(self) -> None:
        """End the servers."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self._supervisors.values()))
