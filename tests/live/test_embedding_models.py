"""A node with an embedding model beside a chat model, real or emulated: what it refuses, what proves it, what loads it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.controller.driver import PolicyDriver
from live.controller.probes import HttpProber
from live.emulator.config import EmulatedModel
from live.gateway.server import Gateway
from live.hands.ollama_api import OllamaApiHands
from live.hands.router import HandsByKind
from live.rig.emulated_node import EmulatedNode
from live.rig.ledger import Ledger
from live.rig.model_files import TINY, ModelSize, ensure_models
from live.rig.ollama_node import OllamaNode
from tests.live.gateway.doubles import until
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.model_names import ModelNames
from twin.policy.parameters import preset
from twin.policy.vocabulary import Action, ActionKind, ClusterSpec, ModelSpec, NodeSpec, Probe, ProbeKind, ProbeResult
from twin.scenario.hardware import Hardware

CHAT, EMBEDDER = "llama3.1:8b", "nomic-embed-text:latest"
HARDWARE = Hardware(decode_ms=[1, 1.1, 1.2, 1.3], prefill_tokens_per_s=3000, vram_gib=8, load_gib_per_s=10, kind="cpu")
SIZES: dict[str, ModelSize] = {
    CHAT: TINY,
    EMBEDDER: replace(TINY, pools=True),
}
MODELS = {
    name: EmulatedModel(
        size_gib=0.1, memory_gib=0.2, embedding=name == EMBEDDER, trained_tokens=SIZES[name].context_length
    )
    for name in SIZES
}
IMPATIENT: dict[str, Any] = {
    "probes.generation_period_s": 0.5,
    "probes.generation_suspect_s": 0.3,
    "probes.generation_timeout_s": 0.5,
    "healer.restart": False,
}
REFUSAL = {"error": f'"{EMBEDDER}" does not support generate'}


@dataclass
class Bench:
    """The node, its clients, its hands and its prober."""

    node: EmulatedNode | OllamaNode
    http: aiohttp.ClientSession
    hands: OllamaApiHands
    prober: HttpProber
    asked: int = 0

    async def post(self, path: str, base: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.post((base or self.node.address) + path, json=body) as answer:
            return answer.status, json.loads((await answer.text()).splitlines()[-1])

    async def probe(self, kind: ProbeKind, model: str = EMBEDDER, timeout_s: float = 10.0) -> ProbeResult:
        self.asked += 1
        return await self.prober.perform(Probe(self.asked, "a", kind, model, timeout_s))

    async def do(self, kind: ActionKind, model: str = EMBEDDER) -> str:
        self.asked += 1
        result = await self.hands.perform(Action(self.asked, kind, "a", model, "why", 60.0, 0.0))
        return result.status + result.detail

    async def loaded(self) -> set[str]:
        async with self.http.get(self.node.address + "/api/ps") as answer:
            return {model["name"] for model in (await answer.json())["models"] or []}

    async def lets_go(self) -> None:
        """Returns once nothing is loaded."""
        async with asyncio.timeout(10):
            while await self.loaded():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.real)])
async def bench(request: pytest.FixtureRequest, ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "emulated":
        node: EmulatedNode | OllamaNode = EmulatedNode(
            "a", hardware=HARDWARE, models=MODELS, folder=tmp_path / "a", ledger=ledger
        )
    else:
        ollama: Path = request.getfixturevalue("ollama")
        models = await ensure_models(ollama, SIZES)
        node = OllamaNode("a", ollama=ollama, models=models, folder=tmp_path / "a", ledger=ledger)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        hands = OllamaApiHands({"a": node.address})
        stack.push_async_callback(hands.close)
        prober = HttpProber({"a": node.address}, ModelNames(SIZES))
        stack.push_async_callback(prober.close)
        stack.push_async_callback(node.stop)
        await node.start()
        yield Bench(node, http, hands, prober)


async def test_it_refuses_text_and_embeds_with_either_model(bench: Bench) -> None:
    assert await bench.post("/api/generate", model=EMBEDDER, prompt="ba") == (400, REFUSAL)
    assert await bench.post("/api/generate", model=EMBEDDER) == (400, REFUSAL), "a load is refused, too"
    messages = [{"role": "user", "content": "ba"}]
    status, answer = await bench.post("/api/chat", model=EMBEDDER, messages=messages)
    assert (status, answer["error"]) == (400, f'"{EMBEDDER}" does not support chat')
    status, answer = await bench.post("/v1/chat/completions", model=EMBEDDER, messages=messages)
    assert (status, answer["error"]["message"]) == (400, f'"{EMBEDDER}" does not support chat')
    assert await bench.post("/api/embed", model=EMBEDDER, input=7) == (400, {"error": "invalid input type"})
    unknown = {"error": 'model "x" not found, try pulling it first'}
    assert await bench.post("/api/embed", model="x", input="ba") == (404, unknown)
    for model, capability in ((EMBEDDER, "embedding"), (CHAT, "completion")):
        status, answer = await bench.post("/api/embed", model=model, input=["ba da", "ga"])
        assert (status, answer["model"], len(answer["embeddings"])) == (200, model, 2)
        assert sum(component**2 for component in answer["embeddings"][0]) == pytest.approx(1, abs=1e-4)
        assert min(answer["total_duration"], answer["prompt_eval_count"]) > 0
        status, again = await bench.post("/api/embed", model=model, input="ba da")
        assert again["embeddings"][0] == pytest.approx(answer["embeddings"][0], abs=1e-4)
        assert (await bench.post("/api/show", model=model))[1]["capabilities"] == [capability]


async def test_an_embed_without_a_text_loads_and_lets_go_again(bench: Bench) -> None:
    for model in SIZES:
        assert await bench.post("/api/embed", model=model, keep_alive=-1) == (200, {"model": model, "embeddings": []})
        assert await bench.loaded() == {model}
        assert (await bench.post("/api/embed", model=model, keep_alive=0, input=""))[0] == 200
        await bench.lets_go()


async def test_a_hand_loads_and_unloads_either_model(bench: Bench) -> None:
    for model in SIZES:
        assert await bench.do("load", model) == "done"
    assert await bench.loaded() == set(SIZES)
    for model in SIZES:
        assert await bench.do("unload", model) == "done"
    await bench.lets_go()
    assert (await bench.do("load", "x")).startswith("faileda answered 404: model 'x' not found")


async def test_every_probe_of_an_embedding_model_passes(bench: Bench) -> None:
    assert await bench.do("load") == "done"
    for kind in ("generation", "generation", "load_path", "load_path"):
        result = await bench.probe(kind)  # type: ignore[arg-type]
        assert (result.ok, result.error) == (True, ""), kind
    await bench.lets_go()  # as the load-path probe wants it
    assert (await bench.probe("generation", CHAT)).ok


async def test_a_hung_embedding_runner_and_a_missing_file_are_found(bench: Bench) -> None:
    assert await bench.do("load") == "done"
    for known in (False, True):
        await bench.node.pause_runner()
        assert (await bench.probe("generation", timeout_s=0.3)).error == "first_token_timeout", f"{known=}"
        await bench.node.resume_runner()
        assert (await bench.probe("generation")).ok
    assert await bench.do("unload") == "done"
    await bench.lets_go()
    await bench.node.set_condition("model_files_missing", 1.0)
    for model in (EMBEDDER, EMBEDDER, CHAT):
        assert (await bench.probe("generation", model)).error == "client_error"
    await bench.node.set_condition("model_files_missing", 0.0)
    assert (await bench.probe("generation")).ok


class Counting(HttpProber):
    """Counts the answers of the generation probes."""

    def __init__(self, address: str) -> None:
        super().__init__({"a": address}, ModelNames(SIZES))
        self.passed = dict.fromkeys(SIZES, 0)

    async def perform(self, probe: Probe) -> ProbeResult:
        result = await super().perform(probe)
        if probe.kind == "generation" and result.ok:
            self.passed[probe.model] += 1
        return result


@asynccontextmanager
async def controlled(bench: Bench) -> AsyncIterator[tuple[ClusterPolicy, Counting, str]]:
    """The default policy over the node, both models loaded, with impatient probes; its gateway's address."""
    addresses = {"a": bench.node.address}
    spec = ClusterSpec(
        (NodeSpec("a"),), (ModelSpec(CHAT, 0.2, 1, 4), ModelSpec(EMBEDDER, 0.2, 1, 1)), {"a": tuple(SIZES)}
    )
    policy = ClusterPolicy(spec, preset("default", IMPATIENT))
    async with AsyncExitStack() as stack:
        prober = Counting(bench.node.address)
        stack.push_async_callback(prober.close)
        hands = HandsByKind({"load": bench.hands, "unload": bench.hands})
        driver = PolicyDriver(policy, prober, hands)
        stack.push_async_callback(driver.stop)
        gateway = Gateway(driver, addresses, ModelNames(SIZES))
        stack.push_async_callback(gateway.stop)
        await driver.start()
        yield policy, prober, await gateway.start()


async def test_the_controller_keeps_such_a_node_and_finds_its_hang(bench: Bench) -> None:
    for model in SIZES:
        assert await bench.do("load", model) == "done"
    async with controlled(bench) as (policy, prober, gateway):
        await until(lambda: min(prober.passed.values()) >= 2, 10)
        assert (policy.view.nodes["a"].health, policy.incidents) == ("serving", [])
        options = {"num_predict": 2}
        status, answer = await bench.post("/api/generate", gateway, model=CHAT, prompt="ba", options=options)
        assert (status, answer["done"]) == (200, True)
        status, answer = await bench.post("/api/embed", gateway, model=EMBEDDER, input="ba")
        assert (status, len(answer["embeddings"])) == (200, 1)
        assert (await bench.post("/api/generate", gateway, model=EMBEDDER, prompt="ba"))[0] == 400
        await hang_the_embedder(bench)
        await until(lambda: policy.incidents, 15)
        assert policy.incidents[0].diagnosis == "runner_hung"
        await bench.node.resume_runner()


async def hang_the_embedder(bench: Bench) -> None:
    """Its runner alone, where runners are processes; a node that is emulated has one switch for all."""
    if isinstance(bench.node, EmulatedNode):
        await bench.node.pause_runner()
        return
    assert await bench.do("unload") == "done"
    chat = await only_runners(bench.node, 1)
    assert await bench.do("load") == "done"
    [embedder] = await only_runners(bench.node, 2) - chat
    os.kill(embedder, signal.SIGSTOP)


async def only_runners(node: OllamaNode, count: int) -> set[int]:
    await until(lambda: len(node.runner_pids()) == count, 10)
    return set(node.runner_pids())
