"""The admin API and `ollamamax nodes`, in front of emulated nodes that are asked all the while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.controller.nodes_command import rows
from live.gateway.config import ServeConfig
from live.hands.process import ManagedProcess, plain_environment
from live.rig.processes import free_port
from live.serve import run
from twin.errors import OperatorError
from twin.scenario.profiles import PROFILES

ROOT = Path(__file__).parents[3]
MODEL = "llama3.1:8b"


@dataclass
class House:
    """A running `serve` with its nodes."""

    gateway: str
    admin: str
    nodes: dict[str, str]
    http: aiohttp.ClientSession
    served_by: list[tuple[float, str]] = field(default_factory=list)  # when a request was sent, and who answered it
    failed: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.request(method, self.admin + path, **options) as response:
            return response.status, await response.json()

    async def node(self, name: str) -> dict[str, Any]:
        _, answer = await self.call("GET", "/-/nodes")
        found: dict[str, Any] = next(each for each in answer["nodes"] if each["name"] == name)
        return found

    async def until(self, name: str, **wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                node = await self.node(name)
                if all(node[key] == value for key, value in wanted.items()):
                    return node
                await asyncio.sleep(0.02)

    async def is_up(self, serving: asyncio.Task[int]) -> None:
        """Returns once the admin API answers."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await self.call("GET", "/-/healthz")
                    return
                assert not serving.done(), serving.exception()
                await asyncio.sleep(0.02)

    async def generate(self, tokens: int) -> None:
        sent_s = asyncio.get_running_loop().time()
        body = {"model": MODEL, "prompt": "why?", "stream": True, "options": {"num_predict": tokens, "seed": 1}}
        async with self.http.post(f"{self.gateway}/api/generate", json=body) as response:
            lines = [json.loads(line) async for line in response.content if line.strip()]
        if response.status != 200 or not lines[-1].get("done"):
            self.failed.append(f"{response.status}: {lines[-1:]}")
        self.served_by.append((sent_s, response.headers.get("X-OllamaMax-Node", "")))

    @contextlib.asynccontextmanager
    async def load(self, clients: int = 6, tokens: int = 12) -> AsyncIterator[None]:
        """Clients that ask again and again; leaving it waits for their last answer."""
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                await self.generate(tokens)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
            try:
                yield
            finally:
                stop.set()


def emulator(name: str, port: int, folder: Path) -> ManagedProcess:
    config = folder / f"{name}.json"
    config.write_text(
        json.dumps(
            {
                "listen": f"127.0.0.1:{port}",
                "hardware": PROFILES["rtx-4090"].model_dump(),
                "models": {MODEL: {"size_gib": 5.0, "memory_gib": 6.0, "context_tokens": 4096}},
                "slots": 4,
                "preloaded": [MODEL],
            }
        )
    )
    return ManagedProcess(
        name,
        [sys.executable, "-m", "live.emulator", config],
        log=folder / f"{name}.log",
        environment={**plain_environment(), "PYTHONPATH": str(ROOT)},
        mark=("OLLAMAMAX_TEST", f"{folder}:{name}"),
    )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    names = ("a", "b", "c")
    ports = {name: free_port() for name in names}
    processes = {name: emulator(name, ports[name], tmp_path) for name in names}
    nodes = {name: f"http://127.0.0.1:{ports[name]}" for name in names}
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    restart = ["sh", "-c", f"echo $0 >> {tmp_path}/restarts", "{node}"]
    config = ServeConfig.model_validate(
        {
            "nodes": nodes,
            "slots_per_model": 4,
            "listen": listen,
            "admin": admin,
            "hosts": ["ops.example"],
            "discovery_period_s": 0.2,
            "hands": {"restart": restart},
            "policy": {"overrides": {"router.slow_start_s": 1.0, "probes.period_s": 0.2, "healer.drain_timeout_s": 20}},
        }
    )
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        for name, process in processes.items():
            stack.push_async_callback(process.kill)
            await process.start(f"{nodes[name]}/api/version", 40)
        serving = asyncio.create_task(run(config, stop))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        house = House(f"http://{listen}", f"http://{admin}", nodes, http)
        await house.is_up(serving)
        yield house
        stop.set()
        assert await serving == 0


async def nodes_command(house: House, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ollamamax", "nodes", *words, "--admin", house.admin]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=-1, stderr=-1)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return subprocess.CompletedProcess(command, process.returncode, out.decode(), err.decode())


async def test_a_drain_under_load_loses_nothing_and_a_return_brings_the_traffic_back(house: House) -> None:
    now = asyncio.get_running_loop().time
    async with house.load():
        await asyncio.sleep(1.0)
        status, answer = await house.call("POST", "/-/nodes/b/drain")
        drained_s = now()
        assert (status, answer["node"]["operator"], answer["warnings"]) == (202, "drained", [])
        await house.until("b", in_flight=0)
        await asyncio.sleep(1.0)
        await house.call("POST", "/-/nodes/b/return")
        returned_s = now()
        await house.until("b", operator="", health="serving")
        await asyncio.sleep(2.5)
    assert house.failed == []
    at_b = [sent_s for sent_s, node in house.served_by if node == "b"]
    assert [sent_s for sent_s in at_b if sent_s < drained_s]
    assert [sent_s for sent_s in at_b if drained_s < sent_s < returned_s] == []
    assert [sent_s for sent_s in at_b if sent_s > returned_s]
    _, said = await house.call("GET", "/-/actions")
    assert [(it["kind"], it["node"], it["status"]) for it in said["actions"]] == [
        ("drain", "b", "done"),
        ("return", "b", "done"),
    ]
    _, said = await house.call("GET", "/-/incidents")
    assert said["incidents"] == []


async def test_the_command_line_drains_restarts_and_returns(house: House, tmp_path: Path) -> None:
    done = await nodes_command(house, "list", "--json")
    assert [node["name"] for node in json.loads(done.stdout)["nodes"]] == ["a", "b", "c"]
    async with house.load(clients=3):
        done = await nodes_command(house, "restart", "a", "--wait", "30")
        assert (done.returncode, done.stdout.split(",")[0]) == (0, "a: serving"), done.stderr
        done = await nodes_command(house, "drain", "a", "--wait", "30", "--json")
        assert json.loads(done.stdout)["node"]["operator"] == "drained"
        done = await nodes_command(house, "restart", "a", "--wait", "30")
        assert (done.returncode, done.stdout) == (0, "a: drained, 0 in flight\n"), done.stderr
        done = await nodes_command(house, "return", "a", "--wait", "30")
        assert done.returncode == 0, done.stderr
    assert house.failed == []
    assert (tmp_path / "restarts").read_text() == "a\na\n"
    done = await nodes_command(house, "list")
    assert "serving" in done.stdout


async def test_what_makes_no_sense_is_refused_with_a_reason(house: House) -> None:
    for path, status, error in (
        ("/-/nodes/x/drain", 404, "there is no node x; there are a, b, c"),
        ("/-/nodes/a/explode", 404, "there is no order explode; there are drain, return, restart"),
        ("/-/nodes/a/return", 409, "a is not drained, so there is nothing to return"),
        ("/-/agents", 400, "not what an agent says of itself"),
    ):
        got, said = await house.call("POST", path)
        assert (got, error in said["error"]) == (status, True), said
    done = await nodes_command(house, "return", "a")
    assert done.returncode == 2
    assert done.stderr == f"ollamamax: {house.admin}: a is not drained, so there is nothing to return\n"


async def test_the_last_replica_is_drained_with_a_warning_and_an_agent_is_taken_in(house: House) -> None:
    for name in ("a", "b"):
        await house.call("POST", f"/-/nodes/{name}/drain")
    _, said = await house.call("POST", "/-/nodes/c/drain")
    assert said["warnings"] == [f"{MODEL} is loaded on no other node that gets traffic"]
    body = {"node": "", "ollama": house.nodes["b"], "agent": "http://127.0.0.1:9"}
    assert await house.call("POST", "/-/agents", json=body) == (200, {"node": "b"})
    assert (await house.node("b"))["agent"] == "http://127.0.0.1:9"
    assert (await house.call("POST", "/-/agents", json=body | {"ollama": "http://nowhere"}))[0] == 404
    assert (await house.call("POST", "/-/nodes/a/drain", headers={"Origin": "http://evil.example"}))[0] == 403
    assert (await house.call("GET", "/-/nodes", headers={"Host": "evil.example"}))[0] == 403
    assert (await house.call("GET", "/-/nodes", headers={"Host": "ops.example"}))[0] == 200


async def test_only_a_node_that_somebody_can_restart_takes_that_order() -> None:
    nodes = {"a": {"url": "http://127.0.0.1:9", "hands": {"restart": "true"}}, "b": "http://127.0.0.1:10"}
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    stop = asyncio.Event()
    serving = asyncio.create_task(
        run(ServeConfig.model_validate({"nodes": nodes, "listen": listen, "admin": admin}), stop)
    )
    async with aiohttp.ClientSession() as http:
        house = House(f"http://{listen}", f"http://{admin}", {}, http)
        await house.is_up(serving)

        async def can_be_restarted() -> list[bool]:
            return ["restart" in (await house.node(name))["hands"] for name in ("a", "b")]

        assert await can_be_restarted() == [True, False]
        status, said = await house.call("POST", "/-/nodes/b/restart")
        assert (status, said["error"].partition(":")[0]) == (409, "nobody can restart b")
        assert [row["hands"] for row in rows((await house.call("GET", "/-/nodes"))[1])] == ["restart", "-"]
        body = {"node": "b", "agent": "http://127.0.0.1:11"}
        assert await house.call("POST", "/-/agents", json=body) == (200, {"node": "b"})
        assert await can_be_restarted() == [True, True]
        assert (await house.call("POST", "/-/nodes/b/restart"))[0] == 202
    stop.set()
    assert await serving == 0


async def test_an_admin_api_beyond_loopback_needs_a_token() -> None:
    config = ServeConfig.model_validate({"nodes": {"a": "http://127.0.0.1:9"}, "admin": "0.0.0.0:0"})
    with pytest.raises(OperatorError, match="the admin API would take orders from anybody"):
        await run(config)


# -- models that come and go --------------------------------------------------------------------------------------


@pytest.mark.real
async def test_a_model_that_appears_on_a_real_node_is_served_without_a_restart(make_node: Any) -> None:
    node = await make_node()
    listen = f"127.0.0.1:{free_port()}"
    stop = asyncio.Event()
    config = ServeConfig.model_validate({"nodes": {"a": node.address}, "listen": listen, "discovery_period_s": 0.2})
    serving = asyncio.create_task(run(config, stop))
    name = f"fresh-{free_port()}"
    body = {"model": name, "prompt": "x", "stream": False, "options": {"num_predict": 2}}

    async def ask(http: aiohttp.ClientSession) -> int:
        with contextlib.suppress(aiohttp.ClientConnectorError):
            async with http.post(f"http://{listen}/api/generate", json=body) as response:
                return response.status
        return 0

    async def until(http: aiohttp.ClientSession, status: int) -> None:
        async with asyncio.timeout(20):
            while await ask(http) != status:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async with aiohttp.ClientSession() as http:
        try:
            await until(http, 404)
            copy = {"source": MODEL, "destination": name}
            async with http.post(f"{node.address}/api/copy", json=copy) as response:
                assert response.status == 200
            await until(http, 200)
            async with http.delete(f"{node.address}/api/delete", json={"model": name}) as response:
                assert response.status == 200
            await until(http, 404)
        finally:
            stop.set()
            assert await serving == 0
