"""What the nodes say of themselves, at the start and ever after: which models they have, and which are loaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import aiohttp
import structlog

from live.controller.runners import digest_of, is_made, look_alikes, runner_of, size_of
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
    runners: Mapping[str, str] = field(default_factory=dict)
    """Of what it has stored: what tells a model's runner from others', its digest where nothing else is known."""
    made: frozenset[str] = frozenset()
    """Of these, names that were made from others."""


def other_names(
    runners: Mapping[str, Mapping[str, str]], preferred: Collection[str], made: Collection[str] = ()
) -> dict[str, str]:
    """Names that are another name of one model: for each, the name to call it by. `runners`: what each node has.

    For Ollama a copy is no model of its own, nor is one made from another with texts and sampling of its own: one runner
    serves both names, and is listed by one of them. Two names are one only where all nodes that have the one have the other,
    and the same behind both; else a request for one of them could come to a node that does not know it. `preferred` names go
    first, then those that were not `made` from others (what a registry has can be fetched anew), then the alphabet.
    """
    places: dict[str, dict[str, str]] = {}
    for node, models in runners.items():
        for name, runner in models.items():
            places.setdefault(name, {})[node] = runner
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, found in places.items():
        if all(found.values()):
            groups.setdefault(tuple(sorted(found.items())), []).append(name)
    others: dict[str, str] = {}
    for names in groups.values():
        first, *rest = sorted(names, key=lambda name: (name not in preferred, name in made, name))
        others |= dict.fromkeys(rest, first)
    return others


async def discover(addresses: Mapping[str, str], *, timeout_s: float = 5.0) -> list[NodeReport]:
    """Ask all nodes at once; one that does not answer within the time is reported with the reason."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
        return await asyncio.gather(*(_ask(session, node, address) for node, address in addresses.items()))


async def _ask(session: aiohttp.ClientSession, node: str, address: str) -> NodeReport:
    try:
        stored = await _models(session, f"{address}/api/tags")
        loaded = await _models(session, f"{address}/api/ps")
        names = look_alikes(stored)
        shown = dict(zip(names, await asyncio.gather(*(_show(session, address, name) for name in names)), strict=True))
    except TimeoutError:
        return NodeReport(node, f"{address} does not answer")
    except (aiohttp.ClientError, OSError, TooLong, ValueError, RecursionError) as error:
        return NodeReport(node, f"{address}: {plain_reason(error)}")
    return NodeReport(
        node,
        stored={name: size_of(model, "size") * LOADED_PER_STORED / BYTES_PER_GIB for name, model in stored.items()},
        loaded={name: size_of(model, "size_vram", "size") / BYTES_PER_GIB for name, model in loaded.items()},
        runners={name: runner_of(shown.get(name, {})) or digest_of(model) for name, model in stored.items()},
        made=frozenset(name for name, said in shown.items() if is_made(said)),
    )


async def _models(session: aiohttp.ClientSession, url: str) -> dict[str, dict[str, object]]:
    """The models of a list by name. Raises ValueError for an answer that is none."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"{url} answered with status {response.status}; is it an Ollama?")
        answer = json.loads(await read_whole(response, ANSWER_LIMIT_BYTES))
    models = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        raise ValueError(f"{url} answered without a list of models; is it an Ollama?")
    named = (model for model in models if isinstance(model, dict) and isinstance(model.get("name"), str))
    return {canonical(model["name"]): model for model in named}


async def _show(session: aiohttp.ClientSession, address: str, name: str) -> dict[str, object]:
    """What the node says of a model; nothing where it does not: then the model is like no other, for now."""
    try:
        async with session.post(f"{address}/api/show", json={"model": name}, allow_redirects=False) as response:
            shown = json.loads(await read_whole(response, ANSWER_LIMIT_BYTES)) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, TooLong, ValueError, RecursionError) as error:
        _log.info("model_not_shown", address=address, model=name, why=plain_reason(error))
        return {}
    return shown if isinstance(shown, dict) else {}
