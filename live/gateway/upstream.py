"""The way to the nodes. The relay knows only the protocols here, so that a leaner client can take aiohttp's place."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Protocol

import aiohttp
from yarl import URL

from live.controller.transport import plain_reason, transport_error
from twin.policy.vocabulary import AttemptError

DRAIN_S = 0.25
"""How long the end of an answer is awaited after its terminal record, so that the connection can be used again."""


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


class Answer(Protocol):
    """A node's answer whose headers have come."""

    status: int
    content_type: str

    async def read(self) -> bytes:
        """The next bytes; none at the clean end. Raises `AttemptFailed`."""

    async def drain(self) -> None:
        """Nothing more is wanted of it: wait a moment for its end, then let the connection go."""

    def close(self) -> None:
        """Close the connection: what the node still does for it is cancelled."""


class Upstream(Protocol):
    """Sends requests to nodes."""

    async def send(
        self, node: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and wait for the headers of its answer. Raises `AttemptFailed`."""

    async def close(self) -> None:
        """Close all connections."""


class AiohttpAnswer:
    """An answer over aiohttp."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "")
        self._response = response

    async def read(self) -> bytes:
        """The next bytes, as they come."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptFailed(transport_error(error), plain_reason(error)) from error

    async def drain(self) -> None:
        """Read to the end, if it comes at once."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while await self._response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # the answer was whole; only its connection cannot be used again
        finally:
            self._response.close()  # no more than a release where the end was read

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


class AiohttpUpstream:
    """Sends requests over aiohttp, with connections that are kept for the next request.

    The `Host` header is the node's own: Ollama on loopback answers a foreign one with 403.
    """

    def __init__(self, addresses: Mapping[str, str], *, connect_timeout_s: float) -> None:
        self._addresses = addresses
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, node: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request; the answer's headers have come."""
        url = URL(self._addresses[node] + path, encoded=True)
        try:
            response = await self._open_session().request(
                method,
                url,
                data=io.BytesIO(body) if body else None,  # in pieces: a large body does not block the loop
                headers=headers,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptFailed(transport_error(error), plain_reason(error)) from error
        return AiohttpAnswer(response)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # how many a node gets is the policy's to say
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # bytes are relayed as they come
                skip_auto_headers=("Accept-Encoding", "Accept", "User-Agent"),
            )
        return self._session
