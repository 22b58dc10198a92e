"""`ollamamax serve`: the operator's file, the operator's errors, and a stop that lets streams end."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import structlog
from aiohttp import web

from live.controller.discovery import NodeReport, discover
from live.gateway.config import ConfigError, ServeConfig, load_config
from live.serve import cluster_spec, run, serve
from tests.live.gateway.doubles import StubNode, generate_lines, streams, until

GIB = 1 << 30


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return file


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def node() -> AsyncIterator[StubNode]:
    """A node with two models, one of them loaded."""
    node = new_node()
    await node.start()
    yield node
    await node.stop()


def new_node() -> StubNode:
    async def behave(node: StubNode, request: web.Request, body: dict) -> web.StreamResponse:  # type: ignore[type-arg]
        if request.path == "/api/tags":
            models = [{"name": "m:latest", "size": GIB}, {"name": "n:7b", "size": 2 * GIB}]
            return web.json_response({"models": models})
        if request.path == "/api/ps":
            return web.json_response({"models": [{"name": "m:latest", "size": 3 * GIB, "size_vram": 2 * GIB}]})
        if request.path == "/api/version":
            return web.json_response({"version": "0"})
        return await streams(generate_lines(), pause_s=0.01)(node, request, body)

    node = StubNode()
    node.will(behave)
    return node


def test_a_file_says_everything(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
nodes:
  gpu-1: http://10.0.0.1
  gpu-2: {url: "10.0.0.2:9999", vram_gib: 24}
models: {m: {replicas: 2, slots: 4}}
policy: {preset: default, overrides: {retry.attempts_max: 1}}
hands: {restart: "ssh {node} systemctl restart ollama"}
""",
    )
    config = load_config(file, listen="127.0.0.1:1")
    assert [node.url for node in config.nodes.values()] == ["http://10.0.0.1:11434", "http://10.0.0.2:9999"]
    assert config.hands.restart is not None
    assert config.hands.restart.command == ["ssh", "{node}", "systemctl", "restart", "ollama"]
    assert config.parameters().retry.attempts_max == 1
    assert config.listen == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nodes:\n  a: {urll: http://x}\n", ":2: nodes.a.urll: unknown key; did you mean url?"),
        ("nodes: {a: http://x}\nlisen: x:1\n", ":2: lisen: unknown key; did you mean listen?"),
        ("nodes:\n  a: {url: 'ftp://x'}\n", ":2: nodes.a.url: 'ftp://x' is no address of a node"),
        ("nodes:\n  a: http://x:99999\n", ":2: nodes.a.url: 'http://x:99999' is no address"),
        ("nodes: {a b: http://x}\n", ":1: nodes.a b: 'a b' is no name for a node"),
        ("nodes: {a: http://x}\nlisten: here\n", ":2: listen: 'here' is no address to listen on"),
        ("nodes: {a: http://x}\npolicy:\n  preset: defalt\n", ":2: policy: unknown policy preset defalt"),
        ("nodes: {a: http://x}\npolicy: {overrides: {retry.attempt: 1}}\n", "did you mean retry_attempts?"),
        ("nodes:\n  a: http://x\n  a: http://y\n", ":3: a is there twice"),
        ("nodes:\n  a: http://x\n  b: x:11434\n", "nodes.b: http://x:11434 is a already; name each node once"),
        ("nodes: {a: localhost, b: 127.0.0.1}\n", "is a already"),
        ("nodes: {a: http://x}\nhands: {restrat: y}\n", ":2: hands.restrat: unknown key; did you mean restart?"),
        ("nodes: {a: http://x}\nhands: {restart: {systemd: {unitt: y}}}\n", "did you mean unit?"),
        ("nodes: {a: http://x}\nhands: {restart: {command: y, systemd: {}}}\n", "not command and systemd"),
        ("nodes: {a: {url: x, hands: {drill: {kill_sever: y}}}}\n", "kill_server"),
        ("nodes: {a: x}\nhosts: ['https://llm.example']\n", ":2: hosts.0: 'https://llm.example' is no name of a host"),
        ("nodes: [\n", ": not YAML"),
        ("nodes: {a: x}\n? [a, b]\n: c\n", ":2: a key is one word, not a list or a mapping"),
        ("nodes: &a\n  x: *a\n", ": lists and mappings in it are nested too deep, or within themselves"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", ": lists and mappings in it are nested too deep"),
        ("nodes: {a: 'http://a..b:1/'}\n", ":1: nodes.a.url: 'http://a..b:1/' is no address: "),
        ("nodes: {a: 'http://u:p@x:1'}\n", ":1: nodes.a.url: nodes are asked without a name and password"),
        ("- 1\n", "dictionary"),
        ("listen: 127.0.0.1:1\n", "no nodes are named"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, error: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    assert str(raised.value).startswith(str(file))
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_same_node_twice_on_the_command_line_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nodes.node-1: http://gpu1:11434 is node-0 already; name each node once"):
        load_config(None, ["gpu1", "http://GPU1:11434"])


def test_bad_input_ends_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(tmp_path / "none.yaml") == 2
    assert capsys.readouterr().err == f"ollamamax: {tmp_path}/none.yaml: cannot be read: No such file or directory\n"
    file = written(
        tmp_path, f"nodes: {{a: 127.0.0.1:9}}\nlisten: 127.0.0.1:0\nstate_file: {tmp_path}/none/state.json\n"
    )
    assert serve(file) == 2
    assert "state.json: cannot be written: No such file or directory" in capsys.readouterr().err


async def test_a_port_in_use_is_said_in_one_line(node: StubNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{listen} is in use; end what listens there, or give another --listen"):
            await run(load_config(None, [node.address], listen=listen))


async def test_nodes_are_asked_what_they_have(node: StubNode) -> None:
    reports = await discover({"a": node.address, "b": "http://127.0.0.1:9"})
    assert reports[0] == NodeReport("a", "", {"m": 1.2, "n:7b": 2.4}, {"m": 2.0}, {"m": "", "n:7b": ""})
    assert "127.0.0.1:9" in reports[1].problem


def test_what_is_configured_goes_before_what_was_learnt() -> None:
    config = ServeConfig.model_validate(
        {"nodes": {"a": "http://a", "b": "http://b"}, "models": {"m:latest": {"slots": 4}, "o": {"memory_gib": 1}}}
    )
    reports = [NodeReport("a", "", {"m": 1.2}, {"m": 2.0}), NodeReport("b", "is down")]
    spec = cluster_spec(config, reports, {"a": frozenset({"load", "restart"}), "b": frozenset({"load"})})
    assert [(m.name, m.memory_gib, m.replicas, m.slots) for m in spec.models] == [("m", 2.0, 1, 4), ("o", 1, 0, 1)]
    assert spec.placement == {"a": ("m",), "b": ()}
    assert [sorted(node.hands) for node in spec.nodes] == [["load", "restart"], ["load"]]


def test_a_copy_of_a_model_is_no_model_of_its_own() -> None:
    config = ServeConfig.model_validate({"nodes": {"a": "http://a"}, "models": {"n": {"replicas": 1}}})
    report = NodeReport("a", "", {"copy": 1.2, "n": 1.2}, {"copy": 2.0}, {"copy": "1", "n": "1"})
    spec = cluster_spec(config, [report], {"a": frozenset({"load"})})
    assert [(m.name, m.memory_gib) for m in spec.models] == [("n", 2.0)]
    assert (spec.placement, spec.stored) == ({"a": ("n",)}, {"a": ("n",)})


async def test_a_stop_lets_a_stream_end(node: StubNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop = asyncio.Event()
    serving = asyncio.create_task(run(load_config(None, [node.address], listen=f"127.0.0.1:{port}"), stop))

    async def post() -> bytes:
        url = f"http://127.0.0.1:{port}/api/generate"
        async with aiohttp.ClientSession() as http, http.post(url, json={"model": "m", "prompt": "p"}) as response:
            return await response.read()

    async def listening() -> None:
        while not serving.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.005)
            else:
                writer.close()
                await writer.wait_closed()
                return
        await serving

    await listening()
    posting = asyncio.create_task(post())
    await until(lambda: any("prompt" in body for body in node.bodies))
    stop.set()
    assert await posting == b"".join(generate_lines())
    assert await serving == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def ready(port: int) -> tuple[int, str]:
    """What the gateway says of its readiness; 0 while it does not listen."""
    try:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/-/readyz") as response:
            return response.status, (await response.json()).get("why", "")
    except aiohttp.ClientConnectionError:
        return 0, ""


async def test_without_a_node_that_answers_it_serves_and_is_ready_when_one_does() -> None:
    port, node_port = free_port(), free_port()
    stop = asyncio.Event()
    serving = asyncio.create_task(run(load_config(None, [f"127.0.0.1:{node_port}"], listen=f"127.0.0.1:{port}"), stop))
    node = new_node()
    try:
        async with asyncio.timeout(20):
            while not (said := await ready(port))[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert said == (503, "no node has said yet what models it has")
            url = f"http://127.0.0.1:{port}/api/generate"
            async with aiohttp.ClientSession() as http:
                async with http.post(url, json={"model": "m", "prompt": "p"}) as response:
                    assert (response.status, response.headers["Retry-After"]) == (503, "1")
                await node.start(node_port)
                while (await ready(port))[0] != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                async with http.post(url, json={"model": "m", "prompt": "p"}) as response:
                    assert (response.status, await response.read()) == (200, b"".join(generate_lines()))
    finally:
        stop.set()
        assert await serving == 0
        await node.stop()


async def test_a_drain_outlives_a_restart_of_the_gateway(node: StubNode, tmp_path: Path) -> None:
    admin = free_port()
    file = written(
        tmp_path,
        f"nodes: {{a: '{node.address}'}}\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:{admin}\n"
        f"state_file: {tmp_path}/state.json\n",
    )
    seen: list[str] = []
    for _ in range(2):
        stop = asyncio.Event()
        serving = asyncio.create_task(run(load_config(file), stop))
        async with asyncio.timeout(20), aiohttp.ClientSession() as http:
            while True:
                assert not serving.done()
                try:
                    async with http.get(f"http://127.0.0.1:{admin}/-/nodes") as response:
                        seen.append((await response.json())["nodes"][0]["operator"])
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)
            async with http.post(f"http://127.0.0.1:{admin}/-/nodes/a/drain") as response:
                assert response.status == 202
        stop.set()
        assert await serving == 0
    assert seen == ["", "drained"]


async def test_ctrl_c_ends_with_0(node: StubNode) -> None:
    code = (
        f"import sys; from live.serve import serve; sys.exit(serve(None, ['{node.address}'], listen='127.0.0.1:0',"
        " admin='127.0.0.1:0'))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            serving = json.loads(await process.stderr.readline())
            assert (serving["event"], serving["models"]) == ("serving", ["m", "n:7b"])
            async with aiohttp.ClientSession() as http, http.get(serving["admin"] + "/-/nodes") as response:
                assert [each["name"] for each in (await response.json())["nodes"]] == ["node-0"]
            process.send_signal(2)
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert b"Traceback" not in err
