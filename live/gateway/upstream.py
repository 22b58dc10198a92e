"""The way to the nodes. The relay knows only the protocols here; `node_pool` is what stands behind them.

Nothing waits here: a request is sent, and its answer is given to an `AnswerSink` as it comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from twin.policy.vocabulary import AttemptError


class AttemptFailed(Exception):
    """An attempt at a node failed. `status` and `body` are the node's own answer, where it gave one."""

    def __init__(
        self, error: AttemptError, detail: str, *, status: int = 0, body: bytes = b"", content_type: str = ""
    ) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.status = status
        self.body = body
        self.content_type = content_type


class AnswerSink(Protocol):
    """Receives one answer: its head, its data, and then either its end or its failure, once."""

    def answer_head(self, status: int, content_type: str) -> None:
        """The headers have come."""

    def answer_data(self, data: bytes) -> None:
        """A part of the body."""

    def answer_end(self) -> None:
        """The body is whole, as far as HTTP can tell."""

    def answer_failed(self, failure: AttemptFailed) -> None:
        """No connection, or one that broke, or what is not HTTP."""


class NodeExchange(Protocol):
    """One request on its way, and its answer."""

    @property
    def writable(self) -> bool:
        """Whether the connection takes more of the request's body."""

    def write(self, data: bytes) -> None:
        """A part of a body that is sent as it comes."""

    def end_body(self) -> None:
        """The end of that body."""

    async def drained(self) -> None:
        """Wait until the connection takes more of the body, or the exchange has ended."""

    def pause(self) -> None:
        """Read no more of the answer for now."""

    def resume(self) -> None:
        """Read on."""

    def finish(self) -> None:
        """Nothing more is wanted of the answer: its end is awaited for a moment, so that the connection can be kept."""

    def close(self) -> None:
        """Close the connection: what the node still does for it is cancelled. The sink hears nothing more."""


class Upstream(Protocol):
    """Sends requests to nodes."""

    def send(
        self,
        sink: AnswerSink,
        node: str,
        method: str,
        path: str,
        body: bytes | None = b"",
        headers: Mapping[str, str] | None = None,
    ) -> NodeExchange:
        """Send a request; `body` is None where it is written as it comes. Never fails: the sink is told."""

    async def close(self) -> None:
        """Close all connections."""


class AnswerReader:
    """An `AnswerSink` for who would rather wait than be called. Reading is paused while much of it waits to be taken."""

    HIGH_BYTES = 1 << 20

    def __init__(self) -> None:
        self.status = 0
        self.content_type = ""
        self.exchange: NodeExchange | None = None
        self._parts: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._ended = False
        self._failure: AttemptFailed | None = None
        self._news = asyncio.Event()

    def answer_head(self, status: int, content_type: str) -> None:
        """The headers have come."""
        self.status = status
        self.content_type = content_type
        self._news.set()

    def answer_data(self, data: bytes) -> None:
        """Keep it until it is read."""
        self._parts.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > self.HIGH_BYTES and self.exchange is not None and not self._paused:
            self._paused = True
            self.exchange.pause()
        self._news.set()

    def answer_end(self) -> None:
        """The answer is whole."""
        self._ended = True
        self._news.set()

    def answer_failed(self, failure: AttemptFailed) -> None:
        """It will not be."""
        self._failure = failure
        self._news.set()

    async def head(self) -> int:
        """Wait for the status. Raises `AttemptFailed`."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """The next bytes; none at the end. Raises `AttemptFailed`."""
        while not self._parts:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            await self._wait()
        data = self._parts.popleft()
        self._waiting_bytes -= len(data)
        if self._paused and self._waiting_bytes <= self.HIGH_BYTES // 2 and self.exchange is not None:
            self._paused = False
            self.exchange.resume()
        return data

    async def whole(self, limit_bytes: int) -> bytes:
        """The rest of the body. Raises `AttemptFailed`, also where it is longer than the limit."""
        whole = bytearray()
        while data := await self.read():
            whole += data
            if len(whole) > limit_bytes:
                raise AttemptFailed("error_record", f"an answer of more than {limit_bytes} bytes")
        return bytes(whole)

    def close(self) -> None:
        """Close the connection, unless the answer was read to its end."""
        if self.exchange is not None and not self._ended:
            self.exchange.close()

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()
