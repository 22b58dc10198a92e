"""A node that costs next to nothing: what is measured in front of it is the proxy.

`python -m live.gateway.bench.stub PORT`. The prompt of `/api/generate` says how many records to answer with, and
milliseconds between two of them: `"prompt": "100 20"`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop
from httptools import HttpRequestParser

from live.gateway.http_head import LAST_CHUNK, chunk

MODEL = "m"
PART = b'{"model":"m","created_at":"2026-01-01T00:00:00.000000Z","response":" word","done":false}\n'
END = (
    b'{"model":"m","created_at":"2026-01-01T00:00:00.000000Z","response":"","done":true,"done_reason":"stop",'
    b'"total_duration":5000000,"load_duration":1000000,"prompt_eval_count":3,"prompt_eval_duration":1000000,'
    b'"eval_count":1,"eval_duration":1000000}\n'
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_MODELS = [
    {"name": MODEL, "model": MODEL, "size": 1, "size_vram": 1, "digest": "0", "expires_at": "2099-01-01T00:00:00Z"}
]
_ANSWERS = {
    b"/api/tags": json.dumps({"models": _MODELS}).encode(),
    b"/api/ps": json.dumps({"models": _MODELS}).encode(),
    b"/api/version": b'{"version":"0.24.0"}',
}


class StubConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._parser = HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._transport: asyncio.Transport
        self._records = 0
        self._period_s = 0.0
        self._next_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        self._parser.feed_data(data)

    def connection_lost(self, _error: Exception | None) -> None:
        """The client has gone: say no more."""
        self._records = 0

    def on_message_begin(self) -> None:
        """Of the parser."""
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        """Of the parser."""
        self._url += url

    def on_body(self, data: bytes) -> None:
        """Of the parser."""
        self._body += data

    def on_message_complete(self) -> None:
        """Answer."""
        whole = _ANSWERS.get(self._url)
        if whole is not None:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(whole), whole))
            return
        words = (json.loads(self._body).get("prompt") or "").split()
        if len(words) != 2 or not words[0].isdigit():  # a probe
            words = ["0", "0"]
        self._records = int(words[0])
        self._period_s = float(words[1]) / 1000.0
        if self._period_s == 0:
            parts = b"".join(chunk(PART) for _ in range(self._records))
            self._transport.write(_STREAM_HEAD + parts + chunk(END) + LAST_CHUNK)
            return
        self._transport.write(_STREAM_HEAD)
        self._next_s = asyncio.get_running_loop().time()
        self._go_on()

    def _go_on(self) -> None:
        if self._transport.is_closing():
            return
        if self._records <= 0:
            self._transport.write(chunk(END) + LAST_CHUNK)
            return
        self._records -= 1
        self._transport.write(chunk(PART))
        self._next_s += self._period_s
        asyncio.get_running_loop().call_at(self._next_s, self._go_on)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(StubConnection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
