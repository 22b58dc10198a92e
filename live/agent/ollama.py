"""Ollama itself: what it has loaded, its processes, and the error lines of its log."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from live.agent.sources import Values
from live.controller.transport import read_whole
from live.hands.process import is_running

GIB = 1 << 30
ANSWER_LIMIT_BYTES = 1 << 20
ANSWER_LIMIT_S = 5.0
OLLAMA_PORT = 11434
MODEL_ARGUMENT = "--model"
ORPHANS_EVERY_S = 5.0
ERROR_LINE = re.compile(rb"level=ERROR|^panic: |^fatal error: |\[GIN\] .*\| 5\d\d \|")
"""Ollama's own log: structured lines, Go's last words, and its access log's 5xx."""


class OllamaApi:
    """Reads /api/ps. A model that keeps being there after its `expires_at` is one that cannot be let go."""

    def __init__(self, url: str, now: Callable[[], float] = time.time) -> None:
        self._url = url
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> Values:
        """Their values now; all null where Ollama does not answer well."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_LIMIT_S))
        try:
            async with self._session.get(f"{self._url}/api/ps", allow_redirects=False) as response:
                if response.status != 200:
                    return {}
                answer = json.loads(await read_whole(response, ANSWER_LIMIT_BYTES))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return {}  # that it does not answer is for the probes to say
        models = answer.get("models") or []
        expiries = [self._now() - expiry for model in models if (expiry := _expires_at(model)) is not None]
        return {
            "ollama_resident_models": float(len(models)),
            "ollama_vram_gib": sum(float(model.get("size_vram") or 0) for model in models) / GIB,
            "ollama_oldest_expiry_s": max(expiries) if expiries else None,
        }

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()


def _expires_at(model: dict[str, object]) -> float | None:
    """Seconds since 1970. A model that is never to go has a date centuries ahead, which Python may not know."""
    text = str(model.get("expires_at") or "")
    # Go writes nanoseconds, which Python's reader takes only in part.
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


class OllamaProcesses:
    """The server that listens where Ollama should, the runners that it has started, and those that outlived another."""

    def __init__(self, url: str, now: Callable[[], float] = time.monotonic) -> None:
        self._port = urlsplit(url).port or OLLAMA_PORT
        self._now = now
        self._server: psutil.Process | None = None
        self._orphans: list[psutil.Process] = []
        self._looked_s = -ORPHANS_EVERY_S

    def read(self) -> Values:
        """Their values now; null where no such process is seen (another machine, a container, another user's)."""
        if self._now() - self._looked_s >= ORPHANS_EVERY_S:  # it reads every process of the machine
            self._orphans, self._looked_s = self.orphans(), self._now()
        self._orphans = [process for process in self._orphans if is_running(process)]
        server = self.server()
        if server is None:
            if not self._orphans:
                return {}
            return {
                "ollama_processes": float(len(self._orphans)),
                "ollama_rss_gib": _resident_bytes(self._orphans) / GIB,
            }
        try:
            family = [server, *server.children(recursive=True), *self._orphans]
            values: Values = {"open_files": float(server.num_fds()), "ollama_rss_gib": _resident_bytes(family) / GIB}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return {}
        return values | {"ollama_processes": float(len(family))}

    def server(self) -> psutil.Process | None:
        """The server's process; None where it is not seen."""
        if self._server is None or not self._server.is_running():
            self._server = self._find()
        return self._server

    def runners(self) -> list[psutil.Process]:
        """The processes that hold a loaded model. Ollama's short-lived search for GPUs is none."""
        server = self.server()
        found = []
        for child in server.children(recursive=True) if server is not None else []:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if MODEL_ARGUMENT in child.cmdline():
                    found.append(child)
        return found

    def orphans(self) -> list[psutil.Process]:
        """The runners whose server is gone, and which were started by one that served here: they hold memory for nobody.

        A runner inherits its server's environment, which says where that served. Of another user's it cannot be read:
        such a runner is not counted, and not touched.
        """
        found = []
        for pid in psutil.pids():
            # Ended meanwhile, or another user's.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                process = psutil.Process(pid)
                words = process.cmdline()
                if MODEL_ARGUMENT in words and self._is_ollamas(words) and not _has_server(process):
                    served = process.environ().get("OLLAMA_HOST", "")
                    if _port_of(served) == self._port and is_running(process):
                        found.append(process)
        return found

    @staticmethod
    def _is_ollamas(words: list[str]) -> bool:
        """Whether a command line is that of a runner: `ollama runner ...`, or a binary that Ollama brings along."""
        return "runner" in words[1:3] or "ollama" in words[0].lower()

    def _find(self) -> psutil.Process | None:
        try:
            connections = psutil.net_connections("tcp")
        except psutil.AccessDenied:  # macOS, for everybody but root
            return None
        for connection in connections:
            port = getattr(connection.laddr, "port", None)  # an unconnected socket has no address
            if connection.status == psutil.CONN_LISTEN and port == self._port and connection.pid:
                with contextlib.suppress(psutil.NoSuchProcess):
                    return psutil.Process(connection.pid)
        return None


def _resident_bytes(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            total += process.memory_info().rss
    return total


def _has_server(runner: psutil.Process) -> bool:
    """Whether the process that started a runner is there: else the system has given the runner to another parent."""
    parent = runner.parent()
    return parent is not None and "serve" in parent.cmdline()


def _port_of(ollama_host: str) -> int:
    """The port of OLLAMA_HOST in any of its forms: nothing, HOST, :PORT, HOST:PORT, or a URL."""
    address = ollama_host.strip().strip("\"'")
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        return parts.port or {"http": OLLAMA_PORT, "https": 443}.get(parts.scheme, OLLAMA_PORT)
    except ValueError:
        return OLLAMA_PORT


class OllamaLog:
    """Counts the error lines that a log gets from now on, over its rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._rest = b""
        try:
            status = path.stat()
            self._inode, self._offset = status.st_ino, status.st_size
        except OSError:
            self._inode, self._offset = 0, 0

    def read(self) -> Values:
        """The count; null while there is no log."""
        try:
            with self._path.open("rb") as file:
                status = self._path.stat()
                if status.st_ino != self._inode or status.st_size < self._offset:  # a new file, or emptied
                    self._inode, self._offset, self._rest = status.st_ino, 0, b""
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return {"ollama_error_lines": None}
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._count += sum(bool(ERROR_LINE.search(line)) for line in lines)
        return {"ollama_error_lines": float(self._count)}
