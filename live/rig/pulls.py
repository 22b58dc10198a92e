"""Somebody pulls a model on a node anew, as `ollama pull` does."""

from __future__ import annotations

import aiohttp

PULL_LIMIT_S = 3600.0
"""A pull that takes longer than a drill may."""


async def pull(address: str, model: str) -> str:
    """Pull a model on the node at that address; why it failed, empty if it did not."""
    limit = aiohttp.ClientTimeout(total=PULL_LIMIT_S)
    body = {"model": model, "stream": False}
    try:
        async with (
            aiohttp.ClientSession(address, timeout=limit) as client,
            client.post("/api/pull", json=body) as answer,
        ):
            return "" if answer.status == 200 else str((await answer.json())["error"])
    except (TimeoutError, aiohttp.ClientError) as error:
        return str(error) or "no answer"
