"""Connections to the nodes: made when needed, kept for the next request, given up when they are no good."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from yarl import URL

from live.controller.transport import UNREACHABLE_ERRNOS, plain_reason
from live.gateway.http_head import LAST_CHUNK, chunk, header_lines
from live.gateway.node_connection import NodeConnection
from live.gateway.upstream import AnswerSink, AttemptFailed
from twin.policy.vocabulary import AttemptError

DRAIN_S = 0.25
"""How long the end of an answer is awaited after its terminal record, so that the connection can be used again."""
IDLE_S = 60.0
"""How long an unused connection is kept."""
IDLE_MAX = 256
"""Unused connections that are kept, per node."""
STALE_S = 0.25
"""A kept connection that breaks this soon after a request, without a byte of an answer, was closed by the node before
it saw the request: that is sent again on a new connection, and says nothing of the node."""


class _Nothing:
    """The sink of an exchange of which nothing more is wanted."""

    def answer_head(self, _status: int, _content_type: str) -> None:
        """Nothing."""

    def answer_data(self, _data: bytes) -> None:
        """Nothing."""

    def answer_end(self) -> None:
        """Nothing."""

    def answer_failed(self, _failure: AttemptFailed) -> None:
        """Nothing."""


_NOTHING = _Nothing()


class PooledExchange:
    """One request and its answer. See `live.gateway.upstream.NodeExchange`."""

    __slots__ = (
        "_body_pending",
        "_connecting",
        "_drain_timer",
        "_paused",
        "_pool",
        "_request",
        "_sent_s",
        "body_open",
        "connection",
        "done",
        "head_told",
        "method",
        "node",
        "sink",
        "whole",
    )

    def __init__(
        self, pool: NodePool, sink: AnswerSink, node: str, method: str, request: bytes, body_open: bool
    ) -> None:
        self.sink: AnswerSink = sink
        self.node = node
        self.method = method
        self.head_told = False
        self.done = False
        self.whole = False  # the end of the answer is there, and comes to the sink in a moment
        self.body_open = body_open  # more of the request's body is to come
        self.connection: NodeConnection | None = None
        self._pool = pool
        self._request = request
        self._body_pending: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._sent_s = -1.0  # when it was sent on a connection that had been used before

    # -- for who asked ---------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether the connection takes more of the body."""
        return self.done or (self.connection is not None and self.connection.writable)

    def write(self, data: bytes) -> None:
        """A part of the body, as one chunk."""
        if self.done or not data:
            return
        if self.connection is None:
            self._body_pending.append(chunk(data))
        else:
            self.connection.transport.write(chunk(data))

    def end_body(self) -> None:
        """The last chunk."""
        self.body_open = False
        if self.connection is not None:
            self.connection.transport.write(LAST_CHUNK)
        else:
            self._body_pending.append(LAST_CHUNK)

    async def drained(self) -> None:
        """Wait until there is a connection that takes more, or the exchange has ended."""
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        connection = self.connection
        if connection is not None and not connection.writable and not self.done:
            if connection.on_writable is None:
                connection.on_writable = asyncio.get_running_loop().create_future()
            await connection.on_writable

    def pause(self) -> None:
        """Read no more for now."""
        connection = self.connection
        if not self._paused and connection is not None and not connection.transport.is_closing():
            self._paused = True
            connection.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        connection = self.connection
        if self._paused and connection is not None and not connection.transport.is_closing():
            self._paused = False
            connection.transport.resume_reading()

    def finish(self) -> None:
        """Put the connection back when the answer has ended."""
        self.sink = _NOTHING
        if self.done:
            return
        self.resume()
        if not self.whole:
            self._drain_timer = self._pool.loop.call_later(DRAIN_S, self.close)

    def close(self) -> None:
        """Close the connection."""
        self.sink = _NOTHING
        connection = self.connection
        if connection is not None and connection.exchange is self:
            connection.exchange = None
            connection.transport.abort()
        if self._connecting is not None:
            self._connecting.cancel()
        self._over()

    # -- for the connection ----------------------------------------------------------------------------------------

    def start(self, connection: NodeConnection, *, used_before: bool) -> None:
        """Send the request."""
        self.connection = connection
        self._sent_s = self._pool.loop.time() if used_before else -1.0
        connection.begin(self)
        connection.transport.write(self._request)
        if self._body_pending:
            connection.transport.write(b"".join(self._body_pending))
            self._body_pending.clear()

    def ended(self, connection: NodeConnection | None) -> None:
        """The answer is whole; a connection that is given can be used again."""
        if connection is not None:
            self.resume()
            self._pool.keep(self.node, connection)
        self._over()
        self.sink.answer_end()

    def broke(self, answered: bool, reason: str) -> None:
        """The connection broke."""
        fresh = self._sent_s < 0 or self._pool.loop.time() - self._sent_s > STALE_S
        if answered or fresh or self.body_open or self.sink is _NOTHING:
            self.failed("reset", reason)
            return
        self.connection = None
        self._connecting = self._pool.connect(self)

    def failed(self, error: AttemptError, reason: str) -> None:
        """There is no answer, or only a part of one."""
        self._over()
        self.sink.answer_failed(AttemptFailed(error, reason))

    def connected(self) -> None:
        """The task that connects has ended."""
        self._connecting = None

    def _over(self) -> None:
        if self.done:
            return
        self.done = True
        self._request = b""
        self._body_pending.clear()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._pool.forget(self)


class _Target:
    """Where a node is, and its kept connections, the last used at the end."""

    __slots__ = ("head", "host", "idle", "port", "tls")

    def __init__(self, address: str) -> None:
        url = URL(address)
        self.host = url.host or ""
        self.port = url.port or 80
        self.tls = ssl.create_default_context() if url.scheme == "https" else None
        # The node's own name: Ollama on loopback answers a foreign one with 403.
        self.head = f" HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n".encode()
        self.idle: list[NodeConnection] = []


class NodePool:
    """Sends requests to nodes. See `live.gateway.upstream.Upstream`."""

    def __init__(self, addresses: Mapping[str, str], *, connect_timeout_s: float) -> None:
        self._targets = {node: _Target(address) for node, address in addresses.items()}
        self._connect_timeout_s = connect_timeout_s
        self._exchanges: set[PooledExchange] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.loop: asyncio.AbstractEventLoop

    def send(
        self,
        sink: AnswerSink,
        node: str,
        method: str,
        path: str,
        body: bytes | None = b"",
        headers: Mapping[str, str] | None = None,
    ) -> PooledExchange:
        """Send a request, on a kept connection where there is one."""
        self.loop = asyncio.get_running_loop()
        target = self._targets[node]
        lines = header_lines(headers) if headers else b""
        if body is None:
            framing, content = b"Transfer-Encoding: chunked\r\n\r\n", b""
        elif body or method not in ("GET", "HEAD"):
            framing, content = b"Content-Length: %d\r\n\r\n" % len(body), body
        else:
            framing = content = b""
            lines += b"\r\n"
        request = b"".join((method.encode(), b" ", path.encode(), target.head, lines, framing, content))
        exchange = PooledExchange(self, sink, node, method, request, body is None)
        self._exchanges.add(exchange)
        now = self.loop.time()
        while target.idle:
            connection = target.idle.pop()
            if connection.lost or connection.transport.is_closing():
                continue
            if now - connection.idle_since_s > IDLE_S:
                connection.transport.close()
                continue
            exchange.start(connection, used_before=True)
            return exchange
        exchange._connecting = self.connect(exchange)
        return exchange

    async def close(self) -> None:
        """Close all connections."""
        for exchange in list(self._exchanges):
            exchange.close()
        for target in self._targets.values():
            for connection in target.idle:
                connection.transport.close()
            target.idle.clear()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the event loop's next round

    def kept(self, node: str) -> int:
        """Unused connections to a node."""
        return len(self._targets[node].idle)

    # -- for exchanges ---------------------------------------------------------------------------------------------

    def keep(self, node: str, connection: NodeConnection) -> None:
        """A connection whose answer was whole."""
        idle = self._targets[node].idle
        if len(idle) >= IDLE_MAX or connection.transport.is_closing():
            connection.transport.close()
            return
        now_s = connection.idle_since_s = self.loop.time()
        idle.append(connection)
        while now_s - idle[0].idle_since_s > IDLE_S:  # the busy end is the other one
            idle.pop(0).transport.close()

    def forget(self, exchange: PooledExchange) -> None:
        """It has ended."""
        self._exchanges.discard(exchange)

    def connect(self, exchange: PooledExchange) -> asyncio.Task[None]:
        """Make a connection for an exchange."""
        task = self.loop.create_task(self._connect(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self, exchange: PooledExchange) -> None:
        target = self._targets[exchange.node]
        options: dict[str, Any] = {"ssl": target.tls} if target.tls is not None else {}
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self.loop.create_connection(NodeConnection, target.host, target.port, **options)
        except TimeoutError:
            failure: tuple[AttemptError, str] | None = (
                "unreachable",
                f"no connection within {self._connect_timeout_s:g} s",
            )
        except OSError as error:
            failure = (_connect_error(error), plain_reason(error))
        else:
            failure = None
        exchange.connected()
        if failure is not None:
            if not exchange.done:
                exchange.failed(*failure)
        elif exchange.done:
            connection.transport.abort()
        elif connection.lost:
            exchange.failed("reset", "the node closed the connection at once")
        else:
            exchange.start(connection, used_before=False)


def _connect_error(error: OSError) -> AttemptError:
    """How it failed, where no connection was made. A name that is unknown counts as unreachable."""
    if isinstance(error, socket.gaierror) or error.errno in UNREACHABLE_ERRNOS:
        return "unreachable"
    return "refused"
