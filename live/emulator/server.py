"""The emulator's HTTP side: Ollama's API in front of the node model.

No header is sent before the first token, tokens are sent when the node model says that they exist, and a client that
goes away cancels its job, also during a load.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import random
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from aiohttp import ClientConnectionResetError, web

from live.emulator.calls import Call, JsonObject, Refused, parse_object, text_field
from live.emulator.config import EmulatorConfig
from live.emulator.dialects import Chat, ChatCompletions, Dialect, Generate, new_stream_id
from live.emulator.embeddings import GO_TYPE as EMBED_TYPE
from live.emulator.embeddings import PATH as EMBED_PATH
from live.emulator.embeddings import embed
from live.emulator.faults import NotPossible, perform, status
from live.emulator.foreign import OPERATIONS as FOREIGN_OPERATIONS
from live.emulator.foreign import ForeignOnNode
from live.emulator.generation import Generation, Timings
from live.emulator.keep_alive import KeepAlive
from live.emulator.pulls import pull
from live.emulator.refusals import refuse_if_failed, unsupported
from live.emulator.text import TokenText
from twin.sim.answers import GIBBERISH
from twin.sim.engine import Clock
from twin.sim.node import ModelOnNode, OllamaNode

VERSION = "0.24.0"
"""The Ollama that is emulated."""
VERSION_THAT_COUNTS_CACHED_TOKENS = "0.30.2"
DEFAULT_OUTPUT_TOKENS = 128
"""Where the client sets no limit: a model of one's own would stop by itself somewhere."""
THOUGHT_SHARE = 2
"""Of the tokens of an answer that is thought about, one in so many is of the thinking: the first ones."""
LOCK_POLL_S = 0.02
GARBLED_TOKEN = "G"
"""What a runner with corrupted memory says, again and again (ollama/ollama issues 5641, 12142)."""
BODY_LIMIT_BYTES = 64 << 20
_GIB = 1 << 30
_FOR_EVER = timedelta(days=106_751)  # as Ollama says it: the longest of Go's durations
_NO_TIMINGS = Timings(0.0, 0.0, 0.0, 0.0)
_JSON = "application/json; charset=utf-8"

_access = logging.getLogger("live.emulator.access")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EmulatorServer:
    """Serves one node model. Must be made in the event loop that its clock runs on."""

    def __init__(self, config: EmulatorConfig, clock: Clock) -> None:
        keep_alive_s = math.inf if config.keep_alive_s is None else config.keep_alive_s
        models = {
            name: ModelOnNode(name, model.size_gib, model.memory_gib, model.context_tokens, 1 if model.embedding else 0)
            for name, model in config.models.items()
        }
        self._trained = {name: model.trained_tokens for name, model in config.models.items()}
        self._embedding = {name for name, model in config.models.items() if model.embedding}
        self.node = OllamaNode(clock, config.listen, config.hardware, models, config.slots, config.max_queue, None)
        self._clock = clock
        self._keep_alive = KeepAlive(self.node, clock, keep_alive_s)
        self._foreign = ForeignOnNode(self.node, clock)
        self._started = datetime.now(UTC)
        for name in config.preloaded:
            self.node.add_runner(name)
            self._keep_alive.used(name)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_get("/", self._root)  # aiohttp adds HEAD to each GET
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps, allow_head=False)
        app.router.add_get("/v1/models", self._v1_models)
        app.router.add_post("/api/show", self._show)
        app.router.add_post("/api/pull", self._pull)
        for dialect in (Generate(), Chat(), ChatCompletions()):
            app.router.add_post(dialect.path, self._handler(dialect))
        app.router.add_post(EMBED_PATH, self._embed)
        app.router.add_post("/emulator/operation", self._operation)
        app.router.add_get("/emulator/status", self._status)
        return app

    # -- generations ----------------------------------------------------------------------------------------------

    def _handler(self, dialect: Dialect) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            started_s = time.monotonic()
            try:
                call = dialect.parse(parse_object(await request.read(), dialect.go_type))
                response = await self._answer(request, dialect, call)
            except Refused as refused:
                body = dialect.error(refused.status, str(refused))
                return web.Response(status=refused.status, body=body, headers={"Content-Type": _JSON})
            _log_access(request, started_s)
            return response

        return handle

    async def _embed(self, request: web.Request) -> web.Response:
        started_s = time.monotonic()
        try:
            fields = parse_object(await request.read(), EMBED_TYPE)
            body = await embed(fields, self.node, self._keep_alive, self._model)
        except Refused as refused:
            return _json({"error": str(refused)}, refused.status)
        _log_access(request, started_s)
        return _whole(body)

    async def _answer(self, request: web.Request, dialect: Dialect, call: Call) -> web.StreamResponse:
        model = self._model(call.model)
        if not call.prompt and call.keep_alive_s == 0.0:
            self._keep_alive.used(model.name, 0.0)
            return _whole(dialect.whole(call, "", "unload", 0, _NO_TIMINGS))
        without_file = unsupported(call.model, dialect.capability)
        if model.name in self._embedding:  # after the unload, which Ollama grants first
            raise without_file
        context_tokens = call.context_tokens or model.context_tokens
        output_tokens = (call.output_tokens or DEFAULT_OUTPUT_TOKENS) if call.prompt else 0
        content = zlib.crc32(call.prompt.encode())
        generation = Generation(self.node, model.name, call.prompt_tokens, output_tokens, context_tokens, content)
        try:
            if not call.prompt:
                await generation.more()
                refuse_if_failed(generation, without_file)
                return _whole(dialect.whole(call, "", "load", 0, _NO_TIMINGS))
            seed = call.seed if call.seed is not None else random.getrandbits(64)
            text = TokenText(model.name, call.prompt, seed, call.said_tokens)
            answer = self._stream if call.stream else self._collect
            return await answer(request, dialect, call, generation, text)
        finally:
            generation.cancel()
            self._keep_alive.used(model.name, call.keep_alive_s)

    async def _collect(
        self, _request: web.Request, dialect: Dialect, call: Call, generation: Generation, text: TokenText
    ) -> web.StreamResponse:
        tokens = 0
        while not generation.ended:
            tokens += len(await generation.more())
        refuse_if_failed(generation, unsupported(call.model, dialect.capability))
        self.node.generations += 1
        words = _texts(generation, text, range(generation.job.tokens))
        thought = _thought_tokens(call, generation)
        call = self._counted(call, generation)
        reason = "length" if call.output_tokens else "stop"
        thinking, whole = "".join(words[:thought]), "".join(words[thought:])
        return _whole(dialect.whole(call, whole, reason, generation.job.tokens, generation.timings(), thinking))

    async def _stream(
        self, request: web.Request, dialect: Dialect, call: Call, generation: Generation, text: TokenText
    ) -> web.StreamResponse:
        stream_id = new_stream_id()
        thought = _thought_tokens(call, generation)
        response = web.StreamResponse(headers={"Content-Type": dialect.stream_type})
        while True:
            new = await generation.more()
            if not response.prepared:
                if not new:
                    refuse_if_failed(generation, unsupported(call.model, dialect.capability))
                await response.prepare(request)
            words = _texts(generation, text, new)
            cut = max(0, min(len(words), thought - new.start))
            data = dialect.parts(call, stream_id, words[:cut], thought=True)
            data += dialect.parts(call, stream_id, words[cut:])
            if generation.ended and generation.error:
                # Without its terminal record a stream just ends.
                data += dialect.broken(stream_id) if generation.error != "no_terminal_record" else b""
            elif generation.ended:
                self.node.generations += 1
                reason = "length" if call.output_tokens else "stop"
                call = self._counted(call, generation)
                data += dialect.last(call, stream_id, reason, generation.job.tokens, generation.timings())
            try:
                await response.write(data)
                if generation.ended:
                    await response.write_eof()
                    return response
            except ClientConnectionResetError:
                return response  # the client is gone; the caller cancels the job

    def _counted(self, call: Call, generation: Generation) -> Call:
        """The call with the prompt tokens that the node says it evaluated."""
        return replace(call, prompt_tokens=self.node.answers.prompt_eval_count(generation.job))

    # -- what can be read -----------------------------------------------------------------------------------------

    async def _root(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _request: web.Request) -> web.Response:
        counts_cached = self.node.conditions.values["prompt_count_factor"] != 1.0
        return _json({"version": VERSION_THAT_COUNTS_CACHED_TOKENS if counts_cached else VERSION})

    async def _tags(self, _request: web.Request) -> web.Response:
        models = [{**self._about(model), "modified_at": _date(self._started)} for model in self.node.models.values()]
        return _json({"models": models})

    async def _ps(self, request: web.Request) -> web.Response:
        while self.node.malfunctions.lock_held:  # the list is behind the same lock as a hung unload
            if request.transport is None or request.transport.is_closing():
                return _json({})
            await asyncio.sleep(LOCK_POLL_S)
        models = []
        for name, runner in self.node.runners.items():
            size = round(runner.memory_gib * _GIB)
            left_s = self._keep_alive.expires_in_s(name)
            expires_at = datetime.now(UTC) + (timedelta(seconds=left_s) if math.isfinite(left_s) else _FOR_EVER)
            claimed = self.node.conditions.values["ps_claims_gpu"]
            size_vram = size if claimed else round(sum(self.node.memory.placements[name].vram_gib) * _GIB)
            about = {**self._about(self.node.models[name]), "size": size, "size_vram": size_vram}
            context_tokens = min(runner.context_tokens, self._trained[name])
            models.append({**about, "expires_at": _date(expires_at), "context_length": context_tokens})
        return _json({"models": models})

    async def _v1_models(self, _request: web.Request) -> web.Response:
        created = int(self._started.timestamp())
        data = [{"id": name, "object": "model", "created": created, "owned_by": "library"} for name in self.node.models]
        return _json({"object": "list", "data": data})

    async def _show(self, request: web.Request) -> web.Response:
        try:
            fields = parse_object(await request.read(), "api.ShowRequest")
            model = self._model(text_field(fields, "model", "api.ShowRequest"))
        except Refused as refused:
            return _json({"error": str(refused)}, refused.status)
        info = {"general.architecture": "llama", "llama.context_length": self._trained[model.name]}
        details = self._about(model)["details"]
        capability = "embedding" if model.name in self._embedding else "completion"
        shown = {"details": details, "model_info": info, "capabilities": [capability], "template": ""}
        return _json({**shown, "modified_at": _date(self._started)})

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        return await pull(request, self.node, self._model)

    def _model(self, name: str) -> ModelOnNode:
        """The model of that name, in any of its spellings. Raises Refused."""
        short = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
        for spelling in (short, f"{short}:latest", short.removesuffix(":latest")):
            if spelling in self.node.models:
                return self.node.models[spelling]
        raise Refused(404, f"model '{name}' not found")

    def _about(self, model: ModelOnNode) -> JsonObject:
        return {
            "name": model.name,
            "model": model.name,
            "size": round(model.size_gib * _GIB),
            "digest": hashlib.sha256(model.name.encode()).hexdigest(),
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "unknown",
                "quantization_level": "unknown",
            },
        }

    # -- the control endpoint -------------------------------------------------------------------------------------

    async def _operation(self, request: web.Request) -> web.Response:
        try:
            fields = parse_object(await request.read(), "operation")
            operation = fields.get("operation")
            if operation in FOREIGN_OPERATIONS:
                self._foreign.perform(operation, fields.get("argument"), fields.get("foreign"))
            else:
                perform(self.node, operation, fields.get("argument"), fields.get("condition"))
        except (NotPossible, Refused) as refused:
            return _json({"error": str(refused)}, refused.status)
        return _json({})

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(status(self.node))


def _texts(generation: Generation, text: TokenText, indices: range) -> list[str]:
    if generation.job.answer == GIBBERISH:
        return [GARBLED_TOKEN] * len(indices)
    return [text.token(index) for index in indices]


def _thought_tokens(call: Call, generation: Generation) -> int:
    """How many of its tokens are thinking: none where it goes on with a text."""
    return generation.job.output_tokens // THOUGHT_SHARE if call.thinks and not call.said_tokens else 0


def _log_access(request: web.Request, started_s: float) -> None:
    """The line of Ollama's access log: it has a broken stream as 200 too."""
    took_ms = (time.monotonic() - started_s) * 1e3
    _access.info('[GIN] %s | 200 | %.3fms | %s | POST "%s"', _log_time(), took_ms, request.remote, request.path)


def _whole(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": _JSON})


def _json(value: object, status_code: int = 200) -> web.Response:
    return web.Response(status=status_code, body=json.dumps(value).encode(), headers={"Content-Type": _JSON})


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _log_time() -> str:
    return datetime.now(UTC).strftime("%Y/%m/%d - %H:%M:%S")
