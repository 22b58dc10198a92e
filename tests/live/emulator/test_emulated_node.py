"""What only an emulated node can do, and what it does differently from a real one."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.emulator.command import emulate
from live.emulator.config import EmulatedModel, load_config
from live.rig.emulated_node import EmulatedNode
from live.rig.errors import RigError
from live.rig.ledger import Ledger
from live.rig.node import RigNode
from live.rig.processes import free_port
from twin.errors import OperatorError
from twin.scenario.conditions import CONDITIONS
from twin.scenario.hardware import Hardware

HARDWARE = Hardware(decode_ms=[2], prefill_tokens_per_s=2000, vram_gib=2, load_gib_per_s=10, runner_start_s=0.1)
MODELS = {name: EmulatedModel(size_gib=1, memory_gib=1.5) for name in ("one", "two")}


@pytest.fixture
async def node(ledger: Ledger, tmp_path: Path) -> AsyncIterator[EmulatedNode]:
    node = EmulatedNode(
        "node-1", hardware=HARDWARE, models=MODELS, folder=tmp_path, ledger=ledger, max_queue=1, preloaded=["one"]
    )
    await node.start()
    yield node
    await node.stop()


async def ask(node: RigNode, path: str, limit_s: float = 10.0, **body: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession(node.address, timeout=aiohttp.ClientTimeout(total=limit_s)) as client,
        client.request("POST" if body else "GET", path, json=body or None) as answer,
    ):
        return answer.status, json.loads(await answer.text())


async def generate(node: RigNode, tokens: int = 5, model: str = "one", limit_s: float = 10.0) -> tuple[int, Any]:
    body = {"model": model, "prompt": "ba", "stream": False, "options": {"num_predict": tokens}}
    return await ask(node, "/api/generate", limit_s, **body)


async def test_it_runs_at_the_pace_of_its_hardware_and_of_its_throttle(node: EmulatedNode) -> None:
    async def eval_s(tokens: int) -> float:
        _, record = await generate(node, tokens)
        return float(record["eval_duration"]) / 1e9

    assert 0.19 < await eval_s(100) < 0.3
    await node.throttle(0.25)
    throttled_s = await eval_s(50)
    assert 0.38 < throttled_s < 0.6
    await node.restart()
    assert await eval_s(20) > 0.14, "the heat outlives the process"
    await node.unthrottle()
    assert await eval_s(50) < throttled_s / 2
    with pytest.raises(RigError, match="would stop the node"):
        await node.throttle(0)


async def test_a_stuck_loader_hangs_cold_models_only_until_a_restart_and_a_full_queue_refuses(
    node: EmulatedNode,
) -> None:
    await node.stick_loader()
    with pytest.raises(TimeoutError):
        await generate(node, model="two", limit_s=0.5)
    cold = asyncio.create_task(generate(node, model="two"))
    await asyncio.sleep(0.1)
    refusal = {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert await generate(node, model="two") == (503, refusal)
    assert (await generate(node))[0] == 200, "the loaded model goes on"
    _, status = await ask(node, "/emulator/status")
    assert (status["pending"], status["loader_stuck"], status["generations"]) == (1, True, 1)
    await node.restart()
    await asyncio.wait([cold])
    assert isinstance(cold.exception(), aiohttp.ClientError)
    assert (await generate(node, model="two"))[0] == 200
    assert (await ask(node, "/api/ps"))[1]["models"][0]["name"] == "two", "there is room for one only"


async def test_a_frozen_node_answers_nothing_and_goes_on_where_it_was(node: EmulatedNode) -> None:
    running = asyncio.create_task(generate(node, 150))  # 0.3 s of work
    await asyncio.sleep(0.1)
    await node.freeze()
    assert node.server_alive()
    with pytest.raises(TimeoutError):
        await ask(node, "/api/version", limit_s=0.5)
    thawed_s = time.monotonic()
    await node.thaw()
    assert (await running)[0] == 200
    assert time.monotonic() - thawed_s > 0.1, "what it had not done yet was still to do"
    await node.freeze()
    stopped_s = time.monotonic()
    await node.restart()
    assert time.monotonic() - stopped_s < 3
    await node.freeze()  # and the stop at the end of the test must get through it


async def test_a_condition_holds_over_a_restart_until_it_is_withdrawn(node: EmulatedNode) -> None:
    await node.set_condition("load_failure_share", 1.0)
    assert (await generate(node))[0] == 200, "what is loaded goes on"
    assert (await generate(node, model="two"))[0] == 500
    await node.kill_server()
    await node.set_condition("load_failure_share", 0.5)  # of a node that is down: from its start
    await node.start()
    assert (await ask(node, "/emulator/status"))[1]["conditions"] == {"load_failure_share": 0.5}
    await node.set_condition("load_failure_share", 0.0)
    assert (await ask(node, "/emulator/status"))[1]["conditions"] == {}
    assert (await generate(node, model="two"))[0] == 200


async def test_wrong_answers_look_like_right_ones(node: EmulatedNode) -> None:
    prompt = {"model": "one", "prompt": "ba " * 100, "stream": False, "options": {"num_predict": 5}}
    _, right = await ask(node, "/api/generate", **prompt)
    await node.set_condition("context_limit_tokens", 64.0)
    _, cut = await ask(node, "/api/generate", **prompt)
    await node.garble_runner(1.0)
    status, wrong = await ask(node, "/api/generate", **prompt)
    assert (right["prompt_eval_count"], cut["prompt_eval_count"]) == (100, 64)
    assert (status, wrong["done"], wrong["response"]) == (200, True, "GGGGG")
    await node.kill_runner()
    assert "G" not in (await generate(node))[1]["response"], "loaded anew"
    with pytest.raises(RigError, match="a share of the answers"):
        await node.garble_runner(2.0)


async def test_a_version_that_counts_cached_tokens_says_so_and_counts_them(node: EmulatedNode) -> None:
    _, before = await generate(node)
    await node.set_condition("prompt_count_factor", 3.0)
    _, after = await generate(node)
    assert (before["prompt_eval_count"], after["prompt_eval_count"]) == (1, 3)
    assert (await ask(node, "/api/version"))[1] == {"version": "0.30.2"}


async def test_damaged_files_fail_fast_while_the_tags_are_green(node: EmulatedNode) -> None:
    await node.set_condition("model_files_missing", 1.0)
    began_s = time.monotonic()
    status, answer = await generate(node, model="two")
    assert (status, answer["error"]) == (400, '"two" does not support generate')
    assert time.monotonic() - began_s < 0.3, "a load would take longer"
    assert (await generate(node))[0] == 200, "what is loaded goes on"
    assert len((await ask(node, "/api/tags"))[1]["models"]) == 2


async def test_a_pull_says_why_it_failed(node: EmulatedNode) -> None:
    await node.set_condition("registry_untrusted", 1.0)
    status, answer = await ask(node, "/api/pull", model="one", stream=False)
    assert status == 500
    assert "x509: certificate has expired or is not yet valid" in answer["error"]
    async with aiohttp.ClientSession(node.address) as client, client.post("/api/pull", json={"model": "one"}) as stream:
        lines = [json.loads(line) async for line in stream.content]
    assert stream.status == 200
    assert [next(iter(line)) for line in lines] == ["status", "status", "error"]
    assert (await ask(node, "/api/pull", model="none", stream=False))[0] == 404


async def test_an_unknown_condition_or_a_value_that_is_no_number_is_refused_in_one_line(node: EmulatedNode) -> None:
    with pytest.raises(RigError, match=r"condition 'gravity' is unknown; a node has: .*load_failure_share"):
        await node._operate("set_condition", 1.0, "gravity")
    status, answer = await ask(
        node, "/emulator/operation", operation="set_condition", condition="load_failure_share", argument="much"
    )
    assert (status, answer["error"]) == (
        400,
        f"condition load_failure_share takes a number ({CONDITIONS['load_failure_share'].what}); got 'much'",
    )


async def test_what_is_not_emulated_is_said(node: EmulatedNode) -> None:
    same: RigNode = node
    assert same.runner_pids() == ()
    assert "memory limits" in same.refused_hardware
    with pytest.raises(RigError, match="node-1 cannot be limited to 5 bytes: not emulated"):
        await same.limit_memory(5)
    await same.unlimit_memory()
    for operation in ("kill_server", "nonsense"):
        status, answer = await ask(node, "/emulator/operation", operation=operation)
        assert status == 400
        assert "possible here: kill_runner" in answer["error"]


async def test_an_operation_on_a_dead_node_is_an_error(node: EmulatedNode) -> None:
    await node.kill_server()
    with pytest.raises(RigError, match="node-1 is not running, so kill_runner is impossible"):
        await node.kill_runner()


def test_what_the_operator_can_mend_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="unknown profile; `ollamamax catalogue hardware` lists them"):
        emulate("127.0.0.1:1", "abacus", [])
    with pytest.raises(OperatorError, match="model x: its size is not known"):
        emulate("127.0.0.1:1", "rtx-4090", ["x"])
    with pytest.raises(OperatorError, match=r"llama3\.1:70b needs"):
        emulate("127.0.0.1:1", "rtx-4090", ["llama3.1:70b"])
    with pytest.raises(OperatorError, match="listen"):
        emulate("nowhere", "rtx-4090", [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port} is in use; choose another"):
            emulate(f"127.0.0.1:{port}", "rtx-4090", [])
    with pytest.raises(OperatorError, match=r"none\.json: No such file"):
        load_config(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"hardware": 1, "models": {}}')
    with pytest.raises(OperatorError, match=r"bad\.json: hardware"):
        load_config(tmp_path / "bad.json")


def test_ctrl_c_ends_the_command_cleanly() -> None:
    port = free_port()
    code = f"from live.emulator.command import emulate; emulate('127.0.0.1:{port}', 'm2-ultra', [])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert f"http://127.0.0.1:{port} with llama3.1:8b" in command.stdout.readline()
        command.send_signal(2)
        assert command.wait(5) == 0
