"""Errors of a conversation with a node, in the words of the policy's vocabulary."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import aiohttp

from twin.policy.vocabulary import AttemptError

UNREACHABLE_ERRNOS = frozenset(
    {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ETIMEDOUT}
)


def transport_error(error: Exception) -> AttemptError:
    """How the attempt failed, where the connection or the HTTP of it did."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "unreachable"
    if isinstance(error, aiohttp.ClientConnectorError):  # no connection was made; a name that is unknown counts too
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "unreachable"
        return "unreachable" if error.os_error.errno in UNREACHABLE_ERRNOS else "refused"
    return "reset"


def status_error(status: int) -> AttemptError:
    """How the attempt failed, where the node answered with a status other than 200."""
    if status in (429, 503):
        return "overloaded"
    return "client_error" if 400 <= status < 500 else "server_error"


def cannot_generate(status: int, body: bytes) -> bool:
    """Whether this is Ollama's refusal of `/api/generate` for a model that makes embeddings only.

    It refuses a model whose file is gone in the same words, and then `/api/embed` of it with 404 (measured on 0.24).
    """
    return status == 400 and b"does not support generate" in body


def is_embedded(record: Mapping[str, object], texts: int) -> bool:
    """Whether this is an answer of `/api/embed` to so many texts; to none it has an empty list, and the model loaded."""
    embeddings = record.get("embeddings")
    return isinstance(embeddings, list) and len(embeddings) == texts


class TooLong(Exception):
    """The node's answer is longer than it may be."""


async def read_whole(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body of an answer that is expected to be short. Raises `TooLong`."""
    whole = bytearray()
    async for data in response.content.iter_any():
        whole += data
        if len(whole) > limit_bytes:
            raise TooLong(f"more than {limit_bytes} bytes")
    return bytes(whole)


def plain_reason(error: Exception) -> str:
    """An exception's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__
