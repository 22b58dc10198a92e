"""What a node does, real or emulated. Each test runs on both: that they agree is what makes the emulator worth it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.emulator.config import EmulatedModel
from live.rig.emulated_node import EmulatedNode
from live.rig.errors import RigError
from live.rig.ledger import Ledger
from live.rig.node import RigNode
from live.rig.ollama_node import OllamaNode
from tests.live.conftest import MODEL
from twin.scenario.hardware import Hardware

Json = dict[str, Any]
Build = Callable[..., EmulatedNode | OllamaNode]
Make = Callable[..., Awaitable["Client"]]

# About what the small random model does on a real node without a GPU: 3500 tokens take seconds, a load 0.3 s.
HARDWARE = Hardware(decode_ms=[1, 1.1, 1.2, 1.3], prefill_tokens_per_s=3000, vram_gib=8, load_gib_per_s=10, kind="cpu")
MODELS = {MODEL: EmulatedModel(size_gib=0.1, memory_gib=0.2, trained_tokens=4096)}
LONG = 3500
ENDPOINTS = ("/api/generate", "/api/chat", "/v1/chat/completions")


class Client:
    """A client of one node, with a limit on all that it waits for."""

    def __init__(self, node: RigNode) -> None:
        self.node = node
        self.session = aiohttp.ClientSession(node.address, timeout=aiohttp.ClientTimeout(total=20))

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        """Status and JSON of an answer that does not stream."""
        data = body if isinstance(body, str) else json.dumps(body) if body is not None else None
        async with self.session.request(method, path, data=data) as answer:
            return answer.status, json.loads(await answer.read())

    async def generate(self, tokens: int = 5, *, prompt: str = "ba da", limit_s: float = 20.0, **fields: Any) -> Json:
        """The record of a generation that does not stream; raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            status, record = await self.ask("POST", "/api/generate", request("/api/generate", tokens, prompt, **fields))
        assert status == 200, record
        return record

    @asynccontextmanager
    async def stream(self, path: str, tokens: int = 5, prompt: str = "ba da", **fields: Any) -> AsyncIterator["Stream"]:
        """A stream that has begun; it is broken off at the end of the block."""
        async with self.session.post(path, json=request(path, tokens, prompt, stream=True, **fields)) as answer:
            assert answer.status == 200, await answer.text()
            yield Stream(answer)

    async def loaded(self) -> list[str]:
        """The models that are loaded."""
        _, answer = await self.ask("GET", "/api/ps")
        return [model["name"] for model in answer["models"]]

    async def becomes(self, models: list[str]) -> bool:
        """Whether these are the models that are loaded, at once or soon."""
        for _ in range(100):
            if await self.loaded() == models:
                return True
            await asyncio.sleep(0.02)
        return False


class Stream:
    """The lines of a stream, with those of them that say something."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.lines: list[str] = []

    async def read(self, lines: int | None = None) -> list[str]:
        """The next lines, or all to the end."""
        while lines is None or lines > 0:
            line = (await self.answer.content.readline()).decode()
            if not line:
                break
            if line.strip():
                self.lines.append(line.strip().removeprefix("data: "))
                lines = lines - 1 if lines is not None else None
        return self.lines

    def text(self) -> str:
        """What was said so far."""
        return "".join(text_of(json.loads(line)) for line in self.lines if line != "[DONE]")


def text_of(record: Json) -> str:
    """The text of a record of any dialect."""
    if "choices" in record:
        return "".join((choice.get("delta") or choice.get("message"))["content"] for choice in record["choices"])
    return str(record["message"]["content"] if "message" in record else record.get("response", ""))


def request(path: str, tokens: int, prompt: str = "ba da", stream: bool = False, **fields: Any) -> Json:
    """The body of a request for so many tokens; `fields` are options."""
    body: Json = {"model": MODEL, "stream": stream}
    messages = fields.pop("messages", [{"role": "user", "content": prompt}])
    if path.startswith("/v1"):
        return {**body, "messages": messages, "max_tokens": tokens, **fields}
    body |= {"prompt": prompt} if path.endswith("generate") else {"messages": messages}
    return {**body, "options": {"num_predict": tokens, **fields}}


def refused(path: str, answer: Json) -> str:
    """The message of an error, as the endpoint's dialect has it."""
    return str(answer["error"]["message"] if path.startswith("/v1") else answer["error"])


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.real)])
def build(request: pytest.FixtureRequest, ledger: Ledger, tmp_path: Path) -> Build:
    """Makes nodes of one kind."""
    if request.param == "emulated":
        return lambda name, **options: EmulatedNode(
            name, hardware=HARDWARE, models=MODELS, folder=tmp_path / name, ledger=ledger, **options
        )
    ollama: Path = request.getfixturevalue("ollama")
    models: Path = request.getfixturevalue("models")
    return lambda name, **options: OllamaNode(
        name, ollama=ollama, models=models, folder=tmp_path / name, ledger=ledger, **options
    )


@pytest.fixture
async def make(build: Build) -> AsyncIterator[Make]:
    """Starts nodes, with nothing loaded; gives their clients; stops them after the test."""
    clients: list[Client] = []

    async def start(name: str = "node-1", **options: Any) -> Client:
        client = Client(build(name, **options))
        clients.append(client)
        await client.node.start()
        return client

    yield start
    for client in clients:
        await client.session.close()
        await client.node.stop()


async def test_what_can_be_read_without_a_runner(make: Make) -> None:
    client = await make()
    for method in ("GET", "HEAD"):
        async with client.session.request(method, "/") as answer:
            assert (answer.status, answer.content_type) == (200, "text/plain")
            assert await answer.text() == ("Ollama is running" if method == "GET" else "")
    assert await client.ask("GET", "/api/version") == (200, {"version": "0.24.0"})
    _, tags = await client.ask("GET", "/api/tags")
    (model,) = tags["models"]
    assert model["name"] == model["model"] == MODEL
    assert model["size"] > 0
    assert await client.ask("GET", "/api/ps") == (200, {"models": []})
    _, listed = await client.ask("GET", "/v1/models")
    assert [(item["id"], item["object"], item["owned_by"]) for item in listed["data"]] == [(MODEL, "model", "library")]
    status, shown = await client.ask("POST", "/api/show", {"model": MODEL})
    assert (status, shown["model_info"]["llama.context_length"]) == (200, 4096)


async def test_an_unknown_model_is_not_found(make: Make) -> None:
    client = await make()
    for path in (*ENDPOINTS, "/api/show"):
        status, answer = await client.ask("POST", path, {**request(path, 1), "model": "x"})
        assert (status, refused(path, answer)) == (404, "model 'x' not found")


async def test_a_body_that_is_no_request_is_refused_in_the_words_of_go(make: Make) -> None:
    client = await make()
    for path in ENDPOINTS:
        for body, message in (
            ("[]", "json: cannot unmarshal array into Go value of type"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ('{"model":', "unexpected EOF"),
            (
                '{"model": 3, "messages": [{"role": "user", "content": "a"}]}',
                "json: cannot unmarshal number into Go struct",
            ),
        ):
            status, answer = await client.ask("POST", path, body)
            assert (status, refused(path, answer)[: len(message)]) == (400, message)


async def test_an_empty_prompt_loads_and_keep_alive_0_unloads(make: Make) -> None:
    client = await make()
    bodies: list[tuple[str, Json]] = [("/api/generate", {}), ("/api/chat", {"messages": []})]
    for path, empty in bodies:
        status, record = await client.ask("POST", path, {"model": MODEL, **empty})
        assert (status, record["done"], record["done_reason"], text_of(record)) == (200, True, "load", "")
        assert await client.loaded() == [MODEL]
        status, record = await client.ask("POST", path, {"model": MODEL, "keep_alive": 0, **empty})
        assert (status, record["done"], record["done_reason"]) == (200, True, "unload")
        assert await client.becomes([])


async def test_a_short_keep_alive_lets_the_model_go_and_a_longer_one_keeps_it(make: Make) -> None:
    client = await make()
    assert (await client.generate(1))["done"]
    await client.ask("POST", "/api/generate", {"model": MODEL, "keep_alive": "1ms"})
    assert await client.becomes([])
    await client.ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 600})
    await asyncio.sleep(0.1)
    _, answer = await client.ask("GET", "/api/ps")
    (model,) = answer["models"]
    assert model["context_length"] == 4096
    assert {"size", "size_vram", "expires_at"} <= model.keys()


async def test_a_model_in_use_is_unloaded_when_its_last_request_has_ended(make: Make) -> None:
    client = await make()
    async with client.stream("/api/generate", 1000) as stream:
        await stream.read(1)
        _, record = await client.ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 0})
        assert record["done_reason"] == "unload"
        assert await client.loaded() == [MODEL]
        assert json.loads((await stream.read())[-1])["done"]
    assert await client.becomes([])


async def test_a_stream_has_a_line_for_each_token_and_ends_with_its_account(make: Make) -> None:
    client = await make()
    for path in ("/api/generate", "/api/chat"):
        async with client.stream(path, 50) as stream:
            assert stream.answer.content_type == "application/x-ndjson"
            lines = [json.loads(line) for line in await stream.read()]
        *parts, last = lines
        assert 45 <= len(parts) <= 50  # a token may wait for the next one to be printable
        assert all(part["done"] is False and part["model"] == MODEL and text_of(part) for part in parts)
        assert (last["done"], last["done_reason"], last["eval_count"], text_of(last)) == (True, "length", 50, "")
        assert last["prompt_eval_count"] >= 2
        spans = [last[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]
        assert all(span > 0 for span in spans)
        assert sum(spans[1:]) <= spans[0] < 20e9


async def test_a_v1_stream_ends_with_its_reason_its_usage_and_done(make: Make) -> None:
    client = await make()
    path = "/v1/chat/completions"
    async with client.stream(path, 10, stream_options={"include_usage": True}) as stream:
        assert stream.answer.content_type == "text/event-stream"
        *parts, reason, usage, done = await stream.read()
    assert done == "[DONE]"
    chunks = [json.loads(part) for part in (*parts, reason)]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * len(parts) + ["length"]
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"]["completion_tokens"] == 10
    status, whole = await client.ask("POST", path, request(path, 10))
    assert (status, whole["object"], whole["usage"]["completion_tokens"]) == (200, "chat.completion", 10)
    assert whole["choices"][0]["finish_reason"] == "length"


async def test_the_text_follows_from_prompt_and_seed_on_every_node_streamed_or_not_alone_or_batched(make: Make) -> None:
    one, two = await make("node-1"), await make("node-2")

    async def streamed(client: Client, path: str, seed: int) -> str:
        async with client.stream(path, 60, seed=seed) as stream:
            await stream.read()
            return stream.text()

    for path in ENDPOINTS:
        alone = await streamed(one, path, 1)
        assert alone.isascii()
        assert alone.isprintable()
        assert len(alone) >= 100
        _, whole = await one.ask("POST", path, request(path, 60, seed=1))
        assert text_of(whole) == alone
        batched = await asyncio.gather(*(streamed(two, path, seed) for seed in (1, 2, 3, 1)))
        assert batched[0] == batched[3] == alone
        assert len(set(batched)) == 3
        assert await streamed(one, path, 2) == batched[1]


async def test_a_chat_goes_on_from_an_open_assistant_message(make: Make) -> None:
    client = await make()

    async def chat(tokens: int, *said: str) -> Json:
        messages = [{"role": "user", "content": "ba da ki"}] + [{"role": "assistant", "content": text} for text in said]
        # At temperature 0 and without a penalty, the rest of a text follows from its beginning alone.
        body = request("/api/chat", tokens, messages=messages, temperature=0, repeat_penalty=1)
        status, record = await client.ask("POST", "/api/chat", body)
        assert status == 200
        return record

    whole, first = await chat(40), await chat(15)
    rest = await chat(25, text_of(first))
    assert text_of(first) + text_of(rest) == text_of(whole)
    assert rest["prompt_eval_count"] == first["prompt_eval_count"] + 15


async def test_another_context_length_reloads_the_model_and_so_does_the_next_client_without(make: Make) -> None:
    client = await make()
    cold, warm = await client.generate(), await client.generate()
    assert warm.get("load_duration", 0) < 0.15e9 < cold["load_duration"]
    other = await client.generate(num_ctx=512)
    # Less than a cold load on a real node, which keeps what it knows of the model.
    assert other["load_duration"] > 0.03e9
    _, answer = await client.ask("GET", "/api/ps")
    assert answer["models"][0]["context_length"] == 512
    await client.generate()
    _, answer = await client.ask("GET", "/api/ps")
    assert answer["models"][0]["context_length"] == 4096


async def test_a_prompt_longer_than_the_context_is_cut_without_a_word(make: Make) -> None:
    client = await make()
    record = await client.generate(2, prompt="ba " * 1000, num_ctx=256)
    assert (record["done"], record["prompt_eval_count"]) == (True, 256)


async def test_a_request_beyond_the_slots_waits_and_its_wait_is_in_none_of_the_durations(make: Make) -> None:
    client = await make(slots_per_model=2)
    await client.generate(1)

    async def served() -> tuple[float, Json]:
        async with client.stream("/api/generate", 600) as stream:
            last = json.loads((await stream.read())[-1])
        return time.monotonic(), last

    started_s = time.monotonic()
    ends = [end async for end in _as_they_end([served() for _ in range(3)])]
    waits_s = [
        (end["total_duration"] - sum(end[f"{name}_duration"] for name in ("load", "prompt_eval", "eval"))) / 1e9
        for _, end in ends
    ]
    first_s = ends[0][0] - started_s
    assert max(waits_s[:2]) < 0.3 * first_s
    assert waits_s[2] > 0.6 * first_s, "the third waited for one of the first two to end"


async def _as_they_end(running: list[Coroutine[Any, Any, Any]]) -> AsyncIterator[Any]:
    for ended in asyncio.as_completed(running):
        yield await ended


async def test_a_client_that_goes_away_frees_its_slot(make: Make) -> None:
    # Now and then a real runner hangs for good when a client goes away (test_after_a_cancel.py counts it); then a new node
    # is asked. If a slot stayed taken by rule, all of them would fail.
    for _ in range(4):
        client = await make(slots_per_model=1)
        async with client.stream("/api/generate", LONG) as stream:
            await stream.read(3)
        with contextlib.suppress(TimeoutError):
            await client.generate(1, limit_s=1.5)
            return
    pytest.fail("the slot of a client that went away stays taken")


async def test_a_client_that_gives_up_during_a_load_aborts_it(make: Make) -> None:
    client = await make()
    # A load takes 0.28 s on a real node. Should one be faster some day, the model is there and the test says so.
    with pytest.raises(TimeoutError):
        await client.generate(limit_s=0.1)
    await asyncio.sleep(0.6)
    assert await client.loaded() == []
    assert (await client.generate())["load_duration"] > 0.1e9


async def test_no_header_comes_before_the_first_token(make: Make) -> None:
    client = await make()
    await client.generate(1)
    started_s = time.monotonic()
    async with client.stream("/api/generate", 3, prompt="ba " * 2000) as stream:
        first_byte_s = time.monotonic() - started_s
        last = json.loads((await stream.read())[-1])
    assert first_byte_s > 0.9 * last["prompt_eval_duration"] / 1e9 > 0.05


async def test_a_killed_runner_breaks_a_native_stream_with_an_error_line(make: Make) -> None:
    client = await make()
    for path in ("/api/generate", "/api/chat"):
        async with client.stream(path, LONG) as stream:
            await stream.read(20)
            await client.node.kill_runner()
            *parts, last = await stream.read()
        assert last == '{"error":"an error was encountered while running the model: unexpected EOF"}'
        assert not any(json.loads(part)["done"] for part in parts)
        assert client.node.server_alive()
        again = await client.generate()
        assert again["done"]
        assert again["load_duration"] > 0.1e9


async def test_a_killed_runner_ends_a_v1_stream_with_an_empty_delta_and_nothing_more(make: Make) -> None:
    client = await make()
    async with client.stream("/v1/chat/completions", LONG) as stream:
        await stream.read(20)
        await client.node.kill_runner()
        lines = await stream.read()
    assert "[DONE]" not in lines
    choices = [json.loads(line)["choices"][0] for line in lines]
    assert {choice["finish_reason"] for choice in choices} == {None}
    assert all(choice["delta"]["content"] for choice in choices[:-1])
    assert choices[-1]["delta"]["content"] == ""


async def test_a_killed_runner_is_a_status_to_who_does_not_stream(make: Make) -> None:
    client = await make()
    for path in ENDPOINTS:
        await client.generate(1)
        whole = asyncio.create_task(client.ask("POST", path, request(path, LONG)))
        await asyncio.sleep(0.3)
        await client.node.kill_runner()
        status, answer = await whole
        message = "an error was encountered while running the model: unexpected EOF"
        assert (status, refused(path, answer)) == (500, message)


async def test_a_runner_killed_before_the_first_token_is_a_status(make: Make) -> None:
    client = await make()
    await client.generate(1)
    body = request("/api/generate", 3, "ba " * 3500, stream=True)
    prefill = asyncio.create_task(client.ask("POST", "/api/generate", body))
    await asyncio.sleep(0.3)
    await client.node.kill_runner()
    status, answer = await prefill
    assert (status, answer["error"][:41]) == (500, "model runner has unexpectedly stopped, th")


async def test_a_runner_killed_while_it_loads_is_a_status(make: Make) -> None:
    client = await make()
    cold = asyncio.create_task(client.ask("POST", "/api/generate", request("/api/generate", 3)))
    # In the middle of its 0.28 s. Within the first 20 ms a real server does not notice, and waits for the dead runner
    # until the client gives up.
    await asyncio.sleep(0.15)
    await client.node.kill_runner()
    status, answer = await cold
    assert (status, answer["error"][:42]) == (500, "llama runner process has terminated with e")
    assert (await client.generate())["done"]


async def test_a_paused_runner_hangs_all_generations_and_nothing_else_until_it_goes_on(make: Make) -> None:
    client = await make()
    async with client.stream("/api/generate", 300) as running:
        await running.read(2)
        await client.node.pause_runner()
        rest = asyncio.create_task(running.read())
        new = asyncio.create_task(client.generate())
        await asyncio.sleep(0.6)
        had = len(running.lines)
        for path in ("/", "/api/version", "/api/tags", "/api/ps"):
            started_s = time.monotonic()
            async with client.session.get(path) as answer:
                assert answer.status == 200
            assert time.monotonic() - started_s < 0.3
        assert len(running.lines) == had
        assert not rest.done()
        assert not new.done()
        await client.node.resume_runner()
        assert json.loads((await rest)[-1])["done"]
        assert (await new)["done"]


async def test_a_hung_runner_is_unloaded_once_nobody_waits_for_it(make: Make) -> None:
    client = await make()
    async with client.stream("/api/generate", LONG) as running:
        await running.read(2)
        await client.node.pause_runner()
        _, record = await client.ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 0})
        assert record["done_reason"] == "unload"
        await asyncio.sleep(0.2)
        assert await client.loaded() == [MODEL]
    assert await client.becomes([])
    assert (await client.generate())["done"]


async def test_a_fault_of_the_runner_without_a_runner_is_an_error(make: Make) -> None:
    client = await make()
    for fault in (client.node.kill_runner, client.node.pause_runner):
        with pytest.raises(RigError, match=r"node-1.* no runner .*no model is loaded"):
            await fault()
    await client.node.resume_runner()


async def test_a_killed_server_cuts_its_streams_refuses_and_after_a_restart_serves_and_counts_on(make: Make) -> None:
    client = await make()
    node = client.node
    await client.generate()
    async with client.stream("/api/generate", LONG) as stream:
        await stream.read(2)
        await node.kill_server()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
    assert not node.server_alive()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.generate()
    before = node.served_generations()
    assert before >= 1
    await node.restart()
    assert await client.loaded() == []
    await client.generate()
    for _ in range(50):  # the line in the log comes a moment after the answer
        if node.served_generations() > before:
            break
        await asyncio.sleep(0.02)
    assert node.served_generations() == before + 1
