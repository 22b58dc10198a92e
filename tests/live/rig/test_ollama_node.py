"""A real Ollama as a node: its life, its faults, and what its clients see of them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from live.rig.errors import RigError
from live.rig.ledger import Ledger, end_leftovers, marked_processes
from live.rig.machine import cgroup_support, usable_cores
from live.rig.node import RigNode
from live.rig.ollama_node import OllamaNode
from live.rig.processes import ProcessFailed
from tests.live.conftest import MODEL, MakeNode

pytestmark = pytest.mark.real


async def generate(node: OllamaNode, tokens: int = 5, limit_s: float = 20.0, **options: Any) -> list[dict[str, Any]]:
    """The lines of one streamed generation; raises TimeoutError, or a ClientError when the connection breaks."""
    body = {"model": MODEL, "prompt": "ba da", "options": {"num_predict": tokens, **options}}
    async with (
        aiohttp.ClientSession(node.address, timeout=aiohttp.ClientTimeout(total=limit_s)) as client,
        client.post("/api/generate", json=body) as answer,
    ):
        return [json.loads(line) async for line in answer.content]


async def version_answers(node: OllamaNode, limit_s: float = 0.5) -> bool:
    try:
        async with (
            aiohttp.ClientSession(node.address, timeout=aiohttp.ClientTimeout(total=limit_s)) as client,
            client.get("/api/version") as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def served(node: OllamaNode, wanted: int) -> bool:
    """Whether the node counts so many generations; its log line comes a moment after the answer."""
    for _ in range(50):
        if node.served_generations() == wanted:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_node_starts_serves_counts_and_stops(make_node: MakeNode) -> None:
    node: RigNode = await make_node()
    assert isinstance(node, OllamaNode)
    assert node.server_alive()
    assert node.runner_pids() == []
    assert (await generate(node))[-1]["done_reason"] == "length"
    await generate(node)
    assert len(node.runner_pids()) == 1
    assert await served(node, 2)
    await node.stop()
    assert not node.server_alive()
    assert node.runner_pids() == []
    await node.stop()


async def test_a_killed_server_takes_its_runners_along_and_restarts_on_its_address(
    make_node: MakeNode, ledger: Ledger
) -> None:
    node = await make_node()
    await generate(node)
    address = node.address
    await node.kill_server()
    assert not node.server_alive()
    assert marked_processes(ledger.token) == []
    with pytest.raises(aiohttp.ClientConnectorError):
        await generate(node)
    await node.restart()
    assert node.address == address
    assert (await generate(node))[-1]["done"]
    assert await served(node, 2)


async def test_a_killed_runner_breaks_the_stream_and_the_next_request_is_served(make_node: MakeNode) -> None:
    node = await make_node()
    await generate(node)
    stream = asyncio.create_task(generate(node, tokens=3000))
    await asyncio.sleep(0.2)
    await node.kill_runner()
    assert "error" in (await stream)[-1]
    assert node.server_alive()
    assert (await generate(node))[-1]["done"]


async def test_a_paused_runner_hangs_generations_and_nothing_else_until_resumed(make_node: MakeNode) -> None:
    node = await make_node()
    await generate(node)
    await node.pause_runner()
    stream = asyncio.create_task(generate(node))
    await asyncio.sleep(0.3)
    assert not stream.done()
    assert await version_answers(node)
    await node.resume_runner()
    assert (await stream)[-1]["done"]


async def test_a_node_with_a_paused_runner_restarts_within_seconds(make_node: MakeNode, ledger: Ledger) -> None:
    node = await make_node()
    await generate(node)
    (hung,) = node.runner_pids()
    await node.pause_runner()
    stream = asyncio.create_task(generate(node))
    await asyncio.sleep(0.1)
    started_s = time.monotonic()
    await node.restart()
    assert time.monotonic() - started_s < 5
    assert not psutil.pid_exists(hung)
    assert (await generate(node))[-1]["done"]
    await asyncio.wait([stream])
    assert stream.exception() is not None or "error" in stream.result()[-1]


async def test_a_fault_of_the_runner_without_a_runner_is_an_error_that_says_why(make_node: MakeNode) -> None:
    node = await make_node()
    for fault in (node.kill_runner, node.pause_runner):
        with pytest.raises(RigError, match=r"node-1 has no runner to SIG(KILL|STOP): no model is loaded"):
            await fault()
    await node.resume_runner()


async def test_two_nodes_share_a_folder_of_models_and_are_told_apart(make_node: MakeNode) -> None:
    one, two = await make_node("node-1"), await make_node("node-2")
    assert [line["response"] for line in await generate(one, seed=3)] == [
        line["response"] for line in await generate(two, seed=3)
    ]
    await one.kill_server()
    assert two.server_alive()
    assert len(two.runner_pids()) == 1
    assert (await generate(two))[-1]["done"]


@pytest.mark.skipif(not usable_cores(), reason="this system cannot pin")
async def test_a_pinned_node_pins_its_runners_too(make_node: MakeNode) -> None:
    core = usable_cores()[-1]
    node = await make_node(cores=[core])
    await generate(node)
    (runner,) = node.runner_pids()
    for thread in psutil.Process(runner).threads():
        assert os.sched_getaffinity(thread.id) == {core}


@pytest.mark.skipif(bool(cgroup_support().refused), reason=cgroup_support().refused)
async def test_a_throttled_node_is_slower_until_unthrottled(make_node: MakeNode) -> None:
    node = await make_node()
    await generate(node)

    async def step_ms() -> float:
        last = (await generate(node, tokens=200))[-1]
        return float(last["eval_duration"]) / float(last["eval_count"]) / 1e6

    whole = await step_ms()
    await node.throttle(0.2)
    throttled = await step_ms()
    assert throttled > 2 * whole
    await node.unthrottle()
    assert await step_ms() < throttled / 2


@pytest.mark.skipif(bool(cgroup_support().refused), reason=cgroup_support().refused)
async def test_a_frozen_node_answers_nothing_and_can_be_thawed_or_restarted(make_node: MakeNode) -> None:
    node = await make_node()
    await node.freeze()
    assert node.server_alive()
    assert not await version_answers(node, 0.3)
    await node.thaw()
    assert await version_answers(node)
    await node.freeze()
    await node.restart()
    assert (await generate(node))[-1]["done"]
    await node.freeze()  # and the stop at the end of the test must get through it


@pytest.mark.skipif(bool(cgroup_support().refused), reason=cgroup_support().refused)
async def test_a_killed_frozen_server_is_gone(make_node: MakeNode, ledger: Ledger) -> None:
    node = await make_node()
    await generate(node)
    await node.freeze()
    await node.kill_server()
    assert marked_processes(ledger.token) == []


@pytest.mark.skipif(bool(cgroup_support().refused), reason=cgroup_support().refused)
async def test_a_node_with_too_little_memory_dies_in_loading_until_it_has_enough(make_node: MakeNode) -> None:
    node = await make_node()
    await generate(node)
    await node.kill_runner()
    await node.limit_memory(15_000_000)
    try:
        assert "error" in (await generate(node))[-1]
    except aiohttp.ClientError:
        await asyncio.sleep(0.2)
        assert not node.server_alive(), "either the runner was killed, or the server as well"
    await node.unlimit_memory()
    if not node.server_alive():
        await node.restart()
    assert (await generate(node))[-1]["done"]


async def test_a_port_taken_meanwhile_is_an_error_that_names_it(make_node: MakeNode) -> None:
    node = await make_node()
    await node.stop()
    port = int(node.address.rpartition(":")[2])
    thief = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    with pytest.raises(ProcessFailed, match=f"port {port} on 127.0.0.1 is in use"):
        await node.start()
    thief.close()


# A rig with one node that has a model loaded and a paused runner, and then waits to be killed.
RIG = """
import asyncio, sys, time, urllib.request
from pathlib import Path
from live.rig.ollama_node import OllamaNode
from live.rig.ledger import Ledger
folder, ollama, models, model = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
ledger = Ledger(folder)
node = OllamaNode("node-1", ollama=ollama, models=models, folder=folder / "node", ledger=ledger)
asyncio.run(node.start())
body = b'{"model": "%s", "prompt": "ba", "stream": false, "options": {"num_predict": 1}}' % model.encode()
urllib.request.urlopen(urllib.request.Request(node.address + "/api/generate", body), timeout=20).read()
asyncio.run(node.pause_runner())
print(ledger.token, flush=True)
time.sleep(60)
"""


def test_the_node_of_a_killed_rig_is_ended_by_the_next_rig(ollama: Path, models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RIG, str(tmp_path), str(ollama), str(models), MODEL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rig:
        assert rig.stdout is not None
        token = rig.stdout.readline().strip()
        rig.kill()
    assert len(marked_processes(token)) == 2, "the server and its paused runner, orphaned"
    assert len(end_leftovers(tmp_path)) == 2 + len(cgroup_support().parents)
    assert marked_processes(token) == []
