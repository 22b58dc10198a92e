"""What real Ollama does when clients go away in mid-stream, counted: `make test-long` prints it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.live.conftest import MODEL, MakeNode

ROUNDS = 5
CANCELLATIONS_MAX = 60
PATIENCE_S = 3.0


@pytest.mark.real
@pytest.mark.long
async def test_a_runner_hangs_for_good_after_some_cancellations_behind_green_endpoints_and_a_restart_frees_it(
    make_node: MakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    node = await make_node(slots_per_model=4)
    survived: list[int | None] = []  # cancellations before a hang; None: none came
    async with aiohttp.ClientSession() as session:

        async def works(tokens: int, *, cancel: bool) -> bool:
            body: dict[str, Any] = {"model": MODEL, "prompt": "ba da", "options": {"num_predict": tokens, "seed": 1}}
            try:
                async with asyncio.timeout(PATIENCE_S):
                    response = await session.post(f"{node.address}/api/generate", json=body)
                    await response.content.readline() if cancel else await response.read()
                    response.close()
            except TimeoutError:
                return False
            return True

        for _ in range(ROUNDS):
            assert await works(1, cancel=False)
            count: int | None = None
            for cancelled in range(CANCELLATIONS_MAX):
                if not await works(3000, cancel=True) or not await works(1, cancel=False):
                    count = cancelled
                    break
            survived.append(count)
            if count is not None:
                async with session.get(f"{node.address}/api/ps") as green:
                    assert green.status == 200
                    assert (await green.json())["models"]
                assert not await works(1, cancel=False), "it went on by itself"
                await node.restart()
    with capsys.disabled():
        told = ", ".join(f"after {count}" if count is not None else f"not in {CANCELLATIONS_MAX}" for count in survived)
        print(f"\nthe runner hung for good behind green endpoints: {told} cancellations")  # noqa: T201
