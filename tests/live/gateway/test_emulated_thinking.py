"""Emulated nodes that think: a stream that breaks in the thinking, or in the text after it, is one stream to its client."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from live.emulator.config import EmulatedModel
from live.gateway.dialect import Dialect
from live.gateway.native import Chat, Generate
from live.gateway.openai import ChatCompletions
from live.rig.emulated_node import EmulatedNode
from live.rig.ledger import Ledger
from live.rig.node import RigNode
from tests.live.conftest import MODEL
from tests.live.emulator.test_emulated_node import HARDWARE
from tests.live.gateway.test_real_nodes import Cluster, in_front_of

OPTIONS = {"num_predict": 200, "seed": 7}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "ba da ga"}]}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
REQUESTS: list[tuple[Dialect, dict[str, Any]]] = [
    (Generate(), {"model": MODEL, "prompt": "ba da ga", "think": True, "options": OPTIONS}),
    (Chat(), {**CHAT, "think": True, "options": OPTIONS}),
    (ChatCompletions(), {**CHAT, **STREAM, "reasoning_effort": "high", "max_tokens": 200, "seed": 7}),
]


@pytest.fixture
async def cluster(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Cluster]:
    models = {MODEL: EmulatedModel(size_gib=1, memory_gib=1.5)}
    nodes = {
        name: EmulatedNode(
            name, hardware=HARDWARE, models=models, folder=tmp_path / name, ledger=ledger, preloaded=[MODEL]
        )
        for name in ("node-0", "node-1")
    }
    for node in nodes.values():
        await node.start()
    async with in_front_of(nodes) as cluster:
        yield cluster
    for node in nodes.values():
        await node.stop()


def said(dialect: Dialect, body: bytes) -> tuple[str, str, int]:
    """What was thought, what was answered, and of how many tokens the node says that they are."""
    records = [record for each in body.splitlines() if (record := dialect.record(each)) is not None]
    assert not any(record.error for record in records)
    return (
        "".join(record.thinking for record in records),
        "".join(record.text for record in records),
        max((record.tokens for record in records), default=0),
    )


@pytest.mark.parametrize("break_it", [EmulatedNode.kill_runner, EmulatedNode.kill_server])
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize(("dialect", "body"), REQUESTS)
async def test_a_stream_that_breaks_is_thought_and_said_to_its_end_elsewhere(
    cluster: Cluster,
    dialect: Dialect,
    body: dict[str, Any],
    thinking: bool,
    break_it: Callable[[RigNode], Awaitable[None]],
) -> None:
    expected = said(dialect, await cluster.directly(dialect.path, body))
    assert all(expected)
    received, broken = bytearray(), False
    async with cluster.http.post(cluster.url + dialect.path, json=body) as response:
        async for data in response.content.iter_any():
            received += data
            if not broken and (thinking or said(dialect, bytes(received[: received.rfind(b"\n") + 1]))[1]):
                broken = True
                await asyncio.sleep(0.05)
                await break_it(cluster.nodes[response.headers["X-OllamaMax-Node"]])
    [log] = cluster.logs
    assert (log.outcome, len(log.failed_attempts)) == ("succeeded", 1)
    thought_tokens = len(expected[0].split())
    assert (log.failed_attempts[0].tokens < thought_tokens) is thinking
    assert said(dialect, bytes(received))[:2] == expected[:2]


async def test_what_is_not_streamed_has_the_same_thinking(cluster: Cluster) -> None:
    whole = json.loads(await cluster.directly("/api/chat", {**REQUESTS[1][1], "stream": False}))["message"]
    streamed = said(Chat(), await cluster.directly("/api/chat", REQUESTS[1][1]))
    assert (whole["thinking"], whole["content"]) == streamed[:2]
