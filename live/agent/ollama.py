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

GIB = 1 << 30
ANSWER_LIMIT_BYTES = 1 << 20
ANSWER_LIMIT_S = 5.0
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
    """The server that listens where Ollama should, and the runners that it has started."""

    def __init__(self, url: str) -> None:
        self._port = urlsplit(url).port or 11434
        self._server: psutil.Process | None = None

    def read(self) -> Values:
        """Their values now; null where no such process is seen (another machine, a container, another user's)."""
        server = self.server()
        if server is None:
            return {}
        try:
            family = [server, *server.children(recursive=True)]
            rss = 0
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                    rss += process.memory_info().rss
            open_files = float(server.num_fds())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return {}
        return {
            "open_files": open_files,
            "ollama_processes": float(len(family)),
            "ollama_rss_gib": rss / GIB,
        }

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
                if "--model" in child.cmdline():
                    found.append(child)
        return found

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
