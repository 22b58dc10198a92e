"""Every hand does what it is told, or says in one line why not."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from live.hands.command import CommandHands
from live.hands.ollama_api import OllamaApiHands
from live.hands.protocol import HandError, HandResult
from live.hands.router import HandsByKind
from tests.live.gateway.doubles import StubNode, answers, streams, until
from twin.policy.vocabulary import Action, ActionKind


def action(kind: ActionKind = "restart", node: str = "a") -> Action:
    return Action(1, kind, node, "m", "why", 60.0, 1.0)


def command(*words: str) -> CommandHands:
    return CommandHands({"restart": words}, {"a": "http://127.0.0.1:1"})


@pytest.fixture
async def node() -> AsyncIterator[StubNode]:
    node = StubNode()
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def api(node: StubNode) -> AsyncIterator[OllamaApiHands]:
    api = OllamaApiHands({"a": node.address})
    yield api
    await api.close()


async def test_load_waits_for_the_load_and_keeps_the_model(node: StubNode, api: OllamaApiHands) -> None:
    node.will(answers(200, b'{"model":"m","done":true,"done_reason":"load"}'))
    assert await api.perform(action("load")) == HandResult("done")
    assert node.bodies == [{"model": "m", "keep_alive": -1, "stream": False}]


async def test_unload_asks_for_it(node: StubNode, api: OllamaApiHands) -> None:
    node.will(answers(200, b'{"model":"m","done":true,"done_reason":"unload"}'))
    assert await api.perform(action("unload")) == HandResult("done")
    assert node.bodies[0]["keep_alive"] == 0


async def test_a_node_that_refuses_is_quoted(node: StubNode, api: OllamaApiHands) -> None:
    node.will(answers(500, b'{"error":"out of memory"}'), answers(200, b"garbage"))
    assert await api.perform(action("load")) == HandResult("failed", "a answered 500: out of memory")
    assert (await api.perform(action("load"))).status == "failed"


async def test_a_model_that_makes_no_text_is_loaded_by_an_embed_without_any(
    node: StubNode, api: OllamaApiHands
) -> None:
    refusal = answers(400, b'{"error":"\\"m\\" does not support generate"}')
    node.will(refusal, answers(200, b'{"model":"m","embeddings":[]}'))
    assert await api.perform(action("load")) == HandResult("done")
    assert node.bodies == [{"model": "m", "keep_alive": -1, "stream": False}] * 2
    node.will(refusal, answers(404, b'{"error":"no such file"}'))
    node.behaviours.popleft()
    assert await api.perform(action("load")) == HandResult("failed", "a answered 404: no such file")


async def test_an_answer_that_is_lost_leaves_it_unknown(node: StubNode, api: OllamaApiHands) -> None:
    node.will(streams([], then="break"))
    assert (await api.perform(action("load"))).status == "unknown"
    await node.stop()
    assert (await api.perform(action("load"))).status == "failed"
    with pytest.raises(HandError, match="cannot restart a"):
        await api.perform(action("restart"))


async def test_a_command_gets_its_values_as_words_without_a_shell(tmp_path: Path) -> None:
    target = tmp_path / "said"
    hands = command("/bin/sh", "-c", 'printf "%s" "$1" > "$2"', "sh", "{node};{address} {model}", str(target))
    assert await hands.perform(action(node="a")) == HandResult("done")
    assert target.read_text() == "a;http://127.0.0.1:1 m"


async def test_a_command_that_fails_is_quoted() -> None:
    hands = command("/bin/sh", "-c", "echo first; echo no such host >&2; exit 3")
    assert await hands.perform(action()) == HandResult("failed", "/bin/sh ended with status 3: no such host")
    with pytest.raises(HandError, match=r"/nonexistent cannot be started: No such file"):
        await command("/nonexistent").perform(action())


async def test_a_command_that_is_late_is_ended_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hands = command("/bin/sh", "-c", f"sleep 30 & echo $! > {pids}.new; mv {pids}.new {pids}; wait")
    performing = asyncio.create_task(hands.perform(action()))
    await until(pids.exists)
    performing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await performing
    await until(lambda: _has_ended(int(pids.read_text())))


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_service_that_a_command_leaves_behind_does_not_hold_it_up(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    hands = command("/bin/sh", "-c", f"sleep 30 & echo $! > {pid_file}")
    async with asyncio.timeout(2):
        assert await hands.perform(action()) == HandResult("done")
    os.kill(int(pid_file.read_text()), 9)


async def test_each_kind_has_its_hand_or_says_that_it_has_none() -> None:
    hands = HandsByKind({"restart": command("/bin/true")})
    assert (await hands.perform(action("restart"))).status == "done"
    assert hands.kinds("node-1") == {"restart"}
    assert HandsByKind({}, {"node-1": {"load": command("/bin/true")}}).kinds("node-1") == {"load"}
    assert await hands.perform(action("load", "node-1")) == HandResult(
        "no_hand", "no hand is configured for load of node-1"
    )
