"""Faults inside an emulated node, as they look over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.emulator.config import EmulatedModel
from live.rig.emulated_node import EmulatedNode
from live.rig.errors import RigError
from live.rig.ledger import Ledger
from tests.live.emulator.test_emulated_node import HARDWARE, ask, generate
from twin.scenario.faults.base import ForeignClients


@pytest.fixture
async def node(ledger: Ledger, tmp_path: Path) -> AsyncIterator[EmulatedNode]:
    models = {name: EmulatedModel(size_gib=1, memory_gib=1.5) for name in ("one", "two")}
    node = EmulatedNode(
        "node-1", hardware=HARDWARE, models=models, folder=tmp_path, ledger=ledger, max_queue=2, preloaded=["one"]
    )
    await node.start()
    yield node
    await node.stop()


async def stream(node: EmulatedNode, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    async with aiohttp.ClientSession(node.address) as client, client.post(path, json=body) as answer:
        return answer.status, await answer.read()


async def test_a_stream_that_ends_silently_has_status_200_and_no_terminal_record(node: EmulatedNode) -> None:
    await node.set_condition("silent_end_share", 1.0)
    body = {"model": "one", "prompt": "ba", "options": {"num_predict": 20}}
    status, data = await stream(node, "/api/generate", body)
    records = [json.loads(line) for line in data.splitlines()]
    assert status == 200
    assert len(records) == 10
    assert not any(record["done"] or "error" in record for record in records)
    chat = {"model": "one", "messages": [{"role": "user", "content": "ba"}], "stream": True, "max_tokens": 20}
    status, data = await stream(node, "/v1/chat/completions", chat)
    assert status == 200
    assert data.startswith(b"data: ")
    assert b"[DONE]" not in data


async def test_a_hung_unload_blocks_the_list_and_all_generations_and_not_the_version(node: EmulatedNode) -> None:
    await node.set_condition("runner_unkillable", 1.0)
    await node.set_condition("unload_holds_lock", 1.0)
    await node.expire_models()
    for path in ("/api/version", "/api/tags"):
        assert (await ask(node, path, limit_s=1.0))[0] == 200
    with pytest.raises(TimeoutError):
        await ask(node, "/api/ps", limit_s=0.3)
    with pytest.raises(TimeoutError):
        await generate(node, model="two", limit_s=0.3)
    waiting = asyncio.create_task(ask(node, "/api/ps"))
    await asyncio.sleep(0.1)
    await node.set_condition("runner_unkillable", 0.0)
    assert (await waiting)[0] == 200
    assert (await generate(node))[0] == 200


async def test_a_lost_gpu_fails_at_once_and_a_restarted_server_works_without_it(node: EmulatedNode) -> None:
    await node.set_condition("gpus_lost", 16.0)
    await node.set_condition("gpu_lost", 1.0)
    began_s = time.monotonic()
    assert (await generate(node))[0] == 500
    assert (await generate(node, model="two"))[0] == 500
    assert time.monotonic() - began_s < 0.3
    await node.restart()
    status, record = await generate(node, tokens=20, model="two")
    assert status == 200
    assert record["eval_duration"] / 1e9 > 20 * 0.002 * 3, "on the processor"
    (model,) = (await ask(node, "/api/ps"))[1]["models"]
    assert (model["size_vram"], model["size"] > 0) == (0, True)
    await node.set_condition("ps_claims_gpu", 1.0)
    (model,) = (await ask(node, "/api/ps"))[1]["models"]
    assert model["size_vram"] == model["size"]


async def test_foreign_clients_fill_its_queue_and_are_gone_when_they_are_told(node: EmulatedNode) -> None:
    crowd = ForeignClients(20, 5, 1, think_s=0.05, own_models="too_many")
    await node.foreign_clients(crowd, "one", 1)
    await asyncio.sleep(1.2)
    began_s = time.monotonic()
    status, answer = await generate(node, model="two")
    assert (status, answer["error"].partition(",")[0]) == (503, "server busy")
    assert time.monotonic() - began_s < 0.2
    assert (await ask(node, "/emulator/status"))[1]["pending"] == 2
    await node.stop_foreign_clients()
    assert (await ask(node, "/emulator/status"))[1]["pending"] == 0
    assert (await generate(node))[0] == 200
    with pytest.raises(RigError, match="foreign_clients: clients"):
        await node._operate("foreign_clients", 1, foreign={"clients": "many"})
    with pytest.raises(RigError, match="takes a seed"):
        await node._operate("foreign_clients", -1, foreign={
            "clients": 1, "prompt_tokens": 1, "output_tokens": 1, "think_s": 1.0,
        })  # fmt: skip
