"""The gateway in front of unmodified Ollama: what a client sees is what one node would have said, whatever breaks."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.controller.driver import PolicyDriver
from live.controller.probes import HttpProber
from live.gateway.dialect import Dialect, quick_text
from live.gateway.messages import Messages
from live.gateway.native import Chat, Generate
from live.gateway.openai import ChatCompletions, Completions
from live.gateway.request_log import RequestLog
from live.gateway.responses import Responses
from live.gateway.server import Gateway
from live.hands.ollama_api import OllamaApiHands
from live.hands.router import HandsByKind
from live.rig.node import RigNode
from live.rig.ollama_node import OllamaNode
from tests.live.conftest import MODEL, MakeNode
from tests.live.gateway.doubles import until
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.model_names import ModelNames
from twin.policy.parameters import Parameters
from twin.policy.vocabulary import Action, ActionKind, ClusterSpec, ModelSpec, NodeSpec, Probe, ProbeKind

pytestmark = pytest.mark.real

OPTIONS = {"seed": 11, "num_predict": 60, "temperature": 1}
GENERATE = {"model": MODEL, "prompt": "ba da ga", "options": OPTIONS}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "ba da ga"}], "options": OPTIONS}
TEXT_COMPLETION = {"model": MODEL, "prompt": "ba da", "seed": 11, "max_tokens": 9}
COMPLETION = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "ba da ga"}],
    "seed": 11,
    "max_tokens": 60,
    "temperature": 1,
}
VOLATILE = {"created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "id", "created"}


@dataclass
class Cluster:
    """Nodes behind a gateway with the default policy."""

    nodes: Mapping[str, RigNode]
    driver: PolicyDriver
    http: aiohttp.ClientSession
    url: str
    logs: list[RequestLog] = field(default_factory=list)

    async def post(self, path: str, body: dict[str, Any], url: str = "") -> tuple[int, bytes, Any]:
        async with self.http.post((url or self.url) + path, json=body) as response:
            return response.status, await response.read(), response.headers

    async def directly(self, path: str, body: dict[str, Any]) -> bytes:
        """What the first node itself answers."""
        return (await self.post(path, body, next(iter(self.nodes.values())).address))[1]


@pytest.fixture
async def cluster(make_node: MakeNode) -> AsyncIterator[Cluster]:
    async with in_front_of({name: await make_node(name) for name in ("node-0", "node-1")}) as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def in_front_of(nodes: Mapping[str, RigNode]) -> AsyncIterator[Cluster]:
    """A gateway in front of these nodes, with the model loaded on all."""
    names = list(nodes)
    addresses = {name: node.address for name, node in nodes.items()}
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for address in addresses.values():
            async with http.post(address + "/api/generate", json={"model": MODEL}) as loaded:
                assert loaded.status == 200
        spec = ClusterSpec(
            tuple(NodeSpec(name) for name in names),
            (ModelSpec(MODEL, 0.1, 2, 4),),
            {name: (MODEL,) for name in names},
        )
        model_names = ModelNames([MODEL])
        prober = HttpProber(addresses, model_names)
        api = OllamaApiHands(addresses)
        driver = PolicyDriver(ClusterPolicy(spec, Parameters()), prober, HandsByKind({"load": api, "unload": api}))
        logs: list[RequestLog] = []
        gateway = Gateway(driver, addresses, model_names, recorded=logs.append)
        stack.push_async_callback(prober.close)
        stack.push_async_callback(api.close)
        stack.push_async_callback(driver.stop)
        stack.push_async_callback(gateway.stop)
        await driver.start()
        yield Cluster(nodes, driver, http, await gateway.start(), logs)


def stable(record: dict[str, Any]) -> dict[str, Any]:
    """Without what is different at every call. How much of a prompt was cached is a node's own affair as well."""
    kept = {name: value for name, value in record.items() if name not in VOLATILE}
    if "choices" in kept:
        kept["choices"] = json.loads(json.dumps(kept["choices"]))
    return kept


def lines(body: bytes) -> list[dict[str, Any]]:
    return [stable(json.loads(line)) for line in body.splitlines()]


def chunks(body: bytes) -> list[dict[str, Any]]:
    parts = body.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [stable(json.loads(part.removeprefix("data: "))) for part in parts[:-2]]


async def test_streams_are_what_a_node_says(cluster: Cluster) -> None:
    for path, body in (("/api/generate", GENERATE), ("/api/chat", CHAT)):
        expected = await cluster.directly(path, body)
        status, actual, headers = await cluster.post(path, body)
        assert status == 200
        assert lines(actual) == lines(expected)
        assert headers["X-OllamaMax-Node"] in cluster.nodes
    for more in ({}, {"stream_options": {"include_usage": True}}):
        for path, asked in (("/v1/chat/completions", COMPLETION), ("/v1/completions", TEXT_COMPLETION)):
            body = {**asked, "stream": True, **more}
            expected = await cluster.directly(path, body)
            _, actual, _ = await cluster.post(path, body)
            assert chunks(actual) == chunks(expected)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (Generate(), GENERATE),
        (Chat(), CHAT),
        (ChatCompletions(), {**COMPLETION, "stream": True}),
        (Completions(), {**TEXT_COMPLETION, "stream": True}),
        (Completions(), {**TEXT_COMPLETION, "stream": True, "stream_options": {"include_usage": True}}),
        (Messages(), {"model": MODEL, "messages": CHAT["messages"], "max_tokens": 9, "stream": True}),
        (Responses(), {"model": MODEL, "input": "ba da", "max_output_tokens": 9, "stream": True}),
    ],
)
async def test_each_piece_of_text_is_read_quickly(cluster: Cluster, dialect: Dialect, body: dict[str, Any]) -> None:
    said = (await cluster.directly(dialect.path, body)).splitlines(keepends=True)
    records = [(each, dialect.record(each)) for each in said]
    pieces = [
        (each, record.text) for each, record in records if record is not None and record.text and not record.closing
    ]
    assert len(pieces) > 3
    assert [quick_text(dialect.quick, each) for each, _ in pieces] == [text for _, text in pieces]


async def test_whole_answers_are_what_a_node_says(cluster: Cluster) -> None:
    for path, body in (
        ("/api/generate", {**GENERATE, "stream": False}),
        ("/api/chat", {**CHAT, "stream": False}),
        ("/api/chat", {**CHAT, "stream": False, "logprobs": True, "top_logprobs": 1}),
        ("/v1/chat/completions", COMPLETION),
        ("/v1/completions", {"model": MODEL, "prompt": "ba da", "seed": 11, "max_tokens": 9}),
        ("/api/embed", {"model": MODEL, "input": "ba da"}),
    ):
        expected = json.loads(await cluster.directly(path, body))
        status, actual, _ = await cluster.post(path, body)
        assert (status, stable(json.loads(actual))) == (200, stable(expected)), path


async def test_errors_and_questions_are_what_a_node_says(cluster: Cluster) -> None:
    for path, body in (
        ("/api/generate", {**GENERATE, "think": True}),
        ("/v1/chat/completions", {"model": MODEL, "messages": []}),
        ("/api/show", {"model": MODEL}),
        ("/api/generate", {"model": MODEL}),
        ("/api/chat", {"model": MODEL, "messages": [], "stream": False}),
        ("/api/generate", {**GENERATE, "_debug_render_only": True}),
    ):
        expected = await cluster.post(path, body, cluster.nodes["node-0"].address)
        actual = await cluster.post(path, body)
        assert (actual[0], stable(json.loads(actual[1]))) == (expected[0], stable(json.loads(expected[1]))), path
    for path in ("/", "/api/version", "/api/tags", "/v1/models", f"/v1/models/{MODEL}"):
        async with cluster.http.get(cluster.url + path) as response:
            actual_text = await response.text()
        async with cluster.http.get(cluster.nodes["node-0"].address + path) as response:
            assert actual_text.rstrip("\n") == (await response.text()).rstrip("\n"), path


async def test_an_unload_reaches_every_node(cluster: Cluster) -> None:
    for path in ("/api/generate", "/api/chat"):
        for node in cluster.nodes.values():
            await cluster.post("/api/generate", {"model": MODEL}, node.address)
            assert node.runner_pids()
        status, body, headers = await cluster.post(path, {"model": MODEL, "keep_alive": "0s"})
        assert (status, headers["X-OllamaMax-Nodes"]) == (200, "node-0,node-1")
        said = stable(json.loads(body))
        for node in cluster.nodes.values():
            await until(lambda node=node: not node.runner_pids(), 10)  # type: ignore[misc]
        assert said == stable(json.loads(await cluster.directly(path, {"model": MODEL, "keep_alive": 0})))
        assert said["done_reason"] == "unload"
        status, body, _ = await cluster.post(path, {"model": MODEL, "keep_alive": 0})  # it is loaded nowhere
        assert (status, stable(json.loads(body))) == (200, said)


Break = Callable[[OllamaNode], Awaitable[None]]


@pytest.mark.parametrize("break_it", [OllamaNode.kill_runner, OllamaNode.kill_server, OllamaNode.pause_runner])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/v1/chat/completions"])
async def test_a_node_that_breaks_in_the_middle_does_not_show(cluster: Cluster, path: str, break_it: Break) -> None:
    count = 1500
    body: dict[str, Any] = {**GENERATE, "options": {**OPTIONS, "num_predict": count}}
    if path == "/api/chat":
        body = {**CHAT, "options": body["options"]}
    elif path == "/v1/chat/completions":
        body = {**COMPLETION, "max_tokens": count, "stream": True, "stream_options": {"include_usage": True}}
    read = chunks if path.startswith("/v1") else lines
    undisturbed = read(await cluster.directly(path, body))
    received = bytearray()
    async with cluster.http.post(cluster.url + path, json=body) as response:
        await break_it(node := cluster.nodes[response.headers["X-OllamaMax-Node"]])  # headers come with a first part
        async for data in response.content.iter_any():
            received += data
    assert _text(read(bytes(received))) == _text(undisturbed)
    last, expected = read(bytes(received))[-1], undisturbed[-1]
    assert _without_prompt_count(last) == _without_prompt_count(expected)
    [log] = cluster.logs
    assert (log.outcome, len(log.failed_attempts), log.tokens_received) == ("succeeded", 1, count)
    if break_it is OllamaNode.pause_runner:
        await node.resume_runner()


async def test_a_client_that_goes_away_frees_the_node(cluster: Cluster) -> None:
    body = {**GENERATE, "options": {**OPTIONS, "num_predict": 4000}}
    async with cluster.http.post(cluster.url + "/api/generate", json=body) as response:
        await response.content.readany()
    await until(lambda: cluster.logs, 5)
    assert cluster.logs[0].outcome == "cancelled"


async def test_every_probe_passes_on_a_node_that_works(cluster: Cluster) -> None:
    addresses = {name: node.address for name, node in cluster.nodes.items()}
    prober = HttpProber(addresses, ModelNames([MODEL]))
    kinds: tuple[ProbeKind, ...] = ("liveness", "residency", "generation", "load_path")
    try:
        results = {kind: await prober.perform(Probe(1, "node-0", kind, MODEL, 10.0)) for kind in kinds}
        assert {kind: result.error for kind, result in results.items()} == dict.fromkeys(kinds, "")
        assert results["residency"].models == (MODEL,)
        await until(lambda: not cluster.nodes["node-0"].runner_pids(), 10)  # the load-path probe let it go again
        await cluster.nodes["node-1"].pause_runner()
        hung = await prober.perform(Probe(2, "node-1", "generation", MODEL, 0.3))
        assert hung.error == "first_token_timeout"
        assert (await prober.perform(Probe(3, "node-1", "residency", "", 5.0))).ok
        await cluster.nodes["node-1"].resume_runner()
    finally:
        await prober.close()


async def test_the_api_loads_and_unloads(cluster: Cluster) -> None:
    node = cluster.nodes["node-1"]
    api = OllamaApiHands({"node-1": node.address})

    async def do(kind: ActionKind, model: str = MODEL) -> str:
        result = await api.perform(Action(1, kind, "node-1", model, "", 60.0, 0.0))
        return result.status + result.detail

    try:
        assert await do("unload") == "done"
        await until(lambda: not node.runner_pids(), 10)
        assert await do("load") == "done"
        assert len(node.runner_pids()) == 1
        assert await do("load", "nothing") == "failednode-1 answered 404: model 'nothing' not found"
        await node.kill_server()
        assert (await do("load")).startswith("failednode-1: refused")
    finally:
        await api.close()


async def test_many_at_once_get_each_their_own(cluster: Cluster) -> None:
    async def one(seed: int) -> tuple[str, str]:
        body = {**GENERATE, "options": {**OPTIONS, "seed": seed}}
        expected = _text(lines(await cluster.directly("/api/generate", body)))
        return expected, _text(lines((await cluster.post("/api/generate", body))[1]))

    for expected, actual in await asyncio.gather(*(one(seed) for seed in range(20))):
        assert actual == expected


def _text(records: list[dict[str, Any]]) -> str:
    text = ""
    for record in records:
        text += record.get("response") or record.get("message", {}).get("content") or ""
        text += "".join(choice["delta"]["content"] for choice in record.get("choices", []))
    return text


def _without_prompt_count(record: dict[str, Any]) -> dict[str, Any]:
    """A node that has seen the prompt before counts only what it had to evaluate anew."""
    record = {name: value for name, value in record.items() if name != "prompt_eval_count"}
    if "usage" in record:
        record["usage"] = record["usage"]["completion_tokens"]
    return record


async def test_ollamas_own_client_takes_it_for_an_ollama(cluster: Cluster, ollama: Path, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "OLLAMA_HOST": cluster.url, "OLLAMA_NOHISTORY": "1"}

    async def run(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            ollama,
            *words,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(20):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        return output.decode()

    assert MODEL in await run("list")
    assert MODEL in await run("ps")
    assert "llama" in await run("show", MODEL)
    await run("stop", MODEL)  # an unload; a generation has no end here, since the models of the rig never stop
    await until(lambda: not any(node.runner_pids() for node in cluster.nodes.values()), 10)
