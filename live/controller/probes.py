"""The probe ladder over HTTP: what a node says of itself, and whether it does what it is there for."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import aiohttp
import structlog

from live.controller.transport import (
    TooLong,
    cannot_generate,
    is_embedded,
    read_whole,
    status_error,
    transport_error,
)
from twin.policy.model_names import ModelNames
from twin.policy.vocabulary import AttemptError, Probe, ProbeResult

_log = structlog.get_logger()

TRAINED_S = 60.0
"""Where a model did not say for which length it was trained, none is asked for that at its node for this long."""
TRAINED_ASKED_MAX = 8
"""Models that are asked for it at one look: a node has no more loaded, or is none to be believed."""
TRAINED_KEPT_MAX = 1000
"""Models of which that is remembered."""

ANSWER_LIMIT_BYTES = 1 << 20
"""More than this is no answer to a probe: nodes are not trusted to be brief."""

_LET_GO_AFTER = "1ms"
# keep_alive 0 with an empty prompt would be answered "unload" without going near the loader; the shortest keep_alive
# above it loads the model, and lets it go at once.


class Prober(Protocol):
    """Answers each probe of the policy with one result, within the probe's time."""

    async def perform(self, probe: Probe) -> ProbeResult:
        """Ask the node. Never raises for what a node does."""


class _Failed(Exception):
    """The node answered, but not well."""

    def __init__(self, error: AttemptError) -> None:
        super().__init__(error)
        self.error = error


class _CannotGenerate(_Failed):
    """The model makes embeddings only, or its file is gone."""


class _Loaded(NamedTuple):
    """A model that a node lists as loaded."""

    name: str
    called: str  # by the node
    digest: str
    context_tokens: int  # 0: it does not say


@dataclass(slots=True)
class _Progress:
    """How far a probe came, so that one that ran out of time can say where."""

    connected: bool = False
    answered: bool = False

    def late(self) -> AttemptError:
        if self.answered:
            return "stall_timeout"
        return "first_token_timeout" if self.connected else "unreachable"


class HttpProber:
    """Probes nodes at their addresses, each over a new connection.

    A connection of its own for each probe: a hung node's probes take no place in a pool that others wait for, and a
    node that no longer accepts connections is seen, which an old connection would hide.

    A model that makes embeddings only proves its runner, and the way to it, by an embedding. Which ones these are the
    nodes say themselves, by how they refuse the first generation; it is remembered for as long as it holds.

    Of what is loaded `/api/ps` lists the `num_ctx` cut down to what the model was trained for, where what was asked for is
    compared uncut (`twin.policy.contexts`). So what is as long as that, and what says not how long that is, says nothing.
    """

    def __init__(self, addresses: Mapping[str, str], names: ModelNames) -> None:
        self._addresses = addresses
        self._names = names
        self._session: aiohttp.ClientSession | None = None
        self._embedding: set[tuple[str, str]] = set()  # node and model, as found
        self._trained: dict[
            str, float
        ] = {}  # digest of a model: tokens that it was trained for; infinite: no limit is known
        self._ask_trained_s: dict[str, float] = {}  # node: not before then, where it did not answer

    async def perform(self, probe: Probe) -> ProbeResult:
        """Ask the node; the result says what came of it within the probe's time."""
        progress = _Progress()
        error: AttemptError = ""
        loaded: list[_Loaded] = []
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(probe.timeout_s):
                loaded = await self._ask(probe, progress)
        except TimeoutError:
            error = progress.late()
        except _Failed as failed:
            error = failed.error
        except (aiohttp.ClientError, OSError) as broken:
            error = transport_error(broken)
        latency_s = time.monotonic() - started_s
        if loaded:
            await self._learn_trained(probe, loaded)
        return ProbeResult(
            probe.probe_id,
            probe.node,
            probe.kind,
            probe.model,
            not error,
            latency_s,
            error=error,
            models=tuple(model.name for model in loaded),
            contexts=tuple(self._asked_for(model) for model in loaded),
        )

    async def close(self) -> None:
        """Close what is still open."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, probe: Probe, progress: _Progress) -> list[_Loaded]:
        """What is loaded, where that was asked."""
        if probe.kind == "liveness":
            await self._call("GET", probe, "/api/version", None, progress)
            return []
        if probe.kind == "residency":
            answer = _one_object(await self._call("GET", probe, "/api/ps", None, progress))
            loaded = answer.get("models") or []
            if not isinstance(loaded, list):
                raise _Failed("error_record")
            named = [item for item in loaded if isinstance(item, dict) and isinstance(item.get("name"), str)]
            models = {
                self._names.of(item["name"]): _Loaded(
                    self._names.of(item["name"]),
                    item["name"],
                    _text_of(item, "digest"),
                    _whole_of(item, "context_length"),
                )
                for item in named
            }
            return list(models.values())
        if (probe.node, probe.model) not in self._embedding:
            try:
                await self._generate(probe, progress)
            except _CannotGenerate:
                pass
            else:
                return []
        await self._embed(probe, progress)
        return []

    async def _learn_trained(self, probe: Probe, loaded: Sequence[_Loaded]) -> None:
        """Ask what models were trained for of which that is not known yet, each once. It says nothing of the node's health,
        and is no part of the probe."""
        now_s = time.monotonic()
        new = {model.digest: model for model in loaded if model.context_tokens and model.digest not in self._trained}
        new.pop("", None)
        if not new or now_s < self._ask_trained_s.get(probe.node, 0.0):
            return
        if len(self._trained) > TRAINED_KEPT_MAX:
            self._trained.clear()
        try:
            async with asyncio.timeout(probe.timeout_s):
                for digest, model in list(new.items())[:TRAINED_ASKED_MAX]:
                    asked = {"model": model.called}
                    shown = _one_object(await self._call("POST", probe, "/api/show", asked, _Progress()))
                    self._trained[digest] = _trained_of(shown)
        except (TimeoutError, _Failed, aiohttp.ClientError, OSError) as error:
            self._ask_trained_s[probe.node] = now_s + TRAINED_S
            _log.info("model_not_shown", node=probe.node, why=repr(error))

    def _asked_for(self, model: _Loaded) -> int:
        """The `num_ctx` that a model was loaded for; 0: that cannot be told."""
        return model.context_tokens if model.context_tokens < self._trained.get(model.digest, 0) else 0

    async def _generate(self, probe: Probe, progress: _Progress) -> None:
        body: dict[str, Any] = {"model": probe.model}
        if probe.kind == "generation":
            options = {"num_predict": 1} | ({"num_ctx": probe.context_tokens} if probe.context_tokens else {})
            body |= {"prompt": "1", "stream": True, "options": options}
        else:
            body |= {"keep_alive": _LET_GO_AFTER}
        _check_ended_well(await self._call("POST", probe, "/api/generate", body, progress))

    async def _embed(self, probe: Probe, progress: _Progress) -> None:
        """One short text, or none: without one the model is loaded, and no more."""
        body: dict[str, Any] = {"model": probe.model}
        texts = ["1"] if probe.kind == "generation" else []
        if texts:
            body |= {"input": texts} | ({"options": {"num_ctx": probe.context_tokens}} if probe.context_tokens else {})
        else:
            body |= {"keep_alive": _LET_GO_AFTER}
        model = (probe.node, probe.model)
        try:
            record = _one_object(await self._call("POST", probe, "/api/embed", body, progress))
        except _Failed as failed:
            if failed.error == "client_error":  # another model has the name now, or its file is gone
                self._embedding.discard(model)
            raise
        if not is_embedded(record, len(texts)):
            raise _Failed("error_record" if "error" in record else "no_terminal_record")
        self._embedding.add(model)

    async def _call(
        self, method: str, probe: Probe, path: str, body: dict[str, Any] | None, progress: _Progress
    ) -> bytes:
        session = self._open_session()
        address = self._addresses[probe.node]
        async with session.request(
            method, address + path, json=body, allow_redirects=False, trace_request_ctx=progress
        ) as response:
            if response.status not in (200, 400):
                raise _Failed(status_error(response.status))
            progress.answered = response.status == 200
            try:
                answer = await read_whole(response, ANSWER_LIMIT_BYTES)
            except TooLong as error:
                raise _Failed("error_record") from error
        if cannot_generate(response.status, answer):
            raise _CannotGenerate("client_error")
        if response.status != 200:
            raise _Failed(status_error(response.status))
        return answer

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_end.append(_connected)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None),  # each probe has its own
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[trace],
            )
        return self._session


async def _connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.connected = True


def _one_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as garbage:
        raise _Failed("error_record") from garbage
    if not isinstance(value, dict):
        raise _Failed("error_record")
    return value


def _whole_of(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if type(value) is int and value > 0 else 0


def _text_of(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _trained_of(shown: dict[str, Any]) -> float:
    """Tokens that a model was trained for; infinite where its file does not say: then Ollama cuts nothing down."""
    about = shown.get("model_info")
    if not isinstance(about, dict):
        return math.inf
    return _whole_of(about, f"{about.get('general.architecture')}.context_length") or math.inf


def _check_ended_well(records: bytes) -> None:
    """A generation is a success only with its terminal record."""
    for line in records.splitlines():
        if not line.strip():
            continue
        record = _one_object(line)
        if "error" in record:
            raise _Failed("error_record")
        if record.get("done") is True:
            return
    raise _Failed("no_terminal_record")
