"""Foreign clients of a real node: they ask its own port, past the proxy and the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from typing import Any

import aiohttp

from twin.scenario.faults.base import ForeignClients

ARRIVE_WITHIN_S = 1.0


class ForeignCallers:
    """A closed loop of clients, from `start` to `stop`. What they are answered is nobody's concern."""

    def __init__(self, address: str, model: str, clients: ForeignClients, seed: int) -> None:
        self._address = address
        self._clients = clients
        self._seed = seed
        options: dict[str, Any] = {"num_predict": clients.output_tokens, "temperature": 1, "seed": seed}
        if clients.context_tokens:
            options["num_ctx"] = clients.context_tokens
        prompt = "ba " * clients.prompt_tokens
        self._body = {"model": model, "prompt": prompt, "stream": False, "options": options}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """They come."""
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(self._clients.clients)]

    async def stop(self) -> None:
        """They hang up; returns when all have."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _ask(self, number: int) -> None:
        draws = random.Random(f"{self._seed}:{number}")
        patience_s = self._clients.patience_s if math.isfinite(self._clients.patience_s) else None
        await asyncio.sleep(draws.uniform(0.0, ARRIVE_WITHIN_S))
        limit = aiohttp.ClientTimeout(total=patience_s)
        async with aiohttp.ClientSession(self._address, timeout=limit) as session:
            while True:
                # A node that is down or refuses is asked again after a while, as is one that took too long.
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.post("/api/generate", json=self._body) as answer:
                        await answer.read()
                await asyncio.sleep(draws.expovariate(1.0 / self._clients.think_s))
