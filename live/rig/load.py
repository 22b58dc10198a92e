"""The clients of a drill: the scenario's own demand, sent to the gateway, and what each client saw.

The same draws as in the twin: what comes whatever happens at its time; and a client that waits for an answer, comes back
or loses patience does here what it does there. A turn of a session is sent to `/api/chat` with all that was said before.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import aiohttp

from live.rig.model_files import prompt_text
from twin.scenario.contents import Arrival
from twin.scenario.demand import Demand
from twin.scenario.schema import Scenario

Seen: TypeAlias = Literal["succeeded", "failed", "deadline", "rejected", "cancelled"]
GRACE_S = 1.0
"""How much longer than its deadline a client waits, so that the gateway has the first word on it."""
LINE_LIMIT_BYTES = 1 << 20


def check_load_possible(scenario: Scenario, kind: str) -> list[str]:
    """What of the load is otherwise than in the twin."""
    if kind == "emulated" and Demand(scenario, scenario.seed).has_sessions:
        return ["emulated nodes evaluate every prompt from its start: sessions save no prefill there"]
    return []


@dataclass(slots=True)
class ClientView:
    """One request as its client saw it. Times on the run's clock; nan: it did not come."""

    header_id: str
    arrival: Arrival
    sent_s: float
    retry_of: str = ""  # header id of the client's first try
    outcome: Seen = "failed"
    error: str = ""
    first_token_s: float = math.nan
    end_s: float = math.nan
    tokens: int = 0
    terminal_records: int = 0
    answer: list[str] = field(default_factory=list)  # kept for turns of a session alone


@dataclass(slots=True)
class _Talk:
    """What was said in a session."""

    messages: list[dict[str, str]] = field(default_factory=list)
    tokens: int = 0


class Load:
    """Sends the workload. `views` fills up as requests end; `lateness_s` is how late the latest was sent."""

    def __init__(self, scenario: Scenario, seed: int, gateway: str, now: Callable[[], float]) -> None:
        self.scenario = scenario
        self.seed = seed
        self.gateway = gateway
        self.now = now
        self.views: dict[str, ClientView] = {}
        self.ended = 0
        self.sent = 0
        self.lateness_s = 0.0
        self._demand = Demand(scenario, seed)
        self._talks: dict[int, _Talk] = {}
        self._answers: Counter[str] = Counter()  # streams that have begun and not ended, by the node that they began at

    async def run(self, on_end: Callable[[ClientView], None]) -> None:
        """Send every request at its time, and wait for all to end, with all that follows from them."""
        limit = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(connector=limit, timeout=timeout, read_bufsize=LINE_LIMIT_BYTES) as http,
            asyncio.TaskGroup() as group,
        ):
            for arrival in self._demand.openings():
                await self._until(arrival.arrival_s)
                group.create_task(self._client(http, arrival, on_end))

    def answers(self, node: str) -> bool:
        """Whether a node is in the midst of an answer, as far as clients can tell: a stream that began there goes on."""
        return self._answers[node] > 0

    async def _until(self, time_s: float) -> None:
        await asyncio.sleep(max(0.0, time_s - self.now()))

    async def _client(
        self, http: aiohttp.ClientSession, arrival: Arrival, on_end: Callable[[ClientView], None]
    ) -> None:
        """A request, and what its client asks after it."""
        coming: Arrival | None = arrival
        first = ClientView("", arrival, math.nan)
        while coming is not None:
            await self._until(coming.arrival_s)
            self.sent += 1
            view = ClientView(f"{self.seed}-{self.sent}", coming, self.now())
            if coming.tries:
                view.retry_of = first.header_id
            else:
                first = view
            self.views[view.header_id] = view
            self.lateness_s = max(self.lateness_s, view.sent_s - coming.arrival_s)
            await self._one(http, view, first)
            self.ended += 1
            on_end(view)
            coming = self._demand.following(coming, view.end_s, view.outcome)

    async def _one(self, http: aiohttp.ClientSession, view: ClientView, first: ClientView) -> None:
        deadline_s = self.scenario.workload.deadline_s
        temper, tries = view.arrival.temper, view.arrival.tries
        patience_s = min(temper.first_token_s[tries], temper.end_s[tries]) if temper is not None else math.inf
        patience = asyncio.timeout(patience_s if patience_s < deadline_s else None)
        try:
            async with asyncio.timeout(deadline_s + GRACE_S), patience:
                await self._ask(http, view, first, patience)
        except TimeoutError:
            if patience.expired():
                view.outcome, view.error = "cancelled", ""
            else:
                view.outcome, view.error = "deadline", "the client's own limit"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            view.outcome, view.error = "failed", f"{type(error).__name__}: {error}"
        view.end_s = self.now()
        if view.outcome == "succeeded" and view.end_s - view.sent_s > deadline_s:
            view.outcome, view.error = "deadline", "it ended after its deadline"

    async def _ask(
        self, http: aiohttp.ClientSession, view: ClientView, first: ClientView, patience: asyncio.Timeout
    ) -> None:
        path, body = self._body(view.arrival, self.seed * 1_000_003 + int(first.header_id.rpartition("-")[2]))
        headers = {
            "X-Request-Id": view.header_id,
            "X-Request-Timeout": f"{self.scenario.workload.deadline_s:g}",
        }
        async with http.post(f"{self.gateway}{path}", json=body, headers=headers) as response:
            if response.status != 200:
                view.outcome = "rejected" if response.status == 503 and "Retry-After" in response.headers else "failed"
                view.error = f"{response.status}: {(await response.text())[:300]}"
                return
            if not view.arrival.output_tokens:
                embeddings = (await response.json()).get("embeddings")
                view.terminal_records = 1 if embeddings else 0
            else:
                node = response.headers.get("X-OllamaMax-Node", "")
                self._answers[node] += 1
                try:
                    await self._read(response, view, patience)
                finally:
                    self._answers[node] -= 1
        if view.error:
            return
        if view.terminal_records == 1:
            view.outcome = "succeeded"
            if view.arrival.session:
                self._said(view.arrival, body["messages"], "".join(view.answer))
        else:
            view.error = f"{view.terminal_records} terminal records"

    async def _read(self, response: aiohttp.ClientResponse, view: ClientView, patience: asyncio.Timeout) -> None:
        """Take in the lines of an answer."""
        async for line in response.content:
            if not line.strip():
                continue
            if math.isnan(view.first_token_s):
                view.first_token_s = self.now()
                self._has_first_token(view, patience)
            record = json.loads(line)
            if "error" in record:
                view.error = str(record["error"])
                return
            if view.arrival.session:
                view.answer.append(record.get("message", {}).get("content", ""))
            view.tokens += 1  # a line is a token, until the terminal record says how many there were
            if record.get("done"):
                view.terminal_records += 1
                view.tokens = int(record.get("eval_count", 0))

    def _has_first_token(self, view: ClientView, patience: asyncio.Timeout) -> None:
        """From the first token on only the patience for the end counts."""
        temper = view.arrival.temper
        if temper is None or not view.arrival.stream or patience.expired():
            return
        end_s = temper.end_s[view.arrival.tries]
        left_s = view.sent_s + end_s - self.now()
        patience.reschedule(asyncio.get_running_loop().time() + left_s if math.isfinite(left_s) else None)

    # -- what is said ----------------------------------------------------------------------------------------------

    def _body(self, arrival: Arrival, text_seed: int) -> tuple[str, dict[str, Any]]:
        """Path and body of a request."""
        options: dict[str, Any] = {"num_predict": arrival.output_tokens, "seed": text_seed, "temperature": 1}
        if arrival.context_tokens:
            options["num_ctx"] = arrival.context_tokens
        body: dict[str, Any] = {"model": arrival.model, "stream": arrival.stream, "options": options}
        if not arrival.output_tokens:
            return "/api/embed", {"model": arrival.model, "input": prompt_text(arrival.prompt_tokens, text_seed)}
        if not arrival.session:
            return "/api/generate", {**body, "prompt": prompt_text(arrival.prompt_tokens, text_seed)}
        talk = self._talks.get(arrival.session) if arrival.shared_tokens else None
        before = talk if talk is not None else _Talk()
        new = {"role": "user", "content": prompt_text(max(1, arrival.prompt_tokens - before.tokens), text_seed)}
        return "/api/chat", {**body, "messages": [*before.messages, new]}

    def _said(self, arrival: Arrival, messages: list[dict[str, str]], answer: str) -> None:
        """An answer came: it is part of what the session says from now on."""
        talk = _Talk([*messages, {"role": "assistant", "content": answer}])
        talk.tokens = arrival.prompt_tokens + arrival.output_tokens
        self._talks[arrival.session] = talk
