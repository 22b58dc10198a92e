"""Nobody makes a node load a model anew by mistake: not a probe, not a load, and a reload that is meant has its time."""

import asyncio
from typing import Any

from aiohttp import web

from live.controller.commands import CommandRunner
from live.hands.protocol import HandResult
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import StubNode, completion_events, generate_lines, streams, to, until
from tests.live.test_embedding_models import CHAT, SIZES, Bench, controlled
from tests.live.test_embedding_models import bench as bench  # noqa: PLC0414  # the fixture
from twin.policy.vocabulary import Action, AttemptEnded, Observation, Probe, ProbeResult

ASKED = 1024
"""Less than what a model gets here where nobody says anything."""


async def test_probes_of_an_idle_node_leave_a_model_as_its_clients_have_it(bench: Bench) -> None:
    for model in SIZES:
        assert await bench.do("load", model) == "done"

    async def context() -> int:
        async with bench.http.get(bench.node.address + "/api/ps") as answer:
            loaded = {model["name"]: model["context_length"] for model in (await answer.json())["models"]}
        return int(loaded[CHAT])

    async with controlled(bench) as (policy, prober, gateway):
        await until(lambda: prober.passed[CHAT] >= 1, 10)
        assert await context() != ASKED
        options = {"num_predict": 2, "num_ctx": ASKED}
        assert (await bench.post("/api/generate", gateway, model=CHAT, prompt="ba", options=options))[0] == 200
        assert await context() == ASKED
        before = prober.passed[CHAT]
        await until(lambda: prober.passed[CHAT] >= before + 3, 20)
        assert await context() == ASKED
        assert policy.incidents == []


async def slow_to_start(node: StubNode, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A node whose first token takes a while, as while a model is loaded."""
    if request.method == "GET":
        return web.json_response({"models": [{"name": "m"}] if request.path == "/api/tags" else []})
    await asyncio.sleep(0.3)
    lines = completion_events() if request.path.startswith("/v1/") else generate_lines()
    return await streams(lines)(node, request, body)


async def test_a_request_that_has_a_model_loaded_anew_gets_the_time_of_a_load(house: House) -> None:
    house.a.will(slow_to_start)
    house.b.will(slow_to_start)
    house.routes(to("a", first_token_s=0.1), to("a", first_token_s=0.1), to("b"))
    body = {"model": "m", "prompt": "p", "options": {"seed": 1, "num_ctx": 8192}}
    for _ in range(2):
        assert (await house.post("/api/generate", body))[0] == 200
    ended = [(each.node, each.error) for each in house.policy.of(AttemptEnded)]
    assert ended == [("a", ""), ("a", "first_token_timeout"), ("b", "")], "once loaded, it is asked as any other"


async def test_what_cannot_say_a_length_reloads_what_others_asked_for_and_is_not_taken_for_slow(house: House) -> None:
    house.a.will(slow_to_start)
    house.b.will(slow_to_start)
    house.routes(*[to("a", first_token_s=0.1)] * 2)
    await house.post("/api/generate", {"model": "m", "prompt": "p", "options": {"seed": 1, "num_ctx": 8192}})
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "m", "messages": messages, "reasoning_effort": "low"}
    assert (await house.post("/v1/chat/completions", body))[0] == 200
    reload = house.policy.of(AttemptEnded)[-1]
    assert (reload.error, reload.first_token_s - reload.started_s - reload.load_duration_s) == ("", 0.0)


async def test_a_client_that_leaves_while_its_request_reloads_the_model_does_not_break_the_load_off(
    house: House,
) -> None:
    house.a.will(slow_to_start)
    house.b.will(slow_to_start)
    house.routes(to("a"))
    body = {"model": "m", "prompt": "p", "options": {"seed": 1, "num_ctx": 8192}}
    posting = asyncio.create_task(house.post("/api/generate", body))
    await until(lambda: house.policy.asked and any("prompt" in each for each in house.a.bodies))
    posting.cancel()
    await until(lambda: house.logs)
    assert (house.logs[0].outcome, house.policy.of(AttemptEnded)) == ("cancelled", [])
    await until(lambda: house.policy.of(AttemptEnded))
    ended = house.policy.of(AttemptEnded)[0]
    assert (ended.outcome, ended.first_token_s - ended.started_s >= 0.3) == ("cancelled", True)


class Seen:
    """A run, a prober and a hand, which remember what they were told."""

    def __init__(self) -> None:
        self.observed: list[Observation] = []
        self.contexts: list[int] = []

    def now(self) -> float:
        return 0.0

    def observe(self, observation: Observation) -> None:
        self.observed.append(observation)

    def fail(self, error: Exception) -> None:
        raise error

    async def close(self) -> None: ...


class Probing(Seen):
    async def perform(self, probe: Probe) -> ProbeResult:
        self.contexts.append(probe.context_tokens)
        return ProbeResult(probe.probe_id, probe.node, probe.kind, probe.model, True, 0.0, "")


class Loading(Seen):
    async def perform(self, action: Action) -> HandResult:
        self.contexts.append(action.context_tokens)
        return HandResult("done")


async def test_a_load_is_one_for_the_requests_that_come_and_a_probe_asks_as_they_did() -> None:
    run, prober, hands = Seen(), Probing(), Loading()
    runner = CommandRunner(run, prober, hands, None)
    runner.contexts.asked("m", 8192)
    for number, (node, tokens) in enumerate([("a", 0), ("b", 2048), ("c", 0)]):
        runner.start(Action(number, "load", node, "m", "why", 60.0, 0.0, context_tokens=tokens))
        await until(lambda: len(run.observed) > number)  # noqa: B023
        if node == "b":  # the policy says itself what there is room for
            runner.contexts.asked("m", 0)
    assert hands.contexts == [8192, 2048, 0]
    for number, (node, tokens) in enumerate([("a", 0), ("b", 0), ("c", 0), ("a", 512)]):
        runner.start(Probe(number, node, "generation", "m", 1.0, tokens))
        await until(lambda: len(prober.contexts) > number)  # noqa: B023
    assert prober.contexts == [8192, 2048, 0, 512]
    await runner.stop()
