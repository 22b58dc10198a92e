"""The agent over HTTP: who may ask, what it answers, and what the controller makes of it."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from live.agent.command import run
from live.agent.config import AgentConfig, load_agent_config
from live.agent.ollama import OllamaApi, OllamaProcesses, _port_of
from live.agent.server import UNNAMED, Agent, reachable
from live.agent.sources import Collector, Values
from live.controller.telemetry import AgentPoller, checked, telemetry_row
from live.gateway.config import ConfigError
from live.hands.agent import AgentHands
from live.hands.ollama_api import OllamaApiHands
from live.hands.process import ManagedProcess, is_running, plain_environment
from live.hands.router import HandsByKind
from live.rig.processes import free_port
from tests.live.conftest import MODEL, MakeNode
from tests.live.gateway.doubles import StubNode, answers, until
from twin.errors import OperatorError
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import Action, ActionResult, ClusterSpec, ModelSpec, NodeSpec, TelemetrySample
from twin.record.schema import TELEMETRY


class Fixed:
    def read(self) -> Values:
        return {"memory_used_gib": 3.5, "gpu_power_w": None}


def agent(token: str = "secret", ollama: str = "http://127.0.0.1:9", hands: HandsByKind | None = None) -> Agent:
    return Agent("a", ollama, Collector([Fixed()]), OllamaProcesses(ollama), hands or HandsByKind({}), token=token)


async def ask(url: str, path: str = "/telemetry", method: str = "GET", **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, url + path, headers=headers) as response:
        return response.status, await response.json()


async def test_only_who_brings_the_token_is_answered() -> None:
    server = agent()
    url = await server.start()
    try:
        assert (await ask(url))[0] == 401
        assert (await ask(url, Authorization="Bearer wrong"))[0] == 401
        status, said = await ask(url, Authorization="Bearer secret")
        assert status == 200
        assert said["values"]["memory_used_gib"] == 3.5
        assert said["values"]["gpu_power_w"] is None
        assert said["age_s"] >= 0
        assert (await ask(url, "/healthz"))[0] == 200
    finally:
        await server.stop()


async def test_without_a_token_no_web_page_may_give_orders() -> None:
    server = agent(token="")
    url = await server.start()
    try:
        assert (await ask(url))[0] == 200
        status, said = await ask(url, "/hands/restart", "POST", Origin="http://evil.example")
        assert (status, said["error"]) == (403, "no web page may give orders here")
        status, said = await ask(url, Host="evil.example")
        assert (status, said["error"].split(";")[0]) == (403, "this is not called evil.example")
        status, said = await ask(url, "/hands/restart", "POST")
        assert (status, said["error"].split(";")[0]) == (501, "this agent has no hand for a restart")
    finally:
        await server.stop()


async def test_an_agent_without_a_restart_of_its_own_is_no_hand_for_it() -> None:
    server = agent()
    hands = AgentHands({"a": await server.start()}, "secret")
    try:
        result = await hands.perform(Action(1, "restart", "a", "", "", 60.0, 0.0))
    finally:
        await hands.close()
        await server.stop()
    assert (result.status, "has no hand for a restart" in result.detail) == ("no_hand", True)


async def test_beyond_loopback_it_needs_a_token() -> None:
    with pytest.raises(OperatorError, match=r"would take orders from anybody who reaches 0.0.0.0; give token_file"):
        await run(AgentConfig(listen="0.0.0.0:0"))


def test_its_file_is_checked_like_the_gateways(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("ollama: gpu1\nhands: {restart: {systemd: {unit: ollama}}}\n")
    config = load_agent_config(file, "127.0.0.1:1", None, "gateway:11436")
    assert (config.listen, config.ollama, config.controller) == (
        "127.0.0.1:1",
        "http://gpu1:11434",
        "http://gateway:11436",
    )
    file.write_text("olama: gpu1\n")
    with pytest.raises(ConfigError, match=r"agent.yaml:1: olama: unknown key; did you mean ollama\?"):
        load_agent_config(file, None, None, None)


async def test_a_port_in_use_is_one_line() -> None:
    server = agent()
    url = await server.start()
    try:
        with pytest.raises(ConfigError, match="is in use; end what listens there, or give another --listen"):
            await run(AgentConfig(listen=url.removeprefix("http://")))
    finally:
        await server.stop()


# -- at the controller --------------------------------------------------------------------------------------------


async def test_samples_become_observations_and_a_silent_agent_is_no_news() -> None:
    server = agent()
    url = await server.start()
    seen: list[TelemetrySample] = []
    poller = AgentPoller({"a": url}, "secret", seen.append, period_s=0.02)
    poller.start()
    await until(lambda: seen)
    assert seen[0] == TelemetrySample("a", {"memory_used_gib": 3.5})
    assert poller.latest == {"a": {"memory_used_gib": 3.5}}
    await server.stop()
    await until(lambda: not poller.latest)
    count = len(seen)
    await asyncio.sleep(0.1)
    assert len(seen) == count
    await poller.stop()


async def test_an_agent_is_not_trusted() -> None:
    node = StubNode()
    node.will(answers(200, b'{"values": {"gpu_power_w": 1e999, "uptime_s": "x", "evil": 1, "swap_used_gib": 2}}'))
    await node.start()
    seen: list[TelemetrySample] = []
    poller = AgentPoller({"a": node.address}, "", seen.append, period_s=0.02)
    poller.start()
    await until(lambda: seen)
    assert seen[0].values == {"swap_used_gib": 2.0}
    node.behaviours.clear()
    node.will(answers(200, b"[" * 100_000))
    await until(lambda: not poller.latest)
    await poller.stop()
    await node.stop()
    with pytest.raises(ValueError, match="is it an agent"):
        checked(b"[]", "a")


def test_a_sample_that_has_grown_old_is_none() -> None:
    fresh = {"age_s": 16.0, "period_s": 5.0, "values": {"swap_used_gib": 2}}
    assert checked(json.dumps(fresh).encode(), "a") == {"swap_used_gib": 2.0}
    for old in ({**fresh, "age_s": 21.0}, {**fresh, "age_s": "x"}, {**fresh, "age_s": 10**400}):
        with pytest.raises(ValueError, match="old"):
            checked(json.dumps(old).encode(), "a")


def test_a_number_that_is_too_large_for_one_is_left_out() -> None:
    values = {"swap_used_gib": 10**400, "memory_used_gib": 1}
    assert checked(json.dumps({"values": values}).encode(), "a") == {"memory_used_gib": 1.0}


def test_a_row_of_telemetry_has_every_column_and_null_for_what_is_not_known() -> None:
    row = telemetry_row({"time_s": 1.0, "node": "a"})
    assert len(row) == len(TELEMETRY.names)
    assert row[:2] == (1.0, "a")
    assert set(row[2:]) == {None}


async def test_an_agent_that_belongs_to_another_node_is_not_read_and_does_nothing_for_this_one() -> None:
    server = agent()
    url = await server.start()
    seen: list[TelemetrySample] = []
    poller = AgentPoller({"b": url, "a": url}, "secret", seen.append, period_s=0.02)
    poller.start()
    await until(lambda: len(seen) > 3)
    assert {sample.node for sample in seen} == {"a"}
    hands = AgentHands({"a": url, "b": url}, "secret")
    wrong = await hands.order("b", "kill_runners")
    assert (wrong.status, "this is the agent of a, not of b" in wrong.detail) == ("failed", True)
    assert "no runner is seen" in (await hands.order("a", "kill_runners")).detail
    await hands.close()
    await poller.stop()
    await server.stop()


async def test_an_agent_without_a_name_takes_the_one_that_its_controller_knows_it_by() -> None:
    controller = StubNode()
    controller.will(answers(200, b'{"node": "b"}'))
    await controller.start()
    server = Agent(
        UNNAMED, "http://127.0.0.1:9", Collector([Fixed()]), OllamaProcesses("http://127.0.0.1:9"), HandsByKind({})
    )
    url = await server.start()
    hands = AgentHands({"a": url}, "")
    assert "no runner is seen" in (await hands.order("a", "kill_runners")).detail
    server.announce(controller.address)
    await until(lambda: controller.bodies)
    assert controller.bodies[0] == {"node": "", "ollama": "http://127.0.0.1:9", "agent": url}
    await until(lambda: server.name)
    assert "this is the agent of b, not of a" in (await hands.order("a", "kill_runners")).detail
    await hands.close()
    await server.stop()
    await controller.stop()


def test_who_listens_everywhere_is_reached_where_it_sends_from() -> None:
    assert reachable("http://0.0.0.0:11480", "http://127.0.0.1:9") == "http://127.0.0.1:11480"
    assert reachable("http://10.0.0.7:11480", "http://127.0.0.1:9") == "http://10.0.0.7:11480"
    assert reachable("http://[::]:11480", "http://127.0.0.1:9") == "http://127.0.0.1:11480"


async def test_a_controller_is_told_where_the_agent_is() -> None:
    controller = StubNode()
    controller.will(answers(503, b"{}"), answers(200, b"{}"))
    await controller.start()
    server = agent()
    url = await server.start()
    server.announce(controller.address)
    await until(lambda: controller.bodies)
    assert controller.bodies[0] == {"node": "a", "ollama": "http://127.0.0.1:9", "agent": url}
    assert controller.headers[0]["Authorization"] == "Bearer secret"
    await server.stop()
    await controller.stop()


@pytest.mark.real
async def test_beside_a_real_ollama_it_kills_runners_and_says_so(make_node: MakeNode) -> None:
    node = await make_node()
    server = agent(ollama=node.address)
    hands = AgentHands({"a": await server.start()}, "secret")
    api = OllamaApiHands({"a": node.address})
    try:
        assert (await hands.order("a", "kill_runners")).status == "failed"
        await api.perform(Action(0, "load", "a", MODEL, "", 60.0, 0.0))
        [runner] = node.runner_pids()
        assert (await hands.order("a", "kill_runners")).detail == "killed 1 runners"
        await until(lambda: runner not in node.runner_pids(), 5)
        assert node.server_alive()
    finally:
        await api.close()
        await hands.close()
        await server.stop()


@pytest.mark.real
async def test_a_supervised_real_ollama_is_restarted_by_order_of_the_controller(
    ollama: Path, models: Path, tmp_path: Path
) -> None:
    """The whole way: the agent runs `ollama serve` itself, and a hand of the controller has it restarted."""
    port, listen = free_port(), f"127.0.0.1:{free_port()}"
    token = tmp_path / "token"
    token.write_text("secret\n")
    process = {
        "command": [str(ollama), "serve"],
        "log": str(tmp_path / "ollama.log"),
        "environment": {"HOME": str(tmp_path), "OLLAMA_MODELS": str(models), "OLLAMA_NO_CLOUD": "1"},
    }
    config = AgentConfig.model_validate(
        {
            "listen": listen,
            "ollama": f"http://127.0.0.1:{port}",
            "token_file": str(token),
            "node": "a",
            "period_s": 0.2,
            "ollama_log": str(tmp_path / "ollama.log"),
            "hands": {"restart": {"process": process}},
        }
    )
    stop = asyncio.Event()
    running = asyncio.create_task(run(config, stop))
    hands = AgentHands({"a": f"http://{listen}"}, "secret")
    processes = OllamaProcesses(config.ollama)
    try:
        async with asyncio.timeout(40):
            while (await _status(f"http://{listen}/healthz")) != 200:
                assert not running.done(), running.exception()
                await asyncio.sleep(0.05)
            server = processes.server()
            assert server is not None
            result = await hands.perform(Action(1, "restart", "a", "", "", 60.0, 0.0))
            assert result.status == "done", result.detail
            again = processes.server()
            assert again is not None
            assert again.pid != server.pid
            values = (await ask(f"http://{listen}", Authorization="Bearer secret"))[1]["values"]
            assert values["ollama_error_lines"] == 0.0
    finally:
        stop.set()
        await running
        await hands.close()
    assert processes.server() is None


class SmallGpu:
    """A GPU of 12 GiB that somebody uses; the processes beside it are real."""

    def read(self) -> Values:
        return {"vram_total_gib": 12.0, "vram_used_gib": 7.0}


@pytest.fixture
async def lone_ollama(ollama: Path, models: Path, tmp_path: Path) -> AsyncIterator[tuple[ManagedProcess, str]]:
    """`ollama serve` as an operator would run it, and its address."""
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **plain_environment(),
        "HOME": str(tmp_path),
        "OLLAMA_HOST": address,
        "OLLAMA_MODELS": str(models),
        "OLLAMA_NO_CLOUD": "1",
    }
    mark = ("OLLAMAMAX_TEST_NODE", uuid.uuid4().hex)
    process = ManagedProcess(
        "ollama", [ollama, "serve"], log=tmp_path / "ollama.log", environment=environment, mark=mark
    )
    await process.start(f"http://{address}/api/version", 20.0)
    yield process, f"http://{address}"
    await process.stop()


async def _orphan_of(process: ManagedProcess, address: str) -> int:
    """Load a model, kill the server alone, start another: the runner that is left."""
    api = OllamaApiHands({"a": address})
    await api.perform(Action(0, "load", "a", MODEL, "", 60.0, 0.0))
    await api.close()
    [runner] = [child.pid for child in process.children() if "--model" in child.cmdline()]
    process.send(signal.SIGKILL)
    await until(lambda: not process.is_alive(), 5)
    await process.start(f"{address}/api/version", 20.0)
    return runner


@pytest.mark.real
async def test_a_runner_that_outlived_its_server_is_counted_and_killed(
    lone_ollama: tuple[ManagedProcess, str],
) -> None:
    process, address = lone_ollama
    orphan = await _orphan_of(process, address)
    processes = OllamaProcesses(address)
    assert [it.pid for it in processes.orphans()] == [orphan]
    assert processes.runners() == []
    assert processes.read()["ollama_processes"] == 2.0, "the new server, and what the old one left"
    assert OllamaProcesses("http://127.0.0.1:9").orphans() == [], "it is another server's"
    server = agent(ollama=address)
    hands = AgentHands({"a": await server.start()}, "secret")
    try:
        result = await hands.order("a", "kill_runners")
        assert result.detail == "killed 1 runners, 1 of them without a server"
        await until(lambda: not psutil.pid_exists(orphan) or not is_running(psutil.Process(orphan)), 5)
        assert processes.read()["ollama_processes"] == 1.0
        assert process.is_alive()
    finally:
        await hands.close()
        await server.stop()


@pytest.mark.real
async def test_an_orphan_is_still_counted_while_no_server_runs(lone_ollama: tuple[ManagedProcess, str]) -> None:
    process, address = lone_ollama
    api = OllamaApiHands({"a": address})
    await api.perform(Action(0, "load", "a", MODEL, "", 60.0, 0.0))
    await api.close()
    processes = OllamaProcesses(address)
    assert processes.read()["ollama_processes"] == 2.0
    assert processes.orphans() == [], "its server lives"
    process.send(signal.SIGKILL)
    await until(lambda: not process.is_alive(), 5)
    seen = OllamaProcesses(address).read()
    assert seen["ollama_processes"] == 1.0
    assert (seen["ollama_rss_gib"] or 0.0) > 0.0
    assert "open_files" not in seen


@pytest.mark.real
async def test_the_policy_has_an_orphan_killed_that_a_real_agent_sees(lone_ollama: tuple[ManagedProcess, str]) -> None:
    """The processes and the agent are real; the policy's minutes pass at once."""
    process, address = lone_ollama
    orphan = await _orphan_of(process, address)
    source = OllamaProcesses(address)
    api = OllamaApi(address)
    server = Agent("a", address, Collector([SmallGpu(), source], [api]), source, HandsByKind({}), period_s=0.1)
    hands = AgentHands({"a": (url := await server.start())}, "")
    names = ("a", "b")
    spec = ClusterSpec(
        tuple(NodeSpec(name, 12.0) for name in names),
        (ModelSpec(MODEL, 5.0, 2, 2),),
        {name: (MODEL,) for name in names},
    )
    policy = ClusterPolicy(spec, preset("default", {"predictor.enabled": False, "probes.enabled": False}))
    ordered: list[Action] = []
    try:
        for second in range(0, 100, 20):
            values = checked(json.dumps({"values": (await ask(url))[1]["values"]}).encode(), "a")
            policy.observe(float(second), TelemetrySample("a", values))
            ordered += [it for it in policy.decide(float(second)) if isinstance(it, Action)]
        [drain, kill] = [it for it in ordered if it.node == "a"][:2]
        assert (drain.kind, kill.kind) == ("drain", "kill_runner")
        assert "a process of Ollama that no model belongs to has held GPU memory" in kill.reason
        result = await hands.perform(kill)
        assert result.status == "done"
        await until(lambda: not psutil.pid_exists(orphan) or not is_running(psutil.Process(orphan)), 5)
        policy.observe(100.0, ActionResult(kill.action_id, "a", "kill_runner", "done"))
        await until(lambda: server._values["ollama_processes"] == 1.0, 10)
        for second in range(120, 240, 20):
            values = checked(json.dumps({"values": (await ask(url))[1]["values"]}).encode(), "a")
            assert values["ollama_processes"] == 1.0
            policy.observe(float(second), TelemetrySample("a", values))
            policy.decide(float(second))
        assert [it.diagnosis for it in policy.incidents] == ["orphan_runner"]
    finally:
        await api.close()
        await hands.close()
        await server.stop()


@pytest.mark.parametrize(
    ("host", "port"),
    [("", 11434), ("0.0.0.0", 11434), (":8080", 8080), ("gpu1:8080", 8080), ("https://gpu1", 443), ("[::1]:99", 99)],
)
def test_where_a_server_serves_is_read_as_ollama_reads_it(host: str, port: int) -> None:
    assert _port_of(host) == port


async def _status(url: str) -> int:
    try:
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return response.status
    except aiohttp.ClientError:
        return 0
