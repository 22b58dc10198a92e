"""The way back to the client. The relay knows only the protocol, so that a leaner server can take aiohttp's place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from aiohttp import web


class ClientGone(Exception):
    """The client has closed its connection."""


class Client(Protocol):
    """One client, waiting for one answer. Every method raises `ClientGone` once it has closed its connection."""

    @property
    def begun(self) -> bool:
        """Whether the headers of the answer are on their way."""

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer."""

    async def begin(self, headers: Mapping[str, str]) -> None:
        """The headers of a stream, with status 200."""

    async def write(self, data: bytes) -> None:
        """A part of the stream; waits while the client is slow to read."""

    async def end(self) -> None:
        """The end of the stream."""

    def break_off(self) -> None:
        """Close the connection: there is no other way left to say that the answer is not whole."""


class AiohttpClient:
    """A client of aiohttp's server."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None
        self._stuck = False  # a write was given up while the client did not read

    @property
    def begun(self) -> bool:
        """Whether the headers are on their way."""
        return self.response is not None

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer."""
        await self._send_whole(web.Response(status=status, headers=headers, body=body))

    async def begin(self, headers: Mapping[str, str]) -> None:
        """The headers of a stream."""
        response = web.StreamResponse(headers=headers)
        self.response = response
        try:
            await response.prepare(self._request)
        except ConnectionError as error:
            raise ClientGone from error

    async def write(self, data: bytes) -> None:
        """A part of the stream."""
        await self._send(lambda response: response.write(data))

    async def end(self) -> None:
        """The end of the stream."""
        await self._send(lambda response: response.write_eof())

    async def _send(self, send: Callable[[web.StreamResponse], Awaitable[None]]) -> None:
        assert self.response is not None
        if self._stuck:
            self.break_off()
            raise ClientGone
        try:
            await send(self.response)
        except ConnectionError as error:
            raise ClientGone from error
        except asyncio.CancelledError:
            # aiohttp keeps the future that this waited on, and whoever writes next would be cancelled by it.
            self._stuck = True
            raise

    def break_off(self) -> None:
        """Close the connection."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _send_whole(self, response: web.Response) -> None:
        self.response = response
        try:
            await response.prepare(self._request)
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGone from error
