"""One connection of a client: HTTP/1.1 from the server's side.

`httptools` (llhttp) parses. Requests are answered one after the other, in the order in which they came; while one is
being answered and another waits, nothing more is read. A request begins to be answered when its body is whole, unless
the application takes the body as it comes.

A client that closes its side for sending has gone, as far as a generation is concerned: TCP does not tell a half-closed
connection from a closed one, and Ollama itself cancels then. What needs no node to work for it is still answered.

What a client that is slow to read has still to get is kept here, so that its node can go on and be done with it. Nothing is
copied for one that keeps up.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import struct
import termios
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

import structlog
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from live.gateway.http_head import CONTINUE, is_target, origin_form
from live.gateway.served_request import ServedRequest

if TYPE_CHECKING:
    from live.gateway.http_server import HttpServer

_log = structlog.get_logger()

WRITE_HIGH_BYTES = 64 << 10
"""A client for which the transport holds more is slow to read: what comes is kept here, and given to it in such parts."""
BODY_HIGH_BYTES = 1 << 20
"""The same of a body that a node has not taken yet."""
PIPELINED_MAX = 64
LINGER_S = 2.0
"""How long a client may go on sending after it was refused, so that it can read why."""
LINGER_BYTES = 16 << 20
CHUNKS_FREE = 1 << 16
CHUNK_MEAN_BYTES = 64
"""Beyond so many, chunks are as large as this on average: smaller ones make more work than they bring."""
CHUNKED = b"Transfer-Encoding: chunked"
_C_INT = struct.Struct("i")
STOPS = (503, "the gateway stops")
CLOSED_SIDE = (499, "the client closed its side of the connection")


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """What the system has of a connection that has not arrived; 0 where that cannot be told."""
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(_C_INT.size))
    except (OSError, ValueError, AttributeError, RuntimeError):  # it is closed, or no socket of the system's
        return 0
    return int(_C_INT.unpack(answer)[0])


class ClientConnection(asyncio.Protocol):
    """Parses requests and has them answered in order."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.writable = True
        self.deadline_s = math.inf
        self._parser = HttpRequestParser(self)
        self._incoming: ServedRequest | None = None  # being received
        self._queue: deque[ServedRequest] = deque()  # received, wait to be answered
        self._current: ServedRequest | None = None
        self._advancing = False
        self._framing_head = b""  # for the parser that goes on after an offered upgrade
        self._head_is_ours = False  # that one reads it
        self._url = b""
        self._head_bytes = 0  # of the fields in the head and in the trailer, and how many they are
        self._fields = 0
        self._hosts = 0  # of the fields, those that say the host
        self._chunks = 0  # of the body that is being received, and its bytes
        self._content_bytes = 0
        self._bare_bytes = 0  # that have come since there was last a head or a part of a body in what came
        self._bare = True  # there was none so far in what is being read
        self._begun_s = 0.0  # when the request that is being received began
        self._paused = False
        self._silent = True  # nothing has come yet
        self._half_closed = False
        self._closing = False  # nothing that comes counts any more
        self._lingers = False  # the client may still be sending, and is to read why it was refused
        self._lingering_bytes = 0
        self._said_eof = False
        self._lost = False
        self._peer = ""
        self._unsent = bytearray()  # what a slow client is to get after what the transport holds
        self._sent_bytes = 0  # what that and the system held when they were looked at last, and the client had not yet
        self._unread_bytes = 0  # of both, as counted by the server
        self.took_s = 0.0  # when a slow client was last seen to have taken something

    # -- the transport's calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self.server.connections.add(self)
        self._set_deadline()
        if len(self.server.connections) > self.server.limits.connections:
            self._refuse(503, "this gateway has as many connections as it takes")
            self._advance()

    def data_received(self, data: bytes) -> None:
        """Parse it; answer what is whole."""
        if self._closing:
            self._lingering_bytes += len(data)
            if self._lingering_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        self._silent = False
        self._bare = True
        try:
            self._parse(data)
        except HttpParserError as error:
            self._refuse(400, f"this is not HTTP/1.1: {error}")
        if self._incoming is not None:
            # A field that does not end is kept by the parser, and shows in nothing else: in the head, or in the trailer.
            self._bare_bytes = self._bare_bytes + len(data) if self._bare else 0
            if self._bare_bytes > self.server.limits.head_bytes:
                self._refuse_fields()
        self._advance()

    def _parse(self, data: bytes) -> None:
        while data and not self._closing:
            try:
                self._parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                # An upgrade is offered, and is not taken (RFC 9110, 7.8). The parser stops at the head's end all the same:
                # another one goes on with the body, and has only to know how that is framed.
                data = data[upgrade.args[0] :]
                framing, self._framing_head = self._framing_head, b""
                self._parser = HttpRequestParser(self)
                self._head_is_ours = True
                self._parser.feed_data(framing)

    def eof_received(self) -> bool:
        """The client sends no more, and is gone unless what it asked for is cheap."""
        self._half_closed = True
        if self._incoming is not None:
            self._refuse(400, "the request ends in its middle")
        self._closing = True
        if self._current is not None and not self._current.cheap:
            self._leave(CLOSED_SIDE)
        self._advance()
        return self._current is not None or bool(self._unsent)

    def connection_lost(self, _error: Exception | None) -> None:
        """The client has gone."""
        self._lost = self._closing = True
        self.server.connections.discard(self)
        self._forget_unread()
        self._leave(CLOSED_SIDE)
        if self._incoming is not None:
            self._release(self._incoming)
        self._drop_queue()

    def pause_writing(self) -> None:
        """The client is slow to read."""
        self.writable = False
        self.server.slow.add(self)
        self._took()

    def resume_writing(self) -> None:
        """It reads on: it gets what was kept for it, part by part, and then what comes."""
        self.writable = True
        unsent = self._unsent
        while unsent and self.writable and not self.transport.is_closing():
            part = unsent[:WRITE_HIGH_BYTES]
            del unsent[:WRITE_HIGH_BYTES]
            self.transport.write(part)
        if not self.writable:
            self._took()
            return
        self._forget_unread()
        self._set_deadline()
        current = self._current
        if current is not None and current.on_writable is not None:
            callback, current.on_writable = current.on_writable, None
            callback()
        self._advance()

    # -- what is not read ------------------------------------------------------------------------------------------

    @property
    def holds_more(self) -> bool:
        """Whether more can be kept for a client that is slow to read."""
        return len(self._unsent) < self.server.limits.client_buffer_bytes

    def look(self) -> None:
        """See whether a slow client has taken something: nothing is added meanwhile to what is on its way."""
        if self._on_their_way() < self._sent_bytes:
            self._took()

    def cut_off(self, why: str) -> None:
        """Give a client up that does not read."""
        if not self._lost:
            _log.info("client_cut_off", peer=self.peer, why=why, unread_bytes=self._unread_bytes)
            self._forget_unread()
            self.transport.abort()

    def _took(self) -> None:
        """The client has taken something, or begins to be slow."""
        self._sent_bytes = self._on_their_way()
        self.took_s = self.server.loop.time()
        self.deadline_s = self.took_s + self.server.limits.client_stall_s
        self._count_unread(self.transport.get_write_buffer_size() + len(self._unsent))

    def _on_their_way(self) -> int:
        """Bytes that the transport and the system hold. The transport alone would not show that a client reads slowly: the
        system takes no more from it before a third of its own megabytes is empty."""
        return self.transport.get_write_buffer_size() + unacknowledged_bytes(self.transport)

    def _count_unread(self, unread_bytes: int) -> None:
        self.server.unread(unread_bytes - self._unread_bytes)
        self._unread_bytes = unread_bytes

    def _forget_unread(self) -> None:
        self._unsent.clear()
        self._count_unread(0)
        self.server.slow.discard(self)

    # -- the parser's calls ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins."""
        if self._closing or self._head_is_ours:
            return
        self._incoming = ServedRequest(self)
        self._url = b""
        self._hosts = 0
        self._head_bytes = self._fields = self._bare_bytes = self._chunks = self._content_bytes = 0
        self._begun_s = self.server.loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        if len(self._url) <= self.server.limits.head_bytes and not self._head_is_ours:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        request = self._incoming
        if request is None or self._head_is_ours:
            return
        self._head_bytes += len(name) + len(value) + 4
        self._fields += 1
        if self._has_too_many_fields():
            if request.method:
                self._refuse_fields()
        elif not request.method:
            key = name.decode("latin-1").lower()
            self._hosts += key == "host"
            request.headers[key] = value.decode("latin-1")

    def _has_too_many_fields(self) -> bool:
        limits = self.server.limits
        return self._fields > limits.headers or self._head_bytes + len(self._url) > limits.head_bytes

    def _refuse_fields(self) -> None:
        limits = self.server.limits
        self._refuse(
            431, f"head and trailer of the request have more than {limits.headers} fields, or {limits.head_bytes} bytes"
        )

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._head_is_ours:
            self._head_is_ours = False
            return
        request = self._incoming
        if request is None or self._closing:
            return
        limits = self.server.limits
        parser = self._parser
        self._bare = False
        request.method = parser.get_method().decode("latin-1")
        request.target, host = origin_form(self._url.decode("latin-1"))
        request.is_old = parser.get_http_version() == "1.0"
        request.keep_alive = parser.should_keep_alive()
        if self._has_too_many_fields():
            self._refuse_fields()
            return
        if not is_target(request.target):
            self._refuse(400, "the request's target is no path of printable ASCII characters")
            return
        request.path = request.target.partition("?")[0]
        headers = request.headers
        if request.method == "CONNECT":
            self._refuse(400, "this gateway is no proxy")
            return
        if parser.should_upgrade():
            coding = headers.get("transfer-encoding")
            if coding is not None and coding.lower() != "chunked":  # of which the parser says nothing in this case
                self._refuse(400, "the body's transfer encoding is not chunked")
                return
            framing = b"Content-Length: " + headers.get("content-length", "0").encode("latin-1")
            self._framing_head = b"POST / HTTP/1.1\r\n%b\r\n\r\n" % (framing if coding is None else CHUNKED)
        if self._hosts > 1 or (not self._hosts and not request.is_old):
            self._refuse(400, f"the request has {self._hosts or 'no'} Host headers; it takes one")
            return
        if host:
            headers["host"] = host  # what a request says beside it does not count
        self.server.application.classify(request)
        length = headers.get("content-length", "")
        if not request.taken_as_it_comes and length.isdigit() and int(length) > limits.body_bytes:
            self._refuse(413, f"the body has {length} bytes; this gateway takes {limits.body_bytes}")
            return
        if "expect" in headers:
            request.continues = headers["expect"].lower() == "100-continue" and not request.is_old
        if request.taken_as_it_comes:
            self._received(request)
        elif request.continues and self._current is None and not self._queue:
            self.go_on(request)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunks += 1
        if self._chunks > CHUNKS_FREE + self._content_bytes // CHUNK_MEAN_BYTES:
            self._refuse(400, f"the body comes in more than {CHUNKS_FREE} chunks of less than {CHUNK_MEAN_BYTES} bytes")

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._bare = False
        self._content_bytes += len(data)
        request = self._incoming
        if request is None or self._closing:
            return
        request.continues = False
        if request.taken_as_it_comes:
            if not request.ended:
                request.add(data)
            return
        limits = self.server.limits
        request.held_bytes += len(data)
        self.server.body_bytes += len(data)
        if request.held_bytes > limits.body_bytes:
            self._refuse(413, f"the body has more than the {limits.body_bytes} bytes that this gateway takes")
        elif self.server.body_bytes > limits.all_bodies_bytes:
            self._refuse(503, "this gateway holds as many bytes of requests as it can")
        else:
            request.add(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._framing_head:
            return  # only its head is
        request, self._incoming = self._incoming, None
        if request is None or self._closing:
            return
        request.complete()
        if not request.taken_as_it_comes:
            self._received(request)
        if not request.keep_alive:
            self._closing = True  # what comes after it is not for us

    # -- in order --------------------------------------------------------------------------------------------------

    def _received(self, request: ServedRequest) -> None:
        self._queue.append(request)
        if len(self._queue) > PIPELINED_MAX:
            self._refuse(429, f"more than {PIPELINED_MAX} requests were sent ahead of their answers")

    def _advance(self) -> None:
        """Answer the next request, if none is being answered; read on, or not; say by when something must happen."""
        if self._lost or self._advancing:
            return
        self._advancing = True
        while self._current is None and self._queue and self.writable:  # who does not read is not answered any further
            self._answer(self._queue.popleft())
        self._advancing = False
        if self._current is None and self._closing and not self._queue:
            self._close()
            return
        self.body_taken()
        self._set_deadline()

    def _answer(self, request: ServedRequest) -> None:
        self._current = request
        self.go_on(request)
        if request.refusal is not None:
            self._answer_refusal(request)
            self.answered(request)
            return
        try:
            work = self.server.application.answer(request)
        except Exception as error:  # noqa: BLE001
            self.broke(request, error)
            return
        if work is not None:
            request.task = self.server.loop.create_task(self._carry_out(request, work))
        elif request.on_gone is None:
            self.answered(request)

    async def _carry_out(self, request: ServedRequest, work: Coroutine[Any, Any, None]) -> None:
        try:
            if request.refusal is None:
                request.started = True
                await work
            else:  # a task that is cancelled before its first step takes none: it is not cancelled, and looks here
                work.close()
                self._answer_refusal(request)
        except asyncio.CancelledError:
            if not request.gone:
                raise
            self._answer_refusal(request)
        except Exception as error:  # noqa: BLE001
            self.broke(request, error)
        finally:
            request.task = None
        if request.on_gone is None:
            self.answered(request)

    def _answer_refusal(self, request: ServedRequest) -> None:
        assert request.refusal is not None
        request.keep_alive = False
        if request.begun and request.refusal == STOPS and not request.ended:  # a stream
            request.end(self.server.application.broken_off(request, request.refusal[1]))
            return
        if request.begun:
            request.break_off()
            return
        # A request that had begun is in the record; the others leave a line in the log.
        body = self.server.application.refused(request, *request.refusal)
        headers = {"Content-Type": "application/json"}
        if request.refusal[0] == 503:
            headers["Retry-After"] = "1"
        request.respond(request.refusal[0], headers, body)

    def _refuse(self, status: int, message: str) -> None:
        """What is being received is no request: it is answered in its turn, and nothing after it counts."""
        if self._closing:
            return
        self._closing = self._lingers = True
        request, self._incoming = self._incoming, None
        request = request or ServedRequest(self)
        request.whole = True
        self._release(request)
        if request is self._current:  # its body breaks while it is taken
            self._leave((status, message))
            return
        request.refusal = (status, message)
        if request not in self._queue:
            self._queue.append(request)

    def _leave(self, why: tuple[int, str]) -> None:
        """Who answers the current request stops."""
        current = self._current
        if current is None or current.refusal is not None:
            return
        current.refusal = why
        if current.on_gone is not None:
            current.on_gone()
            self._answer_refusal(current)
            current.done()
        elif current.started and current.task is not None:
            current.task.cancel()

    def _release(self, request: ServedRequest) -> None:
        self.server.body_bytes -= request.held_bytes
        request.held_bytes = 0
        request.drop()

    def _drop_queue(self) -> None:
        for request in self._queue:
            self._release(request)
        self._queue.clear()

    # -- what requests ask of their connection ---------------------------------------------------------------------

    def answered(self, request: ServedRequest) -> None:
        """Nothing more is said to this request: the next one, or the end."""
        if request is not self._current:
            return
        self._current = None
        if not request.ended:  # nothing can be said any more
            self.abort()
        self._release(request)
        if not request.whole:  # the rest of its body is of no interest
            self._lingers = True
        if self._lost or not request.whole or not request.keep_alive or self.transport.is_closing():
            self._closing = True
            self._drop_queue()
        if self.server.stopping and not self._queue:
            self._closing = True
        self._advance()

    def broke(self, request: ServedRequest, error: Exception) -> None:
        """Nor to this one: an error of ours broke it."""
        _log.error("request_broke_the_gateway", path=request.path, error=repr(error), exc_info=error)
        body = self.server.application.refused(request, 500, "an error of the gateway")
        request.respond(500, {"Content-Type": "application/json"}, body)
        self.answered(request)

    @property
    def peer(self) -> str:
        """The address that the client has; its ports change."""
        if not self._peer:
            name = self.transport.get_extra_info("peername")
            self._peer = str(name[0]) if isinstance(name, tuple) and name else "unknown"
        return self._peer

    def write(self, data: bytes) -> None:
        """Send it, if somebody is there."""
        if self._lost or self.transport.is_closing():
            return
        if self.writable:
            self.transport.write(data)
        else:
            self._unsent += data
            self._count_unread(self._unread_bytes + len(data))

    def closing_line(self, request: ServedRequest) -> bytes:
        """The headers `Date` and `Connection`."""
        if self.server.stopping or not request.whole:
            request.keep_alive = False
        date = self.server.date_line()
        if not request.keep_alive:
            return date + b"Connection: close\r\n"
        return date + b"Connection: keep-alive\r\n" if request.is_old else date

    def go_on(self, request: ServedRequest) -> None:
        """Tell the client to send its body, if it waits for that."""
        if request.continues:
            request.continues = False
            self.write(CONTINUE)

    def body_taken(self) -> None:
        """Read no further while a request waits for another, or a body for its node."""
        if self._lost or self.transport.is_closing():
            return
        current = self._current
        takes_none = current is not None and current.waiting_bytes > BODY_HIGH_BYTES
        pause = (takes_none or bool(self._queue)) and not self._closing
        if pause is not self._paused:
            self._paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def abort(self) -> None:
        """Close without a word."""
        if not self._lost:
            self.transport.abort()

    # -- time and the end ------------------------------------------------------------------------------------------

    def _set_deadline(self) -> None:
        limits = self.server.limits
        incoming = self._incoming
        if not self.writable:
            return  # it is that of a client that must read
        if incoming is None or self._paused:
            busy = self._current is not None
            self.deadline_s = math.inf if busy else self.server.loop.time() + limits.idle_s
        elif not incoming.method:
            self.deadline_s = self._begun_s + limits.head_s
        else:
            self.deadline_s = self.server.loop.time() + limits.body_silence_s
            if not incoming.taken_as_it_comes:
                self.deadline_s = min(self.deadline_s, self._begun_s + limits.body_s)

    def expired(self) -> None:
        """What had to happen by the deadline did not."""
        self.deadline_s = math.inf
        if not self.writable:
            self.cut_off(f"it read nothing for {self.server.limits.client_stall_s:g} s")
        elif self._closing or self._incoming is None:
            self.transport.abort()
        else:
            self._refuse(408, "the request did not come in time")
            self._advance()

    def stop(self) -> None:
        """The server stops: close when what has begun has ended."""
        if self._current is None and self._incoming is None and not self._queue:
            if self._silent:  # its first request may be on its way
                self.deadline_s = self.server.loop.time() + LINGER_S
            else:
                self._closing = True
                self._close()

    def break_off(self) -> None:
        """Answer what is still to be answered with an error, and close."""
        if self._incoming is not None:
            self._refuse(*STOPS)
        for request in self._queue:
            request.refusal = request.refusal or STOPS
        self._closing = True
        self._lingers = False
        self._leave(STOPS)
        self._advance()

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer on it."""
        return self._current is not None or self._incoming is not None or bool(self._queue)

    @property
    def task(self) -> asyncio.Task[None] | None:
        """That is at work for it."""
        return self._current.task if self._current is not None else None

    def _close(self) -> None:
        """Close when what was written has been sent; a client that still sends may first read why it was refused."""
        if self._unsent:
            return  # until it has been sent: `resume_writing`
        now_s = self.server.loop.time()
        if self._lingers and not self._half_closed and self.transport.can_write_eof():
            if self.writable:
                self.deadline_s = now_s + LINGER_S
            if self._said_eof:
                return
            self._said_eof = True
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
            self.transport.write_eof()
            return
        if self.writable:
            self.deadline_s = now_s + self.server.limits.client_stall_s
        self.transport.close()
