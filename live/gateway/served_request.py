"""One request of a client, and the way to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from live.gateway.http_head import LAST_CHUNK, chunk, header_lines, status_line

CLIENT_BITS = (1 << 53) - 1
"""What JSON can carry of a client's number."""

PART_BYTES = 4096
"""Smaller parts of a body are joined as they come: as an object of its own, one of two bytes takes as many as fifty."""


class Connection(Protocol):
    """What a request needs of the connection that it came on."""

    writable: bool

    @property
    def holds_more(self) -> bool:
        """Whether more can be kept for a client that is slow to read."""

    def write(self, data: bytes) -> None:
        """Send it, if somebody is there."""

    @property
    def peer(self) -> str:
        """The address that it comes from."""

    def closing_line(self, request: ServedRequest) -> bytes:
        """The headers `Date` and `Connection` of the answer."""

    def go_on(self, request: ServedRequest) -> None:
        """Tell the client to send its body, if it waits for that."""

    def body_taken(self) -> None:
        """Some of the body is needed no longer."""

    def answered(self, request: ServedRequest) -> None:
        """Nothing more is said to this request."""

    def broke(self, request: ServedRequest, error: Exception) -> None:
        """Nor to this one: an error of ours broke it."""

    def abort(self) -> None:
        """Close without a word."""


class ServedRequest:
    """A request, and its answer. See `live.gateway.client.Client` for what concerns the answer."""

    def __init__(self, connection: Connection) -> None:
        self.method = ""
        self.target = ""  # path and query, as they came
        self.path = ""
        self.headers: dict[str, str] = {}  # names in lower case
        self.body = b""  # whole, unless it is taken as it comes
        self.taken_as_it_comes = False
        self.cheap = False  # is answered even to a client that has closed its side
        self.begun = False
        self.ended = False
        self.granted: dict[str, str] = {}  # further headers of its answer, for the page that asks
        self.on_writable: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        # The rest is between it and its connection.
        self.task: asyncio.Task[None] | None = None  # that answers it, where it is answered in one
        self.started = False  # that task has taken its first step
        self.keep_alive = True
        self.is_old = False  # HTTP/1.0
        self.refusal: tuple[int, str] | None = None  # why it is no request, or why its answer is broken off
        self.whole = False  # all of the body is there
        self.continues = False  # waits for "100 Continue"
        self.waiting_bytes = 0  # of the body, not yet taken
        self.held_bytes = 0  # of the body, in memory
        self._parts: list[bytes | bytearray] = []
        self._connection = connection
        self._news: asyncio.Event | None = None
        self._chunked = False
        self._unsent_head = b""  # goes out with what follows it: a system call costs more than all the rest

    # -- the body --------------------------------------------------------------------------------------------------

    async def part(self) -> bytes:
        """The next part of a body that is taken as it comes; none at its end."""
        while not self._parts:
            if self.whole:
                return b""
            self._connection.go_on(self)
            self._news = self._news or asyncio.Event()
            self._news.clear()
            await self._news.wait()
        data = b"".join(self._parts)
        self._parts.clear()
        self.waiting_bytes = 0
        self._connection.body_taken()
        return data

    def add(self, data: bytes) -> None:
        """A part of the body has come."""
        if len(data) >= PART_BYTES:
            self._parts.append(data)
        elif self._parts and isinstance(last := self._parts[-1], bytearray) and len(last) < PART_BYTES:
            last += data
        else:
            self._parts.append(bytearray(data))
        self.waiting_bytes += len(data)
        if self._news is not None:
            self._news.set()

    def complete(self) -> None:
        """The body is whole."""
        self.whole = True
        if self.taken_as_it_comes:
            if self._news is not None:
                self._news.set()
        elif self._parts:
            parts, self._parts = self._parts, []
            self.body = b"".join(parts)  # of one that is whole already, itself

    def drop(self) -> None:
        """Nobody wants the body any more."""
        self.body = b""
        self._parts.clear()
        self.waiting_bytes = 0

    # -- the answer ------------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether its client has closed its connection, or has been given up."""
        return self.refusal is not None

    @property
    def writable(self) -> bool:
        """Whether the connection takes more."""
        return self._connection.writable

    @property
    def holds_more(self) -> bool:
        """Whether more can be kept for the client, where it is slow to read."""
        return self._connection.holds_more

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer."""
        if self.begun:
            return
        self.begun = self.ended = True
        head = self._head(status, headers, b"Content-Length: %d\r\n\r\n" % len(body))
        self._connection.write(head if self.method == "HEAD" else head + body)

    def begin(self, headers: Mapping[str, str], status: int = 200) -> None:
        """The headers of a stream; they are sent with its first part."""
        if self.begun:
            return
        self.begun = True
        self._chunked = not self.is_old
        if self.is_old:  # it ends with the connection
            self.keep_alive = False
        framing = b"Transfer-Encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        self._unsent_head = self._head(status, headers, framing)

    def write(self, data: bytes) -> None:
        """A part of the stream."""
        if not self.ended:
            self._send(data)

    def end(self, data: bytes = b"") -> None:
        """The last part, and the end."""
        if not self.ended:
            self.ended = True
            self._send(data, LAST_CHUNK if self._chunked else b"")

    def _send(self, data: bytes, last: bytes = b"") -> None:
        head, self._unsent_head = self._unsent_head, b""
        if self.method == "HEAD":
            data = last = b""
        elif data and self._chunked:
            data = chunk(data)
        if head or last:
            data = head + data + last
        if data:
            self._connection.write(data)

    async def drained(self) -> None:
        """Wait until the connection takes more."""
        if not self.writable:
            taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def resume() -> None:
                if not taken.done():
                    taken.set_result(None)

            self.on_writable = resume
            await taken

    def break_off(self) -> None:
        """Close the connection."""
        self._connection.abort()

    def done(self) -> None:
        """It has been answered."""
        self.on_gone = None
        self._connection.answered(self)

    def broke(self, error: Exception) -> None:
        """It cannot be answered: an error of ours."""
        self.on_gone = None
        self._connection.broke(self, error)

    @property
    def client(self) -> int:
        """Who asks, as a number: the same key is the same client, and without a key the same address."""
        headers = self.headers
        key = headers.get("authorization") or headers.get("x-api-key") or self._connection.peer
        return hash(key) & CLIENT_BITS | 1

    def _head(self, status: int, headers: Mapping[str, str], framing: bytes) -> bytes:
        if self.granted:
            headers = {**headers, **self.granted}
        return b"".join((status_line(status), header_lines(headers), self._connection.closing_line(self), framing))
