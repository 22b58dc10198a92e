"""Nobody makes a node load a model anew by mistake: not a probe, not a load, and a reload that is meant has its time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from live.controller.contexts import SeenContexts
from live.controller.driver import PolicyDriver
from live.gateway.context import ContextLengths
from live.gateway.server import Gateway
from live.gateway.settings import GatewaySettings
from live.hands.router import HandsByKind
from live.rig.emulated_node import EmulatedNode
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import NoProbes, StubNode, completion_events, generate_lines, streams, to, until
from tests.live.test_embedding_models import CHAT, SIZES, Bench, controlled
from tests.live.test_embedding_models import bench as bench  # noqa: PLC0414  # the fixture
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.model_names import ModelNames
from twin.policy.parameters import preset
from twin.policy.vocabulary import CANNOT_SAY, AttemptEnded, ClusterSpec, ModelSpec, NodeSpec, ProbeResult

ASKED = 1024
"""Less than what a model gets here where nobody says anything."""

CUT_DOWN = SIZES[CHAT].context_length
"""What a model is listed with that was asked for more than it was trained for."""


async def listed(bench: Bench) -> int:
    """With how much the node says that it has the model loaded."""
    async with bench.http.get(bench.node.address + "/api/ps") as answer:
        loaded = {model["name"]: model["context_length"] for model in (await answer.json())["models"]}
    return int(loaded[CHAT])


async def loaded_anew(bench: Bench, context_tokens: int) -> bool:
    """Ask with that num_ctx; whether the model was loaded for it."""
    node = bench.node
    runners = set() if isinstance(node, EmulatedNode) else set(node.runner_pids())
    options = {"num_predict": 2} | ({"num_ctx": context_tokens} if context_tokens else {})
    status, answer = await bench.post("/api/generate", model=CHAT, prompt="ba", options=options)
    assert status == 200
    if isinstance(node, EmulatedNode):
        return bool(answer["load_duration"] > EMULATED_LOAD_NS)
    return set(node.runner_pids()) != runners


EMULATED_LOAD_NS = 50_000_000
"""A load takes longer, what is loaded is found at once."""


async def test_probes_of_an_idle_node_leave_a_model_as_its_clients_have_it(bench: Bench) -> None:
    for model in SIZES:
        assert await bench.do("load", model) == "done"
    async with controlled(bench) as (policy, prober, gateway):
        await until(lambda: prober.passed[CHAT] >= 1, 10)
        assert await listed(bench) != ASKED
        options = {"num_predict": 2, "num_ctx": ASKED}
        assert (await bench.post("/api/generate", gateway, model=CHAT, prompt="ba", options=options))[0] == 200
        assert await listed(bench) == ASKED
        before = prober.passed[CHAT]
        await until(lambda: prober.passed[CHAT] >= before + 3, 20)
        assert await listed(bench) == ASKED
        assert policy.incidents == []


async def test_nor_does_a_controller_that_has_just_started_take_it_away_from_them(bench: Bench) -> None:
    for model in SIZES:
        assert await bench.do("load", model) == "done"
    assert await loaded_anew(bench, ASKED)
    async with controlled(bench) as (policy, prober, _):
        await until(lambda: prober.passed[CHAT] >= 3, 20)
        assert await listed(bench) == ASKED
        assert policy.incidents == []
    assert not await loaded_anew(bench, ASKED), "it is as its clients had left it"


async def test_what_a_node_lists_is_what_may_be_asked_for_unless_it_was_cut_down(bench: Bench) -> None:
    await loaded_anew(bench, 0)
    own = await listed(bench)
    assert not await loaded_anew(bench, own), "to say it is as good as to say nothing"
    assert await loaded_anew(bench, ASKED)
    assert (await bench.probe("residency")).contexts == (ASKED,)
    assert await loaded_anew(bench, 2 * CUT_DOWN)
    assert await listed(bench) == CUT_DOWN
    assert (await bench.probe("residency")).contexts == (0,), "nobody can tell what was asked for"
    assert await loaded_anew(bench, CUT_DOWN), "the node compares what is asked for, not what is listed"


async def slow_to_start(node: StubNode, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A node whose first token takes a while, as while a model is loaded."""
    if request.method == "GET":
        return web.json_response({"models": [{"name": "m"}] if request.path == "/api/tags" else []})
    await asyncio.sleep(0.3)
    lines = completion_events() if request.path.startswith("/v1/") else generate_lines()
    return await streams(lines)(node, request, body)


@contextlib.asynccontextmanager
async def deciding(house: House, context_tokens: int = 0) -> AsyncIterator[tuple[list[AttemptEnded], str]]:
    """A gateway before the house's nodes with a policy that decides for itself, and gives hot models little time."""
    nodes = tuple(NodeSpec(name) for name in house.nodes)
    placement = {node.name: ("m",) for node in nodes}
    spec = ClusterSpec(nodes, (ModelSpec("m", 1.0, len(nodes), 4, context_tokens),), placement)
    values = {"router.first_token_deadline_s": 0.1, "router.patience": 0.0, "probes.enabled": False}
    ended: list[AttemptEnded] = []

    class Telling(ClusterPolicy):
        def observe(self, now: float, observation: Any) -> None:
            if isinstance(observation, AttemptEnded):
                ended.append(observation)
            super().observe(now, observation)

    driver = PolicyDriver(Telling(spec, preset("default", values)), NoProbes(), HandsByKind({}))
    addresses = {name: node.address for name, node in house.nodes.items()}
    gateway = Gateway(driver, addresses, ModelNames(["m"]), GatewaySettings(shutdown_grace_s=0.05))
    await driver.start()
    try:
        yield ended, await gateway.start()
    finally:
        await gateway.stop()
        await driver.stop()


async def test_a_request_that_has_a_model_loaded_anew_gets_the_time_of_a_load(make_house: Any) -> None:
    house: House = await make_house(("a",))
    house.a.will(slow_to_start)
    async with deciding(house) as (ended, url):
        body = {"model": "m", "prompt": "p", "options": {"seed": 1, "num_ctx": 8192}}
        for _ in range(2):
            async with house.http.post(url + "/api/generate", json=body) as answer:
                await answer.read()
    errors = [each.error for each in ended]
    assert errors[:2] == ["", "first_token_timeout"], "once loaded, it is asked as any other"


async def test_what_cannot_say_a_length_reloads_what_others_asked_for_and_is_not_taken_for_slow(
    make_house: Any,
) -> None:
    house: House = await make_house(("a",))
    house.a.will(slow_to_start)
    async with deciding(house, context_tokens=4096) as (ended, url):
        body: dict[str, Any] = {"model": "m", "prompt": "p", "options": {"seed": 1, "num_ctx": 8192}}
        async with house.http.post(url + "/api/generate", json=body) as answer:
            assert (await answer.read()).endswith(b"}\n")
        messages = [{"role": "user", "content": "x"}]
        body = {"model": "m", "messages": messages, "reasoning_effort": "low"}
        async with house.http.post(url + "/v1/chat/completions", json=body) as answer:
            assert (answer.status, await answer.read()) != (200, b"")
    reload = ended[-1]
    assert (reload.error, reload.first_token_s - reload.started_s - reload.load_duration_s) == ("", 0.0)


async def test_a_client_that_leaves_while_its_request_reloads_the_model_does_not_break_the_load_off(
    make_house: Any,
) -> None:
    house: House = await make_house(("a",))
    house.a.will(slow_to_start)
    async with deciding(house) as (ended, url):
        body = {"model": "m", "prompt": "p", "options": {"seed": 1, "num_ctx": 8192}}
        posting = asyncio.create_task(house.http.post(url + "/api/generate", json=body).__aenter__())
        await until(lambda: any("prompt" in each for each in house.a.bodies))
        posting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await posting
        await until(lambda: ended)
    assert (ended[0].outcome, ended[0].first_token_s - ended[0].started_s >= 0.3) == ("cancelled", True)


@pytest.mark.parametrize(
    ("path", "body", "asked", "sent"),
    [
        ("/api/generate", {"prompt": "p"}, 0, 0),
        ("/api/generate", {"prompt": "p", "options": {"num_ctx": 8192}}, 8192, 8192),
        ("/api/generate", {"options": {"num_ctx": 8192}}, 8192, 8192),
        ("/api/embed", {"input": "x", "options": {"num_ctx": 8192}}, 8192, 8192),
        ("/api/embed", {"input": "x"}, 0, CANNOT_SAY),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, 0, 0),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, 0, CANNOT_SAY),
        ("/v1/embeddings", {"input": "x"}, 0, CANNOT_SAY),
    ],
)
async def test_the_policy_is_told_what_the_node_will_be_told(
    house: House, path: str, body: dict[str, Any], asked: int, sent: int
) -> None:
    house.a.will(streams(generate_lines()))
    house.routes(to("a"))
    await house.post(path, {"model": "m", **body})
    spec = house.policy.asked[0][0]
    assert (spec.context_tokens, spec.sent_context_tokens) == (asked, sent)


async def test_after_a_restart_of_the_gateway_a_client_gets_what_it_has_loaded_and_not_less(bench: Bench) -> None:
    await loaded_anew(bench, 2 * ASKED)
    async with controlled(bench) as (_, prober, gateway):
        await until(lambda: prober.passed[CHAT] >= 1, 20)
        async with bench.http.get(gateway + "/api/ps") as answer:
            assert answer.status == 200
        options = {"num_predict": 2, "num_ctx": ASKED}
        assert (await bench.post("/api/generate", gateway, model=CHAT, prompt="ba", options=options))[0] == 200
        assert await listed(bench) == 2 * ASKED


def test_what_all_nodes_list_is_said_again_and_what_may_be_cut_down_or_differs_is_not() -> None:
    seen = SeenContexts()
    result = ProbeResult(1, "a", "residency", "", True, 0.0, "", ("m", "n"), (8192, 0))
    seen.saw(result)
    assert (seen.everywhere("m"), seen.everywhere("n"), seen.everywhere("x")) == (8192, 0, 0)
    result.node, result.models, result.contexts = "b", ("m",), (4096,)
    seen.saw(result)
    assert seen.everywhere("m") == 0
    result.models = result.contexts = ()
    seen.saw(result)
    assert seen.everywhere("m") == 8192
    lengths = ContextLengths(131_072)
    assert lengths.for_request("m", 2048, 8192, 0.0) == 0
    assert lengths.for_request("m", 0, 8192, 0.0, 8192) == 0, "who asks for none means the model's own"
    assert lengths.for_request("m", 2048, 8192, 0.0, 8192) == 8192
