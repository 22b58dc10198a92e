"""The dashboard on a free port, for as long as a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from reports.app.launch import command, environment, free_port

START_LIMIT_S = 60.0
FIRST_PORT = 18501


@asynccontextmanager
async def serving(runs: Path, admin: str | None = None) -> AsyncIterator[str]:
    """Its address."""
    port = free_port(FIRST_PORT)
    process = await asyncio.create_subprocess_exec(
        *command(port, opens=False),
        env=environment(runs, admin, None),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(START_LIMIT_S), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{url}/_stcore/health") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                assert process.returncode is None, "the dashboard ended by itself"
                await asyncio.sleep(0.1)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
