"""Clients that cost little: they count records and note when they came."""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

from httptools import HttpResponseParser

from live.gateway.bench.stub import MODEL

ANSWER_LIMIT_S = 30.0


class BenchError(Exception):
    """An answer was not what it had to be: its figures would be worthless."""


class BenchConnection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._parser = HttpResponseParser(self)
        self._done: asyncio.Future[None] | None = None
        self._tail = b""
        self.came_s: list[float] = []  # times at which something came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        self.came_s.append(time.perf_counter())
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        """It broke."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(BenchError(f"the connection was closed in an answer ({error})"))

    def on_body(self, data: bytes) -> None:
        """Of the parser."""
        self._tail = (self._tail + data)[-400:]

    def on_message_complete(self) -> None:
        """Of the parser."""
        if self._done is not None and not self._done.done():
            if self._parser.get_status_code() == 200 and b'"done":true' in self._tail:
                self._done.set_result(None)
            else:
                said = f"status {self._parser.get_status_code()}, ending with {self._tail[-200:]!r}"
                self._done.set_exception(BenchError(said))

    async def ask(self, request: bytes) -> float:
        """Send a request and wait for the whole answer; the seconds that it took."""
        self._parser = HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._tail = b""
        self.came_s.clear()
        started_s = time.perf_counter()
        self._transport.write(request)
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await self._done
        except TimeoutError:
            raise BenchError(f"no whole answer within {ANSWER_LIMIT_S:g} s, ending with {self._tail!r}") from None
        return time.perf_counter() - started_s

    def close(self) -> None:
        """Close it."""
        self._transport.close()


def request_bytes(port: int, records: int, period_ms: float) -> bytes:
    """A streaming generation of so many records."""
    body = json.dumps({"model": MODEL, "prompt": f"{records} {period_ms}", "options": {"seed": 1}}).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def connect(port: int) -> BenchConnection:
    """A connection to a port of this machine."""
    _, connection = await asyncio.get_running_loop().create_connection(BenchConnection, "127.0.0.1", port)
    return connection
