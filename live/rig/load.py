"""The clients of a drill: the scenario's own arrivals, sent open-loop to the gateway, and what each client saw."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import aiohttp

from live.rig.model_files import prompt_text
from twin.scenario.draws import Arrival, arrivals
from twin.scenario.schema import Scenario

Seen: TypeAlias = Literal["succeeded", "failed", "deadline", "rejected"]
GRACE_S = 1.0
"""How much longer than its deadline a client waits, so that the gateway has the first word on it."""
LINE_LIMIT_BYTES = 1 << 20


@dataclass(slots=True)
class ClientView:
    """One request as its client saw it. Times on the run's clock; nan: it did not come."""

    header_id: str
    arrival: Arrival
    sent_s: float
    outcome: Seen = "failed"
    error: str = ""
    first_token_s: float = math.nan
    end_s: float = math.nan
    tokens: int = 0
    terminal_records: int = 0


class Load:
    """Sends the workload. `views` fills up as requests end; `lateness_s` is how late the last was sent."""

    def __init__(self, scenario: Scenario, seed: int, gateway: str, now: Callable[[], float]) -> None:
        self.scenario = scenario
        self.seed = seed
        self.gateway = gateway
        self.now = now
        self.views: dict[str, ClientView] = {}
        self.ended = 0
        self.sent = 0
        self.lateness_s = 0.0

    async def run(self, on_end: Callable[[ClientView], None]) -> None:
        """Send every arrival at its time, and wait for all to end."""
        limit = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(connector=limit, timeout=timeout, read_bufsize=LINE_LIMIT_BYTES) as session,
            asyncio.TaskGroup() as group,
        ):
            for count, arrival in enumerate(arrivals(self.scenario, self.seed), start=1):
                await asyncio.sleep(max(0.0, arrival.arrival_s - self.now()))
                view = ClientView(f"{self.seed}-{count}", arrival, self.now())
                self.views[view.header_id] = view
                self.lateness_s = max(self.lateness_s, view.sent_s - arrival.arrival_s)
                self.sent += 1
                group.create_task(self._one(session, view, count, on_end))

    async def _one(
        self, session: aiohttp.ClientSession, view: ClientView, count: int, on_end: Callable[[ClientView], None]
    ) -> None:
        deadline_s = self.scenario.workload.deadline_s
        try:
            async with asyncio.timeout(deadline_s + GRACE_S):
                await self._ask(session, view, count)
        except TimeoutError:
            view.outcome, view.error = "deadline", "the client's own limit"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            view.outcome, view.error = "failed", f"{type(error).__name__}: {error}"
        view.end_s = self.now()
        if view.outcome == "succeeded" and view.end_s - view.sent_s > deadline_s:
            view.outcome, view.error = "deadline", "it ended after its deadline"
        self.ended += 1
        on_end(view)

    async def _ask(self, session: aiohttp.ClientSession, view: ClientView, count: int) -> None:
        arrival = view.arrival
        body = {
            "model": arrival.model,
            "prompt": prompt_text(arrival.prompt_tokens, self.seed * 1_000_003 + count),
            "stream": arrival.stream,
            "options": {"num_predict": arrival.output_tokens, "seed": self.seed * 1_000_003 + count, "temperature": 1},
        }
        headers = {
            "X-Request-Id": view.header_id,
            "X-Request-Timeout": f"{self.scenario.workload.deadline_s:g}",
        }
        async with session.post(f"{self.gateway}/api/generate", json=body, headers=headers) as response:
            if response.status != 200:
                view.outcome = "rejected" if response.status == 503 and "Retry-After" in response.headers else "failed"
                view.error = f"{response.status}: {(await response.text())[:300]}"
                return
            async for line in response.content:
                if not line.strip():
                    continue
                if math.isnan(view.first_token_s):
                    view.first_token_s = self.now()
                record = json.loads(line)
                if "error" in record:
                    view.error = str(record["error"])
                    return
                if record.get("done"):
                    view.terminal_records += 1
                    view.tokens = int(record.get("eval_count", 0))
        if view.terminal_records == 1:
            view.outcome, view.error = "succeeded", ""
        else:
            view.error = f"{view.terminal_records} terminal records"
