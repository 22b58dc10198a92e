"""What the nodes say of themselves, at the start and ever after: which models they have, and which are loaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp
import structlog

from live.controller.transport import TooLong, plain_reason, read_whole
from twin.policy.model_names import ModelNames, canonical
from twin.policy.vocabulary import NodeInventory

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


class ModelWatch:
    """Asks the nodes again and again which models they have on disk, and tells the policy what has changed.

    A model that appears on a node is served from then on; one that no node has any more is no longer known to clients.
    A node that does not answer keeps what it said last.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        names: ModelNames,
        observe: Callable[[NodeInventory], None],
        *,
        slots: int,
        configured: Iterable[str],
        period_s: float,
    ) -> None:
        """`configured`: models that clients may ask for whether a node has them or not."""
        self._addresses = addresses
        self._names = names
        self._observe = observe
        self._slots = slots
        self._configured = {canonical(name) for name in configured}
        self._period_s = period_s
        self._stored: dict[str, Mapping[str, float]] = {}
        self._problems: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, reports: Iterable[NodeReport]) -> None:
        """Begin; `reports` is what the nodes said at the start."""
        self.take(reports)
        self._task = asyncio.create_task(self._run(), name="models")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            self.take(await discover(self._addresses))

    def take(self, reports: Iterable[NodeReport]) -> None:
        """Compare with what is known, and pass on what is new."""
        for report in reports:
            if report.problem != self._problems.get(report.node, ""):
                self._problems[report.node] = report.problem
                _log.warning("node_models", node=report.node, problem=report.problem or "none any more")
            before = self._stored.get(report.node)
            if report.problem or before == report.stored:
                continue
            self._stored[report.node] = report.stored
            if before is not None:
                new, gone = sorted(set(report.stored) - set(before)), sorted(set(before) - set(report.stored))
                _log.info("models_changed", node=report.node, new=new, gone=gone)
            self._observe(NodeInventory(report.node, dict(report.stored), self._slots))
            for name in report.stored:
                self._names.learn(name)
            for name in before or ():
                if name not in self._configured and not any(name in stored for stored in self._stored.values()):
                    self._names.forget(name)
