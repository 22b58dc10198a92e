"""A scriptable node and a scriptable policy, for the corner cases that real ones show only now and then."""

import asyncio
import json
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from twin.policy.vocabulary import (
    Command,
    Incident,
    Observation,
    PolicyState,
    Probe,
    ProbeResult,
    RequestId,
    RequestSpec,
    Route,
)

Behaviour = Callable[["StubNode", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
WORDS = ["ba", " da", " ga", " ka", " ma", " na"]


async def until(condition: Callable[[], object], limit_s: float = 2.0) -> None:
    """Waits until it holds; the test fails where that takes too long."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def dumps(fields: dict[str, Any]) -> bytes:
    """As Go writes it."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def line(**fields: Any) -> bytes:
    return dumps(fields) + b"\n"


def event(**fields: Any) -> bytes:
    return b"data: " + dumps(fields) + b"\n\n"


def chat_chunk(content: str, *, finish: str | None = None, identity: str = "chatcmpl-1", **delta: Any) -> bytes:
    return event(
        id=identity,
        object="chat.completion.chunk",
        created=1,
        model="m",
        system_fingerprint="fp_ollama",
        choices=[{"index": 0, "delta": {"role": "assistant", "content": content, **delta}, "finish_reason": finish}],
    )


def generate_lines(words: Sequence[str] = WORDS) -> list[bytes]:
    parts = [
        line(model="m", created_at=f"2026-01-01T00:00:0{i}Z", response=word, done=False) for i, word in enumerate(words)
    ]
    return [*parts, generate_end(len(words))]


def generate_end(count: int) -> bytes:
    return line(
        model="m",
        created_at="2026-01-01T00:00:09Z",
        response="",
        done=True,
        done_reason="stop",
        context=[1, 2],
        total_duration=9_000_000,
        load_duration=1_000_000,
        prompt_eval_count=3,
        prompt_eval_duration=2_000_000,
        eval_count=count,
        eval_duration=5_000_000,
    )


def chat_lines(words: Sequence[str] = WORDS) -> list[bytes]:
    parts = [
        line(model="m", created_at="t", message={"role": "assistant", "content": word}, done=False) for word in words
    ]
    end = line(
        model="m",
        created_at="t",
        message={"role": "assistant", "content": ""},
        done=True,
        done_reason="stop",
        eval_count=len(words),
        prompt_eval_count=3,
    )
    return [*parts, end]


def completion_events(words: Sequence[str] = WORDS, *, identity: str = "chatcmpl-1", usage: bool = True) -> list[bytes]:
    chunks = [chat_chunk(word, identity=identity) for word in words]
    chunks.append(chat_chunk("", finish="stop", identity=identity))
    if usage:
        counts = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
        chunks.append(
            event(id=identity, object="chat.completion.chunk", created=1, model="m", choices=[], usage=counts)
        )
    return [*chunks, b"data: [DONE]\n\n"]


def streams(parts: Sequence[bytes], *, then: str = "end", pause_s: float = 0.0) -> Behaviour:
    """Sends the parts, then ends cleanly, breaks the connection, or hangs."""

    async def behave(node: "StubNode", request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        if parts:
            await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(pause_s)
        if then == "hang":
            await node.hang()
        if then == "break":
            assert request.transport is not None
            request.transport.abort()
        return response

    return behave


def answers(status: int, body: bytes, content_type: str = "application/json") -> Behaviour:
    async def behave(_node: "StubNode", _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type=content_type)

    return behave


class StubNode:
    """An HTTP server that behaves as it is told, one behaviour for each request; the last one stays."""

    def __init__(self) -> None:
        self.behaviours: deque[Behaviour] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.hosts: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = 0
        self.hanging = asyncio.Event()
        self.address = ""
        self._runner: web.AppRunner | None = None

    def will(self, *behaviours: Behaviour) -> None:
        self.behaviours.extend(behaviours)

    async def hang(self) -> None:
        self.hanging.set()
        await asyncio.Event().wait()

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.address = "http://{}:{}".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = json.loads(data) if data.startswith((b"{", b"[")) else {}
        self.bodies.append(body)
        self.hosts.append(request.headers["Host"])
        assert request.transport is not None
        self.headers.append({**request.headers, "peer": str(request.transport.get_extra_info("peername"))})
        behave = self.behaviours.popleft() if len(self.behaviours) > 1 else self.behaviours[0]
        try:
            return await behave(self, request, body)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def to(node: str, first_token_s: float = math.inf, stall_s: float = math.inf) -> Route:
    return Route("dispatch", node, first_token_s, stall_s)


WAIT = Route("wait")
SHED = Route("shed", retry_after_s=1.2, reason="nobody is left")


class ScriptedPolicy:
    """Routes as it is told, sheds when it was told nothing more, and keeps what it was told happened."""

    def __init__(self, *routes: Route) -> None:
        self.routes = deque(routes)
        self.observed: list[Observation] = []
        self.asked: list[tuple[RequestSpec, int]] = []
        self.commands: list[Command] = []
        self.turns: list[tuple[RequestId, Route]] = []
        self.waiting = 0
        self.incidents: list[Incident] = []
        self.wakeup_s = math.inf
        self.decisions = 0
        self.breaks: Exception | None = None

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        self._check()
        self.asked.append((request, attempt))
        route = self.routes.popleft() if self.routes else SHED
        self.waiting += route.kind == "wait"
        return route

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        turns, self.turns = self.turns, []
        self.waiting -= len(turns)
        return turns

    def observe(self, now: float, observation: Observation) -> None:
        self._check()
        self.observed.append(observation)

    def decide(self, now: float) -> Sequence[Command]:
        self._check()
        self.decisions += 1
        self.wakeup_s = math.inf
        commands, self.commands = self.commands, []
        return commands

    def next_wakeup(self) -> float:
        return self.wakeup_s

    def settled(self, now: float) -> Sequence[Incident]:
        over = [it for it in self.incidents if it.state == "closed"]
        self.incidents = [it for it in self.incidents if it.state != "closed"]
        return over

    def snapshot(self) -> PolicyState:
        return PolicyState(0.0, {"asked": len(self.asked), "never_s": math.inf})

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.observed if isinstance(each, kind)]

    def _check(self) -> None:
        if self.breaks is not None:
            raise self.breaks


class NoProbes:
    """A prober that must not be needed."""

    async def perform(self, probe: Probe) -> ProbeResult:
        raise AssertionError(f"a probe that nobody expects: {probe}")
