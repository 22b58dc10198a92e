"""One bench for each kind of hand: a node of its kind that can be told how to behave, and what was really done to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from aiohttp import web

from live.agent.ollama import OllamaProcesses
from live.agent.server import Agent
from live.agent.sources import Collector
from live.hands.agent import AgentHands
from live.hands.command import CommandHands
from live.hands.kubernetes import ApiServer, KubernetesHands, Way, Workload
from live.hands.ollama_api import OllamaApiHands
from live.hands.process import plain_environment
from live.hands.protocol import HandError, HandResult, Hands
from live.hands.router import HandsByKind
from live.hands.supervisor import SupervisedHands, Supervisor
from live.hands.systemd import SystemdHands, Unit
from live.hands.webhook import Webhook, WebhookHands, signature
from live.rig.processes import free_port
from twin.policy.vocabulary import Action, ActionKind

Mood: TypeAlias = Literal["works", "refuses", "hangs", "is gone"]
REFUSAL = "the disk is full"
SECRET = b"a shared secret"


def action(kind: ActionKind = "restart", node: str = "a", **more: Any) -> Action:
    return Action(1, kind, node, "m", "it hangs", 60.0, 1.0, **more)


class Bench(Protocol):
    """What the contract needs of a kind of hand."""

    hands: Hands
    order: Action

    async def set(self, mood: Mood) -> None:
        """How what the hand reaches for behaves from now on."""

    def done(self) -> int:
        """How often it was really done."""


def mood_file(folder: Path) -> Path:
    file = folder / "mood"
    file.write_text("works")
    return file


# -- processes of this machine ------------------------------------------------------------------------------------

SERVER = """
import http.server, pathlib, sys, time
mood, starts = pathlib.Path(sys.argv[2]).read_text(), pathlib.Path(sys.argv[3])
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
if mood == "refuses":
    sys.exit("the disk is full")
if mood == "hangs":
    time.sleep(60)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


class Supervised:
    def __init__(self, folder: Path) -> None:
        self.mood = mood_file(folder)
        self.starts = folder / "starts"
        self.executable = folder / "ollama"
        self.executable.symlink_to(sys.executable)
        port = free_port()
        command = [str(self.executable), "-c", SERVER, str(port), str(self.mood), str(self.starts)]
        self.supervisor = Supervisor(
            "a",
            command,
            url=f"http://127.0.0.1:{port}",
            log=folder / "ollama.log",
            environment=plain_environment(),
            back_off_s=0.1,
        )
        self.hands: Hands = SupervisedHands({"a": self.supervisor})
        self.order = action()

    async def set(self, mood: Mood) -> None:
        if mood == "is gone":
            self.executable.unlink()
        self.mood.write_text(mood)

    def done(self) -> int:
        return len(self.starts.read_text()) - 1


@contextlib.asynccontextmanager
async def supervised(folder: Path) -> AsyncIterator[Bench]:
    bench = Supervised(folder)
    await bench.supervisor.start()
    yield bench
    await bench.supervisor.stop()


SCRIPT = """#!/bin/sh
echo "$0 $@" >> {calls}
case "$(cat {mood})" in
  refuses) echo "the disk is full" >&2; exit 1;;
  hangs) sleep 60;;
esac
"""


class Script:
    """A script that stands in for a program."""

    def __init__(self, folder: Path, name: str) -> None:
        self.mood = mood_file(folder)
        self.calls = folder / "calls"
        self.path = folder / name
        self.path.write_text(SCRIPT.format(calls=self.calls, mood=self.mood))
        self.path.chmod(0o755)

    def lines(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


class OwnCommand:
    def __init__(self, folder: Path) -> None:
        self.script = Script(folder, "restart-node")
        self.hands: Hands = CommandHands(
            {"restart": [str(self.script.path), "{node}", "{host}"]}, {"a": "http://gpu1:1"}
        )
        self.order = action()

    async def set(self, mood: Mood) -> None:
        self.script.mood.write_text(mood)
        if mood == "is gone":
            self.script.path.unlink()

    def done(self) -> int:
        return sum(line.endswith("restart-node a gpu1") for line in self.script.lines())


@contextlib.asynccontextmanager
async def own_command(folder: Path) -> AsyncIterator[Bench]:
    yield OwnCommand(folder)


class FakeSystemctl:
    """`systemctl` as a script on the PATH that writes down how it is called."""

    def __init__(self, folder: Path, unit: Unit) -> None:
        self.script = Script(folder, "systemctl")
        self.hands: Hands = SystemdHands({"a": unit}, {"a": "http://gpu1:11434"})
        self.order = action()

    async def set(self, mood: Mood) -> None:
        self.script.mood.write_text(mood)
        if mood == "is gone":
            self.script.path.unlink()

    def done(self) -> int:
        return sum(" restart " in line for line in self.script.lines())

    def calls(self) -> list[str]:
        return [line.split("systemctl ", 1)[1] for line in self.script.lines()]


@contextlib.asynccontextmanager
async def systemd(folder: Path, unit: Unit | None = None) -> AsyncIterator[Bench]:
    before = os.environ["PATH"]
    bench = FakeSystemctl(folder, unit or Unit(host="root@{host}"))
    # Nothing but the script and the shell that runs it: what is gone must not be found elsewhere.
    tools = folder / "bin"
    tools.mkdir()
    for name in ("cat", "sleep"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    os.environ["PATH"] = f"{folder}:{tools}"
    try:
        yield bench
    finally:
        os.environ["PATH"] = before


# -- over HTTP ----------------------------------------------------------------------------------------------------


class HttpBench:
    """A server on loopback, HTTP or HTTPS, that keeps what it was asked."""

    def __init__(self) -> None:
        self.mood: Mood = "works"
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""
        self.order = action()
        self._runner: web.AppRunner | None = None

    async def answer(self, request: web.Request, body: bytes) -> web.Response:
        raise NotImplementedError

    async def serve(self, context: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def set(self, mood: Mood) -> None:
        self.mood = mood
        if mood == "is gone":
            await self.close()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.append((request.method, request.path, dict(request.headers), body))
        if self.mood == "hangs":
            await asyncio.Event().wait()
        return await self.answer(request, body)


class Hook(HttpBench):
    def __init__(self) -> None:
        super().__init__()
        self.hands: Hands = HandsByKind({})

    def done(self) -> int:
        return sum(
            headers["X-OllamaMax-Signature"] == signature(SECRET, headers["X-OllamaMax-Timestamp"], body)
            and json.loads(body)["node"] == "a"
            for _, _, headers, body in self.asked
        )

    async def answer(self, request: web.Request, body: bytes) -> web.Response:
        if self.mood == "refuses":
            return web.json_response({"status": "failed", "detail": REFUSAL})
        return web.json_response({"status": "done"})


@contextlib.asynccontextmanager
async def webhook(folder: Path) -> AsyncIterator[Bench]:
    bench = Hook()
    await bench.serve()
    hook = Webhook(f"{bench.url}/restart/{{node}}", SECRET, timeout_s=20.0, tries=2, pause_s=0.01)
    bench.hands = WebhookHands(hook, {"a": "http://gpu1:11434"})
    yield bench
    await bench.hands.close()
    await bench.close()


class FakeOllama(HttpBench):
    def __init__(self) -> None:
        super().__init__()
        self.order = action("load")
        self.hands: Hands = HandsByKind({})

    def done(self) -> int:
        return sum(path == "/api/generate" and json.loads(body)["model"] == "m" for _, path, _, body in self.asked)

    async def answer(self, request: web.Request, body: bytes) -> web.Response:
        if self.mood == "refuses":
            return web.json_response({"error": REFUSAL}, status=500)
        return web.json_response({"model": "m", "done": True, "done_reason": "load"})


@contextlib.asynccontextmanager
async def ollama_api(folder: Path) -> AsyncIterator[Bench]:
    bench = FakeOllama()
    await bench.serve()
    bench.hands = OllamaApiHands({"a": bench.url})
    yield bench
    await bench.hands.close()
    await bench.close()


class FakeKubernetes(HttpBench):
    """Answers as an API server 1.29 does, cut down to the fields that count; its deployment needs two looks to be ready."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way
        self.generation = 4
        self.looks = 0
        self.replicas = 1
        self.scales: list[int] = []
        self.made = 1  # pods
        self.hands: Hands = HandsByKind({})

    @staticmethod
    def pod(name: str, uid: str, ready: str = "True") -> dict[str, Any]:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "ollama", "uid": "owner"}
        return {
            "metadata": {"name": name, "uid": uid, "ownerReferences": [owner]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }

    def done(self) -> int:
        if self.way == "rollout":
            return self.generation - 4
        if self.way == "scale":
            return self.scales.count(0) if self.scales == [0, 1] * (len(self.scales) // 2) else -1
        return sum(method == "DELETE" for method, _, _, _ in self.asked)

    async def answer(self, request: web.Request, body: bytes) -> web.Response:
        if request.headers.get("Authorization") != "Bearer the-token":
            return _status(401, "Unauthorized")
        if self.mood == "refuses" and request.method in ("PATCH", "DELETE"):
            return _status(403, REFUSAL)
        base = "/apis/apps/v1/namespaces/ai/deployments/ollama-a"
        if request.path == base:
            return self._deployment(request.method, request.headers, body)
        if request.path == f"{base}/scale":
            return self._scale(request.method, request.headers, body)
        if request.path == "/api/v1/namespaces/ai/pods/ollama-a":
            if request.method == "DELETE":
                self.made += 1
                self.looks = 0
            return web.json_response(self.pod("ollama-a", f"uid-{self.made}"))
        if request.path == "/api/v1/namespaces/ai/pods":
            self.looks += 1
            ready = "True" if self.looks > 2 else "False"
            return web.json_response({"items": [self.pod("ollama-a", f"uid-{self.made}", ready)]})
        return _status(404, f"the server could not find {request.path}")

    def _deployment(self, method: str, headers: Any, body: bytes) -> web.Response:
        if method == "PATCH":
            assert headers["Content-Type"] == "application/strategic-merge-patch+json"
            annotations = json.loads(body)["spec"]["template"]["metadata"]["annotations"]
            assert list(annotations) == ["kubectl.kubernetes.io/restartedAt"]
            self.generation += 1
            self.looks = 0
        self.looks += 1
        settled = self.looks > 2
        status = {
            "observedGeneration": self.generation if self.looks > 1 else self.generation - 1,
            "replicas": self.replicas if settled else self.replicas + 1,
            "updatedReplicas": self.replicas,
            "availableReplicas": self.replicas,
        }
        about = {"name": "ollama-a", "generation": self.generation}
        return web.json_response({"metadata": about, "spec": {"replicas": self.replicas}, "status": status})

    def _scale(self, method: str, headers: Any, body: bytes) -> web.Response:
        if method == "PATCH":
            assert headers["Content-Type"] == "application/merge-patch+json"
            self.replicas = json.loads(body)["spec"]["replicas"]
            self.scales.append(self.replicas)
        return web.json_response({"spec": {"replicas": self.replicas}, "status": {"replicas": self.replicas}})


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "message": message, "code": code}, status=code)


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that is its own CA: the file, and a server's context with it."""
    key, cert = folder / "key.pem", folder / "ca.crt"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    words += [
        "-subj",
        "/CN=kubernetes",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    subprocess.run(words, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


@contextlib.asynccontextmanager
async def kubernetes(folder: Path, way: Way = "rollout") -> AsyncIterator[Bench]:
    cert, context = certificate(folder)
    token = folder / "token"
    token.write_text("the-token\n")
    bench = FakeKubernetes(way)
    await bench.serve(context)
    server = ApiServer(bench.url, token, cert, timeout_s=20.0, poll_s=0.01)
    name = "ollama-{node}"
    bench.hands = KubernetesHands(server, {"a": Workload(way, name, "ai")}, {"a": "http://gpu1:11434"})
    yield bench
    await bench.hands.close()
    await bench.close()


@contextlib.asynccontextmanager
async def kubernetes_scale(folder: Path) -> AsyncIterator[Bench]:
    async with kubernetes(folder, "scale") as bench:
        yield bench


@contextlib.asynccontextmanager
async def kubernetes_pod(folder: Path) -> AsyncIterator[Bench]:
    async with kubernetes(folder, "delete_pod") as bench:
        yield bench


class BesideIt:
    """What the agent's own hand does."""

    def __init__(self) -> None:
        self.mood: Mood = "works"
        self.restarted = 0

    async def perform(self, action: Action) -> HandResult:
        if self.mood == "hangs":
            await asyncio.Event().wait()
        if self.mood == "refuses":
            raise HandError(REFUSAL)
        self.restarted += 1
        return HandResult("done", "it answers")

    async def close(self) -> None:
        pass


class RealAgent:
    def __init__(self) -> None:
        self.beside = BesideIt()
        local = HandsByKind({"restart": self.beside})
        url = "http://127.0.0.1:9"
        self.agent = Agent("a", url, Collector([]), OllamaProcesses(url), local, token="t", period_s=60.0)
        self.hands: Hands = HandsByKind({})
        self.order = action()

    async def set(self, mood: Mood) -> None:
        self.beside.mood = mood
        if mood == "is gone":
            await self.agent.stop()

    def done(self) -> int:
        return self.beside.restarted


@contextlib.asynccontextmanager
async def agent(folder: Path) -> AsyncIterator[Bench]:
    bench = RealAgent()
    bench.hands = AgentHands({"a": await bench.agent.start()}, "t")
    yield bench
    await bench.hands.close()
    await bench.agent.stop()


BENCHES = {
    "supervised process": supervised,
    "command": own_command,
    "systemd": systemd,
    "webhook": webhook,
    "Ollama API": ollama_api,
    "Kubernetes rollout": kubernetes,
    "Kubernetes scale": kubernetes_scale,
    "Kubernetes pod": kubernetes_pod,
    "agent": agent,
}
