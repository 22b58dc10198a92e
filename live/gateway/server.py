"""The gateway: which path is answered how."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from aiohttp import web

from live.controller.driver import PolicyDriver
from live.controller.model_names import ModelNames
from live.gateway.call import Call, GenerationCall, PlainCall
from live.gateway.dialect import BadRequest, Dialect, characters, parse_model, parse_object, parse_switch, tokens_of
from live.gateway.http_server import HttpServer
from live.gateway.native import Chat, Generate
from live.gateway.node_pool import NodePool
from live.gateway.openai import ChatCompletions
from live.gateway.reads import ReadFailed, Reads
from live.gateway.relay import Relay
from live.gateway.request_log import RequestLog
from live.gateway.served_request import ServedRequest
from live.gateway.settings import GatewaySettings

_log = structlog.get_logger()

_JSON = "application/json"
_NATIVE = Generate()
_OPENAI = ChatCompletions()
_GENERATIONS: tuple[Dialect, ...] = (_NATIVE, Chat(), _OPENAI)
_EMBEDDINGS = ("/api/embed", "/api/embeddings", "/v1/embeddings")
_HEADER_ID = re.compile(r"[\x21-\x7e]{1,128}")
REQUEST_TIMEOUT_MAX_S = 86_400.0

Handler = Callable[[ServedRequest], Awaitable[None]]


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
            limit_bytes=self.settings.answer_limit_bytes,
        )
        self._server = HttpServer(self, self.settings.server)
        self._handlers = self._routes()
        self._admins: list[web.AppRunner] = []
        driver.on_abort(self.abort)

    def _routes(self) -> dict[tuple[str, str], Handler]:
        handlers: dict[tuple[str, str], Handler] = {}
        for dialect in _GENERATIONS:
            handlers["POST", dialect.path] = self._generation(dialect)
        for path in _EMBEDDINGS:
            handlers["POST", path] = self._embedding
        handlers["POST", "/v1/completions"] = self._completion
        for method in ("GET", "HEAD"):
            for path in ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models"):
                handlers[method, path] = self._read
        handlers["POST", "/api/show"] = self._read_model
        handlers["GET", "/-/healthz"] = self._healthz
        return handlers

    # -- listening -------------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen for clients; the address. Raises OSError where that is not possible."""
        return await self._server.listen(host, port)

    async def start_admin(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen for the operator on another address; the address. Raises OSError where that is not possible."""
        app = web.Application()
        app.router.add_get("/-/healthz", _ok)
        app.router.add_get("/-/nodes", self._nodes)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._admins.append(runner)
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{shown}:{bound[1]}"

    async def stop(self) -> None:
        """Accept nothing more, give running requests their time to end, then close their connections."""
        await self._server.stop(self.settings.shutdown_grace_s)
        while self._admins:
            await self._admins.pop().cleanup()
        self._relay.close()
        await self._upstream.close()

    def abort(self, node: str) -> int:
        """Close the gateway's connections to a node; their requests go on as the policy says. How many they were."""
        return self._relay.abort(node)

    # -- for the server --------------------------------------------------------------------------------------------

    def classify(self, request: ServedRequest) -> None:
        """How the request is to be received."""
        request.cheap = request.method != "POST"

    async def answer(self, request: ServedRequest) -> None:
        """Answer it."""
        handler = self._handlers.get((request.method, request.path))
        if handler is None:
            if request.method == "GET" and request.path.startswith("/v1/models/"):
                handler = self._read_model
            else:
                handler = self._not_offered
        await handler(request)

    def refused(self, request: ServedRequest, status: int, message: str) -> bytes:
        """It was no request; the body that says so."""
        _log.info("request_refused", path=request.path, status=status, why=message)
        return _errors_of(request).error_body(status, message)

    # -- requests to models ----------------------------------------------------------------------------------------

    def _generation(self, dialect: Dialect) -> Handler:
        async def handle(request: ServedRequest) -> None:
            def understand(body: bytes) -> Call:
                parsed = dialect.parse(body)
                if parsed.generates:
                    parsed.model = self._names.of(parsed.model)
                    return GenerationCall(
                        dialect,
                        parsed,
                        line_limit_bytes=self.settings.line_limit_bytes,
                        answer_limit_bytes=self.settings.answer_limit_bytes,
                    )
                # A load, an unload or a rendered prompt: Ollama answers with one object, streaming or not.
                return self._plain(dialect, request, parsed.body, parsed.model, limits_first_token=True)

            await self._serve(request, dialect, understand)

        return handle

    async def _embedding(self, request: ServedRequest) -> None:
        errors = _errors_of(request)

        def understand(body: bytes) -> Call:
            fields = parse_object(body)
            text = fields.get("input", fields.get("prompt"))
            texts = text if isinstance(text, list) else [text]
            return self._plain(
                errors,
                request,
                body,
                parse_model(fields),
                prompt_tokens=tokens_of(sum(map(characters, texts))),
            )

        await self._serve(request, errors, understand)

    async def _completion(self, request: ServedRequest) -> None:
        def understand(body: bytes) -> Call:
            fields = parse_object(body)
            streams = parse_switch(fields, "stream", False)
            return self._plain(
                _OPENAI,
                request,
                body,
                parse_model(fields),
                prompt_tokens=tokens_of(characters(fields.get("prompt"))),
                client_streams=streams,
                limits_first_token=streams,
            )

        await self._serve(request, _OPENAI, understand)

    def _plain(
        self,
        errors: Dialect,
        request: ServedRequest,
        body: bytes,
        model: str,
        *,
        prompt_tokens: int = 0,
        client_streams: bool = False,
        limits_first_token: bool = False,
    ) -> PlainCall:
        return PlainCall(
            request.path,
            body,
            self._names.of(model),
            prompt_tokens=prompt_tokens,
            client_streams=client_streams,
            limits_first_token=limits_first_token,
            errors=errors,
            answer_limit_bytes=self.settings.answer_limit_bytes,
        )

    async def _serve(self, request: ServedRequest, errors: Dialect, understand: Callable[[bytes], Call]) -> None:
        header_id = request.headers.get("x-request-id", "")
        if not _HEADER_ID.fullmatch(header_id):
            header_id = f"{random.getrandbits(128):032x}"
        try:
            timeout_s = self._timeout_s(request)
            call = understand(request.body)
        except BadRequest as error:
            self._error(request, errors, 400, str(error), header_id)
            return
        if call.model not in self._names:
            self._error(request, errors, 404, f"model '{call.model}' not found", header_id)
            return
        await self._relay.serve(call, request, header_id, timeout_s)

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
            self._error(request, _errors_of(request), 502, str(error))
            return
        headers = {"Content-Type": answer.content_type or _JSON, "X-OllamaMax-Node": answer.node}
        request.respond(answer.status, headers, answer.body)

    async def _not_offered(self, request: ServedRequest) -> None:
        message = f"this gateway does not offer {request.method} {request.path}; ask a node itself"
        self._error(request, _errors_of(request), 501, message)

    def _error(self, request: ServedRequest, dialect: Dialect, status: int, message: str, header_id: str = "") -> None:
        """Turn a request away before a node was asked: one line in the log."""
        _log.info("request_refused", path=request.path, status=status, why=message)
        headers = {"Content-Type": _JSON}
        if header_id:
            headers["X-Request-Id"] = header_id
        request.respond(status, headers, dialect.error_body(status, message))

    # -- for the operator ------------------------------------------------------------------------------------------

    async def _healthz(self, request: ServedRequest) -> None:
        request.respond(200, {"Content-Type": _JSON}, b'{"status": "ok"}')

    async def _nodes(self, _request: web.Request) -> web.StreamResponse:
        policy = self._driver.policy
        return web.json_response(
            _finite(
                {
                    "now_s": self._driver.now(),
                    "waiting": policy.waiting,
                    "nodes": [
                        {"name": name, "url": url, "in_flight": self._relay.in_flight(name)}
                        for name, url in self._addresses.items()
                    ],
                    "incidents": [dataclasses.asdict(incident) for incident in policy.incidents],
                    "policy": policy.snapshot().parts,
                }
            )
        )


async def _ok(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "ok"})


def _errors_of(request: ServedRequest) -> Dialect:
    return _OPENAI if request.path.startswith("/v1/") else _NATIVE


def _finite(value: Any) -> Any:
    """The same with null for times that did not come: JSON has no nan."""
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
