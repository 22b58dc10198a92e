"""Streams that break on a real node and go on on another where the text cannot be said again: no seed, other weights."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from live.gateway.messages import Messages
from live.gateway.native import Generate
from live.gateway.openai import Completions
from live.gateway.responses import Responses
from live.rig.node import RigNode
from live.rig.ollama_node import OllamaNode
from tests.live.conftest import MODEL
from tests.live.gateway.event_doubles import told
from tests.live.gateway.test_real_nodes import Cluster
from tests.live.gateway.test_real_nodes import cluster as cluster  # noqa: PLC0414  # the fixture

pytestmark = pytest.mark.real

COUNT = 900
MESSAGES = {
    "model": MODEL, "max_tokens": COUNT, "messages": [{"role": "user", "content": "ba da ga"}], "stream": True,
    "temperature": 1,
}  # fmt: skip
RESPONSES = {"model": MODEL, "input": "ba da ga", "max_output_tokens": COUNT, "stream": True}
Break = Callable[[RigNode], Awaitable[None]]


async def broken_in_the_middle(cluster: Cluster, path: str, body: dict[str, Any], break_it: Break) -> bytes:
    received = bytearray()
    async with cluster.http.post(cluster.url + path, json=body) as response:
        node = cluster.nodes[response.headers["X-OllamaMax-Node"]]
        async for data in response.content.iter_any():
            if not received:
                await asyncio.sleep(0.05)
                await break_it(node)
            received += data
    [log] = cluster.logs
    assert (log.outcome, [each.node for each in log.failed_attempts]) == ("succeeded", [node.name])
    assert 1 <= log.failed_attempts[0].tokens < COUNT == log.tokens_received
    return bytes(received)


@pytest.mark.parametrize("break_it", [OllamaNode.kill_runner, OllamaNode.kill_server])
async def test_a_message_that_breaks_goes_on_elsewhere(cluster: Cluster, break_it: Break) -> None:
    events = told(await broken_in_the_middle(cluster, "/v1/messages", MESSAGES, break_it))
    kinds = [each["type"] for each in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert events[-2]["usage"]["output_tokens"] == COUNT
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("break_it", [OllamaNode.kill_runner, OllamaNode.kill_server])
async def test_a_response_that_breaks_goes_on_elsewhere(cluster: Cluster, break_it: Break) -> None:
    events = told(await broken_in_the_middle(cluster, "/v1/responses", RESPONSES, break_it))
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    [item] = {each["item_id"] for each in events if "item_id" in each}
    text = "".join(each["delta"] for each in events if each["type"] == "response.output_text.delta")
    last = events[-1]["response"]
    assert (events[-1]["type"], last["id"]) == ("response.completed", events[0]["response"]["id"])
    assert [(each["id"], each["content"][0]["text"]) for each in last["output"]] == [(item, text)]
    assert last["usage"]["output_tokens"] == COUNT


@pytest.mark.parametrize(
    ("path", "body", "dialect"),
    [
        ("/v1/messages", {**MESSAGES, "system": "ka ka", "max_tokens": 60}, Messages()),
        ("/v1/responses", {**RESPONSES, "instructions": "ka ka", "temperature": 0, "max_output_tokens": 60}, Responses()),
        ("/api/generate", {"model": MODEL, "prompt": "ba da ga", "system": "ka ka", "options": {"num_predict": 60}},
         Generate()),
        ("/v1/completions", {"model": MODEL, "prompt": "ba da ga", "max_tokens": 60, "stream": True}, Completions()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("thinking", ["", "ba ba"])
async def test_what_a_node_is_asked_is_the_beginning_of_its_own_answer(
    cluster: Cluster, path: str, body: dict[str, Any], dialect: Any, thinking: str
) -> None:
    """Where nothing is left to chance, the first half and its continuation are the whole: the prompt ends in it. A thought
    before it is understood, and left out by the template of a model that does not think."""
    cold: dict[str, Any] = {"temperature": 0}
    body = {**body, "options": {**body["options"], **cold, "seed": 1}} if "options" in body else {**body, **cold}
    pieces = await _texts(cluster, dialect, path, body)
    half = len(pieces) // 2
    request = dialect.parse(json.dumps(body).encode())
    asked = dialect.continuation(request, 1, "".join(pieces[:half]), half, thinking)
    rest = await _texts(cluster, dialect, asked.path, json.loads(asked.body))
    assert len(pieces) > 40
    assert pieces[:half] != pieces[half : 2 * half]  # else it might as well have begun anew
    assert "".join(rest) == "".join(pieces[half:])


async def _texts(cluster: Cluster, dialect: Any, path: str, body: dict[str, Any]) -> list[str]:
    records = [dialect.record(line) for line in (await cluster.directly(path, body)).splitlines()]
    return [record.text for record in records if record is not None and record.text]
