"""One connection to a node: HTTP/1.1 from the client's side, distrustful of what comes.

`httptools` (llhttp) parses; what it leaves to its user is here: limits on the head and on framing, interim answers,
answers that end with the connection, and answers to HEAD.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

if TYPE_CHECKING:
    from live.gateway.node_pool import PooledExchange

HEAD_LIMIT_BYTES = 64 << 10
"""Longest head of an answer, and longest stretch of framing (chunk extensions, trailers) without a byte of content."""
INTERIM_MAX = 8
"""Interim answers (1xx) before the one that counts."""
WRITE_HIGH_BYTES = 256 << 10


class NodeConnection(asyncio.Protocol):
    """Carries one exchange at a time."""

    __slots__ = (
        "_body_parts",
        "_chunked",
        "_complete",
        "_content_type",
        "_has_length",
        "_head_bytes",
        "_head_complete",
        "_interims",
        "_keep_alive",
        "_parser",
        "_plain_bytes",
        "_status",
        "answered",
        "exchange",
        "idle_since_s",
        "lost",
        "on_writable",
        "transport",
        "writable",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.exchange: PooledExchange | None = None
        self.lost = False
        self.writable = True
        self.on_writable: asyncio.Future[None] | None = None
        self.idle_since_s = 0.0
        self.answered = False  # a byte of the present answer has come
        self._parser = HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._interims = 0
        self._status = 0
        self._content_type = ""
        self._has_length = False
        self._chunked = False
        self._head_bytes = 0
        self._head_complete = False
        self._complete = False
        self._keep_alive = False
        self._plain_bytes = 0
        self._body_parts: list[bytes] = []

    def begin(self, exchange: PooledExchange) -> None:
        """From now on what comes is the answer to this exchange's request."""
        self.exchange = exchange
        self.answered = False
        self._reset()

    # -- the transport's calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        """Parse, and give what it is to the exchange."""
        exchange = self.exchange
        if exchange is None:  # nobody asked
            self.transport.abort()
            return
        self.answered = True
        problem = self._parse(data)
        if self._status and self._head_complete:
            if not exchange.head_told:
                exchange.head_told = True
                exchange.sink.answer_head(self._status, self._content_type)
            parts = self._body_parts
            if parts and self.exchange is exchange:
                self._body_parts = []
                exchange.whole = self._complete and not problem
                exchange.sink.answer_data(parts[0] if len(parts) == 1 else b"".join(parts))
        if self.exchange is not exchange:  # it was closed meanwhile
            return
        if problem:
            self.exchange = None
            self.transport.abort()
            exchange.failed("reset", problem)
        elif self._complete:
            self._end(exchange)

    def eof_received(self) -> bool:
        """The node sends no more: the transport closes itself."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The end of an answer that ends so, or of one that is broken."""
        self.lost = True
        self._wake_writer()
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if self._head_complete and self._status and not self._has_length and not self._chunked and error is None:
            exchange.ended(None)
        else:
            exchange.broke(self.answered, str(error) if error is not None else "the node closed the connection")

    def pause_writing(self) -> None:
        """The node is slow to read."""
        self.writable = False

    def resume_writing(self) -> None:
        """It reads on."""
        self.writable = True
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self.on_writable is not None and not self.on_writable.done():
            self.on_writable.set_result(None)
        self.on_writable = None

    # -- parsing ---------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> str:
        """Feed the parser; what is wrong with the data, or nothing."""
        head_before = self._head_complete
        parts_before = len(self._body_parts)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return "the node wants another protocol"
        except HttpParserError as error:
            if self._complete and self.exchange is not None and self.exchange.method == "HEAD":
                return ""  # what looks like a body to the parser
            return f"the node does not speak HTTP: {error}"
        if (self._head_complete and len(self._body_parts) > parts_before) or self._complete:
            self._plain_bytes = 0
        else:
            self._plain_bytes += len(data)
            if self._plain_bytes > HEAD_LIMIT_BYTES:
                what = "framing without content" if head_before else "a head"
                return f"{what} of more than {HEAD_LIMIT_BYTES} bytes"
        if self._head_bytes > HEAD_LIMIT_BYTES:
            return f"a head of more than {HEAD_LIMIT_BYTES} bytes"
        if self._interims > INTERIM_MAX:
            return f"more than {INTERIM_MAX} interim answers"
        return ""

    def on_message_begin(self) -> None:
        """Of the parser: a head begins. After a whole answer there must be none."""
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser: a header or a trailer."""
        self._head_bytes += len(name) + len(value)
        if self._head_complete or self._head_bytes > HEAD_LIMIT_BYTES:
            return
        name = name.lower()
        if name == b"content-type":
            self._content_type = value.decode("latin-1")
        elif name == b"content-length":
            self._has_length = True
        elif name == b"transfer-encoding":
            self._chunked = value.lower().endswith(b"chunked")

    def on_headers_complete(self) -> None:
        """Of the parser."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        self._head_complete = True
        if self.exchange is not None and self.exchange.method == "HEAD":
            self._complete = True  # though the parser expects a body

    def on_body(self, data: bytes) -> None:
        """Of the parser."""
        if not self._complete:
            self._body_parts.append(data)

    def on_message_complete(self) -> None:
        """Of the parser: the end of the answer, or of an interim one."""
        if self._head_complete:
            self._complete = True
        else:
            self._interims += 1
            self._has_length = self._chunked = False

    def _end(self, exchange: PooledExchange) -> None:
        self.exchange = None
        if exchange.method == "HEAD":
            self._parser = HttpResponseParser(self)
        if self._keep_alive and not exchange.body_open:
            exchange.ended(self)
        else:
            self.transport.close()
            exchange.ended(None)
