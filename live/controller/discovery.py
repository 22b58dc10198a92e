"""What the nodes say of themselves, at the start and ever after: which models they have, and which are loaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import structlog

from live.controller.transport import TooLong, plain_reason, read_whole
from twin.policy.model_names import canonical

_log = structlog.get_logger()

BYTES_PER_GIB = 1 << 30
LOADED_PER_STORED = 1.2
"""A loaded model needs about this many times its file: the KV cache and buffers come on top."""
ANSWER_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one node said. Sizes are in GiB: the memory that a model needs when it is loaded."""

    node: str
    problem: str = ""  # why it said nothing, in one line
    stored: Mapping[str, float] = field(default_factory=dict)
    loaded: Mapping[str, float] = field(default_factory=dict)


async def discover(addresses: Mapping[str, str], *, timeout_s: float = 5.0) -> list[NodeReport]:
    """Ask all nodes at once; one that does not answer within the time is reported with the reason."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
        return await asyncio.gather(*(_ask(session, node, address) for node, address in addresses.items()))


async def _ask(session: aiohttp.ClientSession, node: str, address: str) -> NodeReport:
    try:
        stored = await _models(session, f"{address}/api/tags")
        loaded = await _models(session, f"{address}/api/ps")
    except TimeoutError:
        return NodeReport(node, f"{address} does not answer")
    except (aiohttp.ClientError, OSError, TooLong, ValueError, RecursionError) as error:
        return NodeReport(node, f"{address}: {plain_reason(error)}")
    return NodeReport(
        node,
        stored={name: size * LOADED_PER_STORED / BYTES_PER_GIB for name, size in stored.items()},
        loaded={name: size / BYTES_PER_GIB for name, size in loaded.items()},
    )


async def _models(session: aiohttp.ClientSession, url: str) -> dict[str, int]:
    """Name to size in bytes. Raises ValueError for an answer that is none."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"{url} answered with status {response.status}; is it an Ollama?")
        answer = json.loads(await read_whole(response, ANSWER_LIMIT_BYTES))
    models = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        raise ValueError(f"{url} answered without a list of models; is it an Ollama?")
    sizes = {}
    for model in models:
        if isinstance(model, dict) and isinstance(model.get("name"), str):
            size = model.get("size_vram") or model.get("size")
            sizes[canonical(model["name"])] = size if isinstance(size, int) else 0
    return sizes
