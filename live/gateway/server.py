"""The gateway as a server: which path is answered how."""

from __future__ import annotations

import dataclasses
import math
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from live.controller.driver import PolicyDriver
from live.gateway.call import Call, GenerationCall, PlainCall
from live.gateway.client import AiohttpClient, ClientGone
from live.gateway.dialect import BadRequest, Dialect, characters, parse_model, parse_object, parse_switch, tokens_of
from live.gateway.native import Chat, Generate
from live.gateway.openai import ChatCompletions
from live.gateway.reads import ReadFailed, Reads
from live.gateway.relay import Relay
from live.gateway.request_log import RequestLog
from live.gateway.settings import GatewaySettings
from live.gateway.upstream import AiohttpUpstream
from twin.policy.model_names import ModelNames

_JSON = "application/json"
_NATIVE = Generate()
_OPENAI = ChatCompletions()
_GENERATIONS: tuple[Dialect, ...] = (_NATIVE, Chat(), _OPENAI)
_EMBEDDINGS = ("/api/embed", "/api/embeddings", "/v1/embeddings")
_COMPLETIONS = "/v1/completions"
_READS = ("/", "/api/version", "/api/tags")
_HEADER_ID = re.compile(r"[\x21-\x7e]{1,128}")
REQUEST_TIMEOUT_MAX_S = 86_400.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
        self._upstream = AiohttpUpstream(addresses, connect_timeout_s=self.settings.connect_timeout_s)
        self._relay = Relay(driver, self._upstream, self.settings, recorded)
        self._reads = Reads(
            self._upstream,
            list(addresses),
            timeout_s=self.settings.read_timeout_s,
            limit_bytes=self.settings.answer_limit_bytes,
        )
        self._runners: list[web.AppRunner] = []
        driver.on_abort(self.abort)

    # -- listening -------------------------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen for clients; the address. Raises OSError where that is not possible."""
        app = web.Application(client_max_size=self.settings.body_limit_bytes, middlewares=[_errors_as_json])
        for dialect in _GENERATIONS:
            app.router.add_post(dialect.path, self._generation(dialect))
        for path in _EMBEDDINGS:
            app.router.add_post(path, self._embedding)
        app.router.add_post(_COMPLETIONS, self._completion)
        for path in (*_READS, "/api/ps", "/v1/models"):
            app.router.add_get(path, self._read, allow_head=path in _READS)
        app.router.add_get("/v1/models/{model:.+}", self._read_model, allow_head=False)
        app.router.add_post("/api/show", self._read_model)
        app.router.add_get("/-/healthz", self._healthz)
        app.router.add_route("*", "/{path:.*}", _not_offered)
        return await self._listen(app, host, port)

    async def start_admin(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen for the operator on another address; the address. Raises OSError where that is not possible."""
        app = web.Application()
        app.router.add_get("/-/healthz", self._healthz)
        app.router.add_get("/-/nodes", self._nodes)
        return await self._listen(app, host, port)

    async def stop(self) -> None:
        """Accept nothing more, give running requests their time to end, then close their connections."""
        while self._runners:
            await self._runners.pop().cleanup()
        await self._relay.close()
        await self._upstream.close()

    def abort(self, node: str) -> int:
        """Close the gateway's connections to a node; their requests go on as the policy says. How many they were."""
        return self._relay.abort(node)

    async def _listen(self, app: web.Application, host: str, port: int) -> str:
        # Without handler_cancellation a client that goes away would leave its generation running on the node.
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=self.settings.shutdown_grace_s
        )
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{shown}:{bound[1]}"

    # -- requests to models ----------------------------------------------------------------------------------------

    def _generation(self, dialect: Dialect) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            def understand(body: bytes) -> Call:
                parsed = dialect.parse(body)
                if parsed.generates:
                    named = dataclasses.replace(parsed, model=self._names.of(parsed.model))
                    return GenerationCall(
                        dialect,
                        named,
                        line_limit_bytes=self.settings.line_limit_bytes,
                        answer_limit_bytes=self.settings.answer_limit_bytes,
                    )
                # A load, an unload or a rendered prompt: Ollama answers with one object, streaming or not.
                return self._plain(dialect, request, parsed.body, parsed.model, limits_first_token=True)

            return await self._serve(request, dialect, understand)

        return handle

    async def _embedding(self, request: web.Request) -> web.StreamResponse:
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

        return await self._serve(request, errors, understand)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
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

        return await self._serve(request, _OPENAI, understand)

    def _plain(
        self,
        errors: Dialect,
        request: web.Request,
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

    async def _serve(
        self, request: web.Request, errors: Dialect, understand: Callable[[bytes], Call]
    ) -> web.StreamResponse:
        header_id = request.headers.get("X-Request-Id", "")
        if not _HEADER_ID.fullmatch(header_id):
            header_id = uuid.uuid4().hex
        try:
            timeout_s = self._timeout_s(request)
            call = understand(await request.read())
        except BadRequest as error:
            return _error(errors, 400, str(error), header_id)
        if call.model not in self._names:
            return _error(errors, 404, f"model '{call.model}' not found", header_id)
        client = AiohttpClient(request)
        try:
            await self._relay.serve(call, client, header_id, timeout_s)
        except ClientGone:
            if client.response is None:
                return web.Response(status=499)  # never seen by anyone
        assert client.response is not None
        return client.response

    def _timeout_s(self, request: web.Request) -> float:
        given = request.headers.get("X-Request-Timeout")
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

    async def _read(self, request: web.Request) -> web.StreamResponse:
        return await self._ask(request, b"", knows_all=True)

    async def _read_model(self, request: web.Request) -> web.StreamResponse:
        return await self._ask(request, await request.read(), knows_all=False)

    async def _ask(self, request: web.Request, body: bytes, *, knows_all: bool) -> web.StreamResponse:
        try:
            answer = await self._reads.ask(request.method, request.raw_path, body, knows_all=knows_all)
        except ReadFailed as error:
            return _error(_errors_of(request), 502, str(error))
        headers = {"Content-Type": answer.content_type or _JSON, "X-OllamaMax-Node": answer.node}
        return web.Response(status=answer.status, headers=headers, body=answer.body)

    # -- for the operator ------------------------------------------------------------------------------------------

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

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


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What aiohttp itself refuses (a body that is too large, say) in the words of the dialect."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        return _error(_errors_of(request), refusal.status, refusal.text or refusal.reason)


async def _not_offered(request: web.Request) -> web.StreamResponse:
    message = f"this gateway does not offer {request.method} {request.path}; ask a node itself"
    return _error(_errors_of(request), 501, message)


def _errors_of(request: web.Request) -> Dialect:
    return _OPENAI if request.path.startswith("/v1/") else _NATIVE


def _error(dialect: Dialect, status: int, message: str, header_id: str = "") -> web.Response:
    headers = {"X-Request-Id": header_id} if header_id else None
    return web.Response(status=status, headers=headers, body=dialect.error_body(status, message), content_type=_JSON)


def _finite(value: Any) -> Any:
    """The same with null for times that did not come: JSON has no nan."""
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
