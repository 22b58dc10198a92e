"""The server: listens, counts, and ends what takes too long. What one connection does is in `client_connection`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from live.gateway.client_connection import ClientConnection
from live.gateway.http_head import DateLine
from live.gateway.served_request import ServedRequest

_log = structlog.get_logger()

MIB = 1 << 20
LAST_WORDS_S = 1.0
"""How long clients may take to read that the gateway stops."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a client may ask of the server before anybody has looked at its request. Times are in seconds."""

    head_bytes: int = 64 << 10
    headers: int = 100
    body_bytes: int = 100 * MIB
    all_bodies_bytes: int = 256 * MIB
    """Of all requests that have not been answered: with what is made of it to be sent on, a body takes up to four times as
    much."""
    connections: int = 10_000
    idle_s: float = 120.0
    """An unused connection is kept this long: longer than clients keep theirs, so that it is they who close."""
    head_s: float = 15.0
    """From the first byte of a head to its last."""
    body_silence_s: float = 30.0
    body_s: float = 300.0
    """For a whole body, where it is not passed on as it comes."""
    client_stall_s: float = 60.0
    """A client that takes none of its answer for this long is given up."""
    client_buffer_bytes: int = 4 * MIB
    """What is kept for a client that is slow to read, before its node is read no further."""
    all_clients_bytes: int = 256 * MIB
    """What all slow clients together have not read: beyond it those are given up that have read nothing for longest."""


class Application(Protocol):
    """What answers the requests."""

    def classify(self, request: ServedRequest) -> None:
        """Its head has come: say whether its body is taken as it comes, and whether it is cheap."""

    def answer(self, request: ServedRequest) -> Coroutine[Any, Any, None] | None:
        """Answer it: at once; or in a task, where a coroutine is returned, cancelled when the client goes; or by calls that
        come later, where `request.on_gone` has been set: then `request.done` says when that is over."""

    def refused(self, request: ServedRequest, status: int, message: str) -> bytes:
        """It is refused before it was a request, or broken off; the body that says so. Called once: a place to log."""

    def broken_off(self, request: ServedRequest, message: str) -> bytes:
        """Its stream is broken off; what says so within the stream."""


def _took_s(connection: ClientConnection) -> float:
    return connection.took_s


class HttpServer:
    """Serves HTTP/1.1 on any number of addresses."""

    def __init__(self, application: Application, limits: ServerLimits) -> None:
        self.application = application
        self.limits = limits
        self.connections: set[ClientConnection] = set()
        self.body_bytes = 0  # being held for requests that are not answered yet
        self.slow: set[ClientConnection] = set()  # of the connections, those whose clients are slow to read
        self.unread_bytes = 0  # being held for them
        self.stopping = False
        self.loop: asyncio.AbstractEventLoop
        self._date = DateLine()
        self._servers: list[Any] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._makes_room = False  # it is about to
        times_s = (limits.idle_s, limits.head_s, limits.body_silence_s, limits.body_s, limits.client_stall_s)
        self._sweep_period_s = max(0.01, min(1.0, min(times_s) / 4))

    async def listen(self, host: str, port: int) -> str:
        """Listen; the address. Raises OSError where that is not possible."""
        self.loop = asyncio.get_running_loop()
        server: Any = await self.loop.create_server(lambda: ClientConnection(self), host, port, backlog=1024)
        self._servers.append(server)  # uvloop's is an equal of asyncio's, not one
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self._sweep_period_s, self._sweep)
        bound = server.sockets[0].getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{shown}:{bound[1]}"

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, give running requests their time to end, then close their connections."""
        self.stopping = True
        for server in self._servers:
            server.close()
        try:
            for connection in list(self.connections):
                connection.stop()
            end_s = self.loop.time() + grace_s if self._servers else 0.0
            while self.connections and self.loop.time() < end_s:  # noqa: ASYNC110
                await asyncio.sleep(min(0.02, grace_s))
        finally:
            await self._break_off()
            await asyncio.sleep(0)  # the transports close in the event loop's next round
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
            self._servers.clear()

    async def _break_off(self) -> None:
        """End what has not ended: clients are told so, where they can be."""
        left = sum(connection.busy for connection in self.connections)
        if left:
            _log.warning("requests_cut_off", count=left, why="the gateway stops before they have ended")
        tasks = [connection.task for connection in self.connections]
        for connection in list(self.connections):
            connection.break_off()
        end_s = self.loop.time() + LAST_WORDS_S if self._servers else 0.0
        while self.connections and self.loop.time() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if running := [task for task in tasks if task is not None and not task.done()]:
            await asyncio.wait(running)

    def date_line(self) -> bytes:
        """The header `Date`."""
        return self._date.at(time.time())

    def unread(self, more_bytes: int) -> None:
        """So much more (or less) is held for clients that are slow to read."""
        self.unread_bytes += more_bytes
        if self.unread_bytes > self.limits.all_clients_bytes and not self._makes_room:
            self._makes_room = True
            self.loop.call_soon(self._make_room)  # not while somebody writes

    def _make_room(self) -> None:
        self._makes_room = False
        self._look()
        for connection in sorted(self.slow, key=_took_s):
            if self.unread_bytes <= self.limits.all_clients_bytes:
                break
            connection.cut_off(
                "slow clients leave more unread than this gateway keeps, and it read nothing for longest"
            )

    def _look(self) -> None:
        for connection in list(self.slow):
            connection.look()

    def _sweep(self) -> None:
        self._look()
        now_s = self.loop.time()
        for connection in list(self.connections):
            if connection.deadline_s <= now_s:
                connection.expired()
        self._sweeper = self.loop.call_later(self._sweep_period_s, self._sweep)
