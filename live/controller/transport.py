"""Errors of a conversation with a node, in the words of the policy's vocabulary."""

from __future__ import annotations

import errno
import json
import re
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


def status_error(status: int, body: bytes = b"") -> AttemptError:
    """How the attempt failed, where the node answered with a status other than 200, and said that.

    Ollama answers 500 to many a client's mistake, too (`"format": "xml"`, a temperature that is no number, a template that
    does not parse; tried on 0.24). So a 500 that says what is wrong, and nothing of a runner, a load or a machine, is taken
    for the client's until another node serves the same request.
    """
    if status in (429, 503):
        return "overloaded"
    if status == 500 and (_OF_A_CLIENT.match(error := _error_in(body)) or (error and not _OF_A_NODE.search(error))):
        return "client_error"
    return "client_error" if 400 <= status < 500 else "server_error"


_OF_A_NODE = re.compile(
    r"runner|\bload|memory|cuda|rocm|\bhip|vulkan|metal|ggml|llama\.cpp|\beof\b|connect|timed? ?out|killed|signal"
    r"|exit status|no such file|permission|disk|space|device|gpu|server",
    re.IGNORECASE,
)
"""Words of Ollama's errors that speak of the node (llm/server.go, server/sched.go, the runners' and the system's own)."""

_OF_A_CLIENT = re.compile(r"option \"|invalid (format|json schema|option)|template: ", re.IGNORECASE)
"""How errors of a request begin, whatever they name."""


def _error_in(body: bytes) -> str:
    """What Ollama says is wrong; empty where it is not Ollama, or says nothing. Both dialects."""
    error = object_in(body).get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else ""


def object_in(text: bytes | str) -> dict[str, object]:
    """The JSON object that somebody answers with, who is not trusted to; empty where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


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
