"""The gateway: which path is answered how."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import orjson
import structlog

from live.controller.access import is_loopback
from live.controller.driver import PolicyDriver
from live.gateway.call import Call, GenerationCall, PlainCall
from live.gateway.context import ContextLengths
from live.gateway.dialect import (
    BadRequest,
    Dialect,
    JsonObject,
    ParsedRequest,
    characters,
    parse_model,
    parse_object,
    tokens_of,
)
from live.gateway.form import form_field
from live.gateway.hosts import Hosts
from live.gateway.http_server import HttpServer
from live.gateway.inventory import Gathered, Inventory, merged, number, text
from live.gateway.messages import Messages
from live.gateway.native import Chat, Generate, embedding_request, is_unload, with_context
from live.gateway.node_pool import NodePool
from live.gateway.openai import ChatCompletions, Completions
from live.gateway.orders import Orders
from live.gateway.origins import Origins, beforehand, granted
from live.gateway.plain_endpoints import ErrorForms
from live.gateway.reads import ReadFailed, Reads
from live.gateway.relay import Relay
from live.gateway.request_log import RequestLog
from live.gateway.responses import Responses
from live.gateway.served_request import ServedRequest
from live.gateway.settings import GatewaySettings
from twin.policy.health import ROUTABLE
from twin.policy.model_names import ModelNames

_log = structlog.get_logger()

_JSON = "application/json"
_NATIVE = Generate()
_OPENAI = ChatCompletions()
_GENERATIONS: tuple[Dialect, ...] = (_NATIVE, Chat(), _OPENAI, Completions())
_EMBEDDINGS = ("/api/embed", "/api/embeddings", "/v1/embeddings")
_TYPED_EVENTS: tuple[Responses | Messages, ...] = (Responses(), Messages())
_OWN_ERRORS: dict[str, ErrorForms] = {dialect.path: dialect for dialect in _TYPED_EVENTS}
_HEADER_ID = re.compile(r"[\x21-\x7e]{1,128}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
REQUEST_TIMEOUT_MAX_S = 86_400.0
UNHEARD_RETRY_S = "1"
"""When it may be worth while to ask again for a model that a silent node may have: whoever asks has them asked."""

Work: TypeAlias = Coroutine[Any, Any, None] | None
"""What is left to do in a task, if anything."""
Handler: TypeAlias = Callable[[ServedRequest], Work]


class Gateway:
    """Listens, and answers as one Ollama would. Own it, `start` it, `stop` it."""

    def __init__(
        self,
        driver: PolicyDriver,
        addresses: Mapping[str, str],
        names: ModelNames,
        settings: GatewaySettings | None = None,
        recorded: Callable[[RequestLog], None] | None = None,
    ) -> None:
        """`addresses`: node name to base URL. `recorded` is called once for each request to a model, at its end."""
        self.settings = settings or GatewaySettings()
        self._driver = driver
        self._addresses = addresses
        self._names = names
        self._upstream = NodePool(addresses, connect_timeout_s=self.settings.connect_timeout_s)
        self._relay = Relay(driver, self._upstream, self.settings, recorded)
        self._reads = Reads(
            self._upstream,
            list(addresses),
            timeout_s=self.settings.read_timeout_s,
            limit_bytes=self.settings.read_limit_bytes,
        )
        self._server = HttpServer(self, self.settings.server)
        self._inventory = Inventory(self._reads, names, driver, self.settings.slots_per_model)
        self._orders = Orders(self._upstream, self._inventory, addresses, _NATIVE)
        self._contexts = ContextLengths(self.settings.context_tokens_max)
        self._origins = Origins(self.settings.origins)
        self._hosts = Hosts(self.settings.hosts)
        self._any_host = False
        self._keeping: asyncio.Task[None] | None = None
        self._handlers = self._routes()
        driver.on_abort(self.abort)

    def _routes(self) -> dict[tuple[str, str], Handler]:
        handlers: dict[tuple[str, str], Handler] = {}
        for dialect in _GENERATIONS:
            handlers["POST", dialect.path] = self._generation(dialect)
        for path in _EMBEDDINGS:
            handlers["POST", path] = self._embedding
        for events in _TYPED_EVENTS:
            handlers["POST", events.path] = self._streamed_only(events)
        handlers["POST", "/v1/audio/transcriptions"] = self._transcription
        for method in ("GET", "HEAD"):
            for path in ("/", "/api/version"):
                handlers[method, path] = self._read
            handlers[method, "/api/tags"] = self._tags
            handlers[method, "/api/ps"] = self._ps
            handlers[method, "/v1/models"] = self._models
        handlers["POST", "/api/show"] = self._read_model
        for path in ("/api/pull", "/api/push", "/api/create"):
            handlers["POST", path] = self._ordered(self._orders.progress)
        handlers["POST", "/api/copy"] = self._ordered(self._orders.copy)
        handlers["DELETE", "/api/delete"] = self._ordered(self._orders.delete)
        handlers["GET", "/-/healthz"] = self._healthz
        handlers["GET", "/-/readyz"] = self._readyz
        handlers["GET", "/api/status"] = self._read
        handlers["POST", "/api/me"] = self._read_model
        handlers["POST", "/api/signout"] = self._on_every_node
        for path in ("/v1/images/generations", "/v1/images/edits"):
            handlers["POST", path] = self._image
        return handlers

    # -- listening -------------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen for clients; the address. Raises OSError where that is not possible."""
        # Beyond loopback it has names that only its operator knows; where they are given, they are held to as well.
        self._any_host |= not is_loopback(host) and not self.settings.hosts
        address = await self._server.listen(host, port)
        if self.settings.inventory_period_s and self._keeping is None:
            self._keeping = asyncio.create_task(self._inventory.keep(self.settings.inventory_period_s))
        return address

    async def stop(self) -> None:
        """Accept nothing more, give running requests their time to end, then close their connections."""
        await self._server.stop(self.settings.shutdown_grace_s)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        await self._inventory.close()
        self._relay.close()
        await self._upstream.close()

    def abort(self, node: str) -> int:
        """Close the gateway's connections to a node; their requests go on as the policy says. How many they were."""
        return self._relay.abort(node)

    # -- for the server --------------------------------------------------------------------------------------------

    def classify(self, request: ServedRequest) -> None:
        """How the request is to be received."""
        request.cheap = request.method != "POST"
        request.taken_as_it_comes = request.method == "POST" and request.path.startswith("/api/blobs/")

    def answer(self, request: ServedRequest) -> Work:
        """Answer it."""
        headers = request.headers
        if not self._any_host and not self._hosts.allow(headers.get("host", "")):
            message = f"this gateway is not called {headers['host']}; its operator may add that name to hosts"
            self._error(request, _errors_of(request.path), 403, message)
            return None
        if "origin" in headers and self._is_settled_with_its_page(request):
            return None
        coding = headers.get("content-encoding", "identity").lower()
        if coding != "identity" and request.body:
            message = f"this gateway does not decode bodies with Content-Encoding {coding}; send it without"
            self._error(request, _errors_of(request.path), 415, message)
            return None
        return (self._handler(request.method, request.path) or self._not_offered)(request)

    def _is_settled_with_its_page(self, request: ServedRequest) -> bool:
        """Refuse what a page may not ask, and answer a browser that asks whether it may."""
        origin, headers = request.headers["origin"], request.headers
        if not self._origins.allow(origin, headers.get("host", "")):
            message = f"the gateway does not serve web pages of {origin}; its operator may add it to origins"
            self._error(request, _errors_of(request.path), 403, message)
            return True
        request.granted = granted(origin)
        if request.method != "OPTIONS":
            return False
        request.respond(200, beforehand(headers.get("access-control-request-headers", "")), b"")
        return True

    def _handler(self, method: str, path: str) -> Handler | None:
        handler = self._handlers.get((method, path))
        if handler is not None:
            return handler
        if method in ("GET", "HEAD") and path.startswith("/v1/models/"):
            return self._read_model
        if path.startswith("/api/experimental/"):
            return self._read_model
        if method == "DELETE" and path.startswith("/api/user/keys/"):
            return self._on_every_node
        if path.startswith("/api/blobs/"):
            if method == "HEAD":
                return self._orders.has_blob
            if method == "POST":
                return self._orders.blob
        return None

    def refused(self, request: ServedRequest, status: int, message: str) -> bytes:
        """It was no request; the body that says so."""
        _log.info("request_refused", path=request.path, status=status, why=message)
        return _errors_of(request.path).error_body(status, message)

    def broken_off(self, request: ServedRequest, message: str) -> bytes:
        """The last words of its stream."""
        return _errors_of(request.path).error_line(message)

    # -- requests to models ----------------------------------------------------------------------------------------

    def _generation(self, dialect: Dialect) -> Handler:
        def handle(request: ServedRequest) -> Work:
            def understand(body: bytes) -> Call:
                parsed = dialect.parse(body)
                if parsed.generates:
                    return self._generated(dialect, parsed)
                # A load, an unload or a rendered prompt: Ollama answers with one object, streaming or not.
                body = self._with_context(parsed)
                told = parsed.told_context_tokens if dialect.path.startswith("/api/") else 0
                call = self._plain(
                    dialect, request, body, parsed.model, limits_first_token=True, sent_context_tokens=told
                )
                call.is_unload = dialect.path.startswith("/api/") and is_unload(parsed.fields)
                return call

            return self._serve(request, dialect, understand)

        return handle

    def _generated(self, dialect: Dialect, parsed: ParsedRequest) -> GenerationCall:
        parsed.model = self._names.of(parsed.model)
        self._set_context(parsed)
        call = GenerationCall(
            dialect,
            parsed,
            line_limit_bytes=self.settings.line_limit_bytes,
            answer_limit_bytes=self.settings.answer_limit_bytes,
            may_continue=self.settings.continue_text,
        )
        self._note_truncation(call, parsed.send_context_tokens or 0)
        return call

    def _embedding(self, request: ServedRequest) -> Work:
        errors = _errors_of(request.path)

        def understand(body: bytes) -> Call:
            fields = parse_object(body)
            text = fields.get("input", fields.get("prompt"))
            texts = text if isinstance(text, list) else [text]
            model, tokens, told = parse_model(fields), tokens_of(sum(map(characters, texts))), 0
            if request.path.startswith("/api/"):
                parsed = embedding_request(model, fields, body)
                body, told = self._with_context(parsed), parsed.told_context_tokens
            return self._plain(errors, request, body, model, prompt_tokens=tokens, sent_context_tokens=told)

        return self._serve(request, errors, understand)

    def _streamed_only(self, dialect: Responses | Messages) -> Handler:
        def handle(request: ServedRequest) -> Work:
            def understand(body: bytes) -> Call:
                parsed = dialect.parse(body)
                if parsed.stream:
                    return self._generated(dialect, parsed)
                return self._plain(dialect, request, body, parsed.model, prompt_tokens=parsed.prompt_tokens)

            return self._serve(request, dialect, understand)

        return handle

    def _image(self, request: ServedRequest) -> Work:
        def understand(body: bytes) -> Call:
            fields = parse_object(body)
            return self._plain(
                _OPENAI, request, body, parse_model(fields), prompt_tokens=tokens_of(characters(fields.get("prompt")))
            )

        return self._serve(request, _OPENAI, understand)

    def _transcription(self, request: ServedRequest) -> Work:
        def understand(body: bytes) -> Call:
            form_type = request.headers.get("content-type", "")
            model = form_field(body, form_type, "model")
            if not model:
                raise BadRequest("the form has no field model")
            call = self._plain(_OPENAI, request, body, model)
            call.request_type = form_type
            return call

        return self._serve(request, _OPENAI, understand)

    def _plain(
        self,
        errors: ErrorForms,
        request: ServedRequest,
        body: bytes,
        model: str,
        *,
        prompt_tokens: int = 0,
        limits_first_token: bool = False,
        sent_context_tokens: int = 0,
    ) -> PlainCall:
        call = PlainCall(
            request.path,
            body,
            self._names.of(model),
            prompt_tokens=prompt_tokens,
            limits_first_token=limits_first_token,
            errors=errors,
            answer_limit_bytes=self.settings.answer_limit_bytes,
            sent_context_tokens=sent_context_tokens,
        )
        self._note_truncation(call, 0)
        return call

    def _set_context(self, parsed: ParsedRequest) -> None:
        """One `num_ctx` for all who ask for the model."""
        if parsed.takes_context and self.settings.normalise_context:
            loaded = self._inventory.context_of(parsed.model)
            if parsed.context_tokens and not loaded:
                self._inventory.refresh_soon()
            now_s = time.monotonic()
            said = self._driver.contexts.everywhere(parsed.model) if parsed.context_tokens else 0
            tokens = self._contexts.for_request(parsed.model, parsed.context_tokens, loaded, now_s, said)
            parsed.send_context_tokens = tokens

    def _with_context(self, parsed: ParsedRequest) -> bytes:
        """A native request whose answer is passed on whole, with the `num_ctx` that is one for all."""
        parsed.model = self._names.of(parsed.model)
        self._set_context(parsed)
        return with_context(parsed)

    def _note_truncation(self, call: Call, context_tokens: int) -> None:
        """Say it where the prompt will not fit: Ollama cuts off its front without a word."""
        if not context_tokens and call.path.startswith("/v1/"):
            held_tokens = self._contexts.held(call.model, time.monotonic())
            if held_tokens:
                call.notes["X-OllamaMax-Context"] = (
                    f"others have the model loaded with {held_tokens} tokens; this request cannot say so and may reload it"
                )
        context_tokens = context_tokens or self._inventory.context_of(call.model)
        if context_tokens and call.prompt_tokens > context_tokens:
            said = f"about {call.prompt_tokens} tokens; the context has {context_tokens}"
            call.notes["X-OllamaMax-Prompt-Truncated"] = said

    def _serve(self, request: ServedRequest, errors: ErrorForms, understand: Callable[[bytes], Call]) -> Work:
        header_id = request.headers.get("x-request-id", "")
        if not header_id or not _HEADER_ID.fullmatch(header_id):
            header_id = f"{random.getrandbits(128):032x}"
        try:
            timeout_s = self._timeout_s(request)
            call = understand(request.body)
        except BadRequest as error:
            self._error(request, errors, 400, str(error), header_id)
            return None
        known = call.model in self._names
        if not known:
            call.model = self._inventory.spelt(call.model)
            known = call.model in self._names
        if not known:
            return self._ask_for(call, request, errors, header_id, timeout_s)
        return self._carry_out(call, request, errors, header_id, timeout_s)

    def _carry_out(
        self, call: Call, request: ServedRequest, errors: ErrorForms, header_id: str, timeout_s: float
    ) -> Work:
        if call.is_unload:
            return self._unload(call, request, errors, header_id, timeout_s)
        self._relay_it(call, request, errors, header_id, timeout_s)
        return None

    async def _unload(
        self, call: Call, request: ServedRequest, errors: ErrorForms, header_id: str, timeout_s: float
    ) -> None:
        """The model is let go wherever it is loaded; where it is nowhere, some node says what it says then."""
        nodes, gathered = await self._inventory.having_loaded(call.model)
        if nodes:
            request.granted = {**request.granted, "X-Request-Id": header_id}
            await self._orders.unload(request, nodes, gathered)
        else:
            self._relay_it(call, request, errors, header_id, timeout_s)

    async def _ask_for(
        self, call: Call, request: ServedRequest, errors: ErrorForms, header_id: str, timeout_s: float
    ) -> None:
        """Perhaps a node has got the model meanwhile."""
        if await self._inventory.knows(call.model):
            call.model = self._inventory.spelt(call.model)
            work = self._carry_out(call, request, errors, header_id, timeout_s)
            if work is not None:
                await work
        elif unheard := self._inventory.unheard():
            message = f"model '{call.model}' not found so far; not heard from yet: {', '.join(unheard)}"
            self._error(request, errors, 503, message, header_id)
        else:
            self._error(request, errors, 404, f"model '{call.model}' not found", header_id)

    def _relay_it(
        self, call: Call, request: ServedRequest, errors: ErrorForms, header_id: str, timeout_s: float
    ) -> None:
        fingerprint = hash((request.path, request.body))
        broken = self._relay.poison.nodes_broken_by(fingerprint, self._driver.now())
        if broken:
            message = f"the same request has broken {broken}; it is not tried again for now"
            self._error(request, errors, 500, message, header_id)
            return
        self._relay.serve(call, request, header_id, timeout_s, fingerprint)

    def _timeout_s(self, request: ServedRequest) -> float:
        given = request.headers.get("x-request-timeout")
        if given is None:
            return self.settings.request_timeout_s
        try:
            timeout_s = float(given)
        except ValueError:
            timeout_s = math.nan
        if not 0 < timeout_s <= REQUEST_TIMEOUT_MAX_S:
            raise BadRequest(f"X-Request-Timeout takes seconds, more than 0 and up to {REQUEST_TIMEOUT_MAX_S:g}")
        return timeout_s

    # -- questions -------------------------------------------------------------------------------------------------

    async def _read(self, request: ServedRequest) -> None:
        await self._ask(request, b"", knows_all=True)

    async def _read_model(self, request: ServedRequest) -> None:
        await self._ask(request, request.body, knows_all=False)

    async def _ask(self, request: ServedRequest, body: bytes, *, knows_all: bool) -> None:
        method = "GET" if request.method == "HEAD" else request.method
        try:
            answer = await self._reads.ask(method, request.target, body, knows_all=knows_all)
        except ReadFailed as error:
            self._error(request, _errors_of(request.path), 502, str(error))
            return
        headers = {"Content-Type": answer.content_type or _JSON, "X-OllamaMax-Node": answer.node}
        request.respond(answer.status, headers, answer.body)

    async def _on_every_node(self, request: ServedRequest) -> None:
        """What each node has for itself, such as who is signed in there: the answer of the first that refused, or of all."""
        path, method = request.target, request.method
        asked = [self._reads.ask_node(node, method, path, request.body) for node in self._reads.nodes]
        answers = dict(zip(self._reads.nodes, await asyncio.gather(*asked, return_exceptions=True), strict=True))
        missing = [node for node, answer in answers.items() if isinstance(answer, BaseException)]
        said = [answer for answer in answers.values() if not isinstance(answer, BaseException)]
        if not said:
            reasons = "; ".join(f"{node}: {answer}" for node, answer in answers.items())
            self._error(request, _errors_of(request.path), 502, f"no node answered {method} {path}: {reasons}")
            return
        worst = max(said, key=lambda answer: answer.status)
        headers = {"Content-Type": worst.content_type or _JSON, "X-OllamaMax-Node": worst.node}
        if missing:
            headers["X-OllamaMax-Nodes-Missing"] = ",".join(missing)
        request.respond(worst.status, headers, worst.body)

    async def _tags(self, request: ServedRequest) -> None:
        self._merged(request, await self._inventory.tags(), "models", text("modified_at"))

    async def _ps(self, request: ServedRequest) -> None:
        self._merged(request, await self._inventory.loaded(), "models", text("expires_at"))

    async def _models(self, request: ServedRequest) -> None:
        gathered = await self._inventory.gather("/v1/models", "data")
        self._merged(request, gathered, "data", lambda model: number(model.get("created")))

    def _merged(
        self, request: ServedRequest, gathered: Gathered, key: str, newest: Callable[[JsonObject], Any]
    ) -> None:
        if not gathered.answers:
            message = f"no node answered {request.method} {request.path}: {gathered.reasons()}"
            self._error(request, _errors_of(request.path), 502, message)
            return
        headers = {"Content-Type": "application/json; charset=utf-8", **gathered.headers()}
        request.respond(200, headers, orjson.dumps(merged(gathered, key, newest)))

    def _ordered(self, carry_out: Callable[[ServedRequest], Coroutine[Any, Any, None]]) -> Handler:
        async def handle(request: ServedRequest) -> None:
            try:
                await carry_out(request)
            except BadRequest as error:
                self._error(request, _NATIVE, 400, str(error))

        return handle

    async def _not_offered(self, request: ServedRequest) -> None:
        """As Ollama: what there is nothing of by any method is not found."""
        methods = [method for method in METHODS if self._handler(method, request.path) is not None]
        message = f"this gateway does not offer {request.method} {request.path}; ask a node itself"
        if methods:
            message = f"{request.path} takes {', '.join(methods)}, not {request.method}"
            request.granted = {**request.granted, "Allow": ", ".join(methods)}
        self._error(request, _errors_of(request.path), 405 if methods else 404, message)

    def _error(
        self, request: ServedRequest, errors: ErrorForms, status: int, message: str, header_id: str = ""
    ) -> None:
        """Turn a request away before a node was asked: one line in the log."""
        _log.info("request_refused", path=request.path, status=status, why=message)
        headers = {"Content-Type": _JSON}
        if header_id:
            headers["X-Request-Id"] = header_id
        if status == 503:
            headers["Retry-After"] = UNHEARD_RETRY_S
        request.respond(status, headers, errors.error_body(status, message))

    # -- for the operator ------------------------------------------------------------------------------------------

    async def _readyz(self, request: ServedRequest) -> None:
        """Whether a request to some model would find a node now."""
        nodes = self._driver.policy.snapshot().parts.get("nodes", {})
        routable = [name for name, node in nodes.items() if node["health"] in ROUTABLE]
        why = ""
        if not list(self._names):
            why = "no node has said yet what models it has"
        elif not routable:
            why = "no node gets traffic"
        body = {"status": "not ready", "why": why} if why else {"status": "ready", "nodes": routable}
        request.respond(503 if why else 200, {"Content-Type": _JSON}, orjson.dumps(body))

    async def _healthz(self, request: ServedRequest) -> None:
        request.respond(200, {"Content-Type": _JSON}, b'{"status": "ok"}')


def _errors_of(path: str) -> ErrorForms:
    return _OWN_ERRORS.get(path) or (_OPENAI if path.startswith("/v1/") else _NATIVE)
