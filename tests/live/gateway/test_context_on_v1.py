"""Clients of `/v1` do not make a node reload a model that native clients have had loaded with a `num_ctx` of theirs."""

import json
from typing import Any

import pytest

from live.gateway.chat_as_native import is_plain
from tests.live.conftest import MODEL
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import answers, chat_lines, completion_events, streams, to
from tests.live.gateway.test_real_nodes import COMPLETION, Cluster, chunks, stable
from tests.live.gateway.test_real_nodes import cluster as cluster  # noqa: PLC0414  # the fixture

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
WORDS = ["ba", " da"]


async def with_8192(house: House, *nodes: str) -> None:
    """A native client has asked for a context, larger than that of the loaded model."""
    house.routes(to("a"), *map(to, nodes))
    loaded = json.dumps({"models": [{"name": "m:latest", "context_length": 4096}]}).encode()
    house.a.will(answers(200, loaded), streams(chat_lines(WORDS)))
    house.b.will(answers(200, b'{"models":[]}'))
    async with house.http.get(house.url + "/api/ps"):
        pass
    house.b.behaviours.clear()
    await house.post("/api/chat", {**CHAT, "options": {"num_ctx": 8192}})
    house.a.behaviours.clear()
    house.a.bodies.clear()
    house.b.bodies.clear()


async def test_a_plain_chat_goes_the_native_way_while_a_context_is_in_use(house: House) -> None:
    await with_8192(house, "a", "a")
    house.a.will(streams(chat_lines(WORDS)))
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "stop": "x", "max_tokens": 7, "seed": 5}
    _, answer, headers = await house.post("/v1/chat/completions", body)
    asked = house.a.bodies[0]
    options = {"num_ctx": 8192, "temperature": 1.0, "top_p": 1.0, "num_predict": 7, "seed": 5, "stop": ["x"]}
    assert asked == {**CHAT, "stream": True, "options": options}
    assert [each["choices"] for each in chunks(answer)] == [each["choices"] for each in expected()]
    assert chunks(answer)[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert headers["Content-Type"] == "text/event-stream"
    assert "X-OllamaMax-Context" not in headers
    _, answer, _ = await house.post("/v1/chat/completions", CHAT)
    assert json.loads(answer)["choices"][0]["message"]["content"] == "ba da"


def expected() -> list[dict[str, Any]]:
    return chunks(b"".join(completion_events(WORDS)))


async def test_it_breaks_and_goes_on_elsewhere_as_any_other(house: House) -> None:
    await with_8192(house, "a", "b", "b")
    house.a.will(streams(chat_lines(WORDS)[:1], then="break"))
    house.b.will(streams(chat_lines([" XX"])), streams(chat_lines([" on"])))
    _, answer, _ = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
    parts = chunks(answer)
    assert "".join(part["choices"][0]["delta"]["content"] for part in parts) == "ba on"
    assert house.b.bodies[1]["messages"][-1] == {"role": "assistant", "content": "ba"}
    assert house.b.bodies[1]["options"]["num_ctx"] == 8192


async def test_a_nodes_refusal_is_said_in_the_words_of_v1(house: House) -> None:
    await with_8192(house, "a")
    house.a.will(answers(400, b'{"error":"no such thing"}'))
    status, answer, _ = await house.post("/v1/chat/completions", CHAT)
    assert (status, json.loads(answer)["error"]["message"]) == (400, "no such thing")


async def test_what_v1_alone_can_say_goes_to_v1_and_a_header_says_what_that_means(house: House) -> None:
    await with_8192(house, "a", "a")
    house.a.will(streams(completion_events(WORDS)), answers(200, b"{}"))
    _, _, headers = await house.post("/v1/chat/completions", {**CHAT, "tools": [{}], "stream": True})
    assert house.a.bodies[0]["tools"] == [{}]
    assert "8192 tokens" in headers["X-OllamaMax-Context"]
    _, _, headers = await house.post("/v1/embeddings", {"model": "m", "input": "x"})
    assert "8192 tokens" in headers["X-OllamaMax-Context"]


async def test_embeddings_and_loads_get_the_context_as_well(house: House) -> None:
    await with_8192(house, "a", "a", "a")
    house.a.will(answers(200, b"{}"))
    await house.post("/api/embed", {"model": "m", "input": "x", "options": {"seed": 1}})
    await house.post("/api/generate", {"model": "m", "keep_alive": -1})
    await house.post("/api/chat", {"model": "m", "messages": [], "options": {"num_ctx": 2048}})
    assert [body["options"]["num_ctx"] for body in house.a.bodies] == [8192] * 3
    assert (house.a.bodies[0]["options"]["seed"], house.a.bodies[1]["keep_alive"]) == (1, -1)


async def test_without_a_context_in_use_v1_is_left_alone(house: House) -> None:
    house.routes(to("a"), to("a"))
    house.a.will(streams(completion_events(WORDS)), answers(200, b"{}"))
    await house.post("/v1/chat/completions", {**CHAT, "stream": True, "seed": 1})
    await house.post("/api/embed", {"model": "m", "input": "x"})
    assert "options" not in house.a.bodies[0]
    assert house.a.bodies[1] == {"model": "m", "input": "x"}


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]},
        {"reasoning_effort": "low"},
        {"temperature": "1"},
        {"stop": [1]},
    ],
)
def test_only_what_both_understand_alike_is_plain(more: dict[str, Any]) -> None:
    assert is_plain(CHAT)
    assert not is_plain({**CHAT, **more})


@pytest.mark.real
async def test_a_real_node_says_the_same_and_reloads_nothing(cluster: Cluster) -> None:
    stream = {**COMPLETION, "stream": True, "stream_options": {"include_usage": True}}
    direct = [await cluster.directly("/v1/chat/completions", body) for body in (stream, COMPLETION)]
    async with cluster.http.get(cluster.url + "/api/ps") as response:
        [model] = (await response.json())["models"]
    options = {"num_ctx": model["context_length"] + 1024, "num_predict": 3}
    native = {"model": MODEL, "messages": COMPLETION["messages"], "options": options, "stream": False}
    runners: dict[str, list[int]] = {}
    for number in range(12):  # a native client and two of /v1 in turn
        path, body = [("/api/chat", native), ("/v1/chat/completions", stream), ("/v1/chat/completions", COMPLETION)][
            number % 3
        ]
        status, answer, headers = await cluster.post(path, body)
        assert status == 200
        if body is stream:
            assert _without_prompt(chunks(answer)) == _without_prompt(chunks(direct[0]))
        elif body is COMPLETION:
            assert _without_prompt([stable(json.loads(answer))]) == _without_prompt([stable(json.loads(direct[1]))])
        name = headers["X-OllamaMax-Node"]
        # The first request with this context loads the model anew on each node; none after it does.
        assert cluster.nodes[name].runner_pids() == runners.setdefault(name, cluster.nodes[name].runner_pids())


def _without_prompt(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A node that has seen the prompt before counts only what it had to evaluate anew."""
    for record in records:
        if record.get("usage"):
            record["usage"] = record["usage"]["completion_tokens"]
    return records
