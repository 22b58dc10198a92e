"""A real controller for the page "Cluster now": `ollamamax serve` in front of emulated nodes, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live.hands.process import plain_environment
from live.rig.processes import free_port
from twin.scenario.profiles import PROFILES

ROOT = Path(__file__).parents[2]
MODEL = "llama3.1:8b"
LIMIT_S = 60.0
LOOK_S = 0.05
END_LIMIT_S = 10.0


@dataclass
class Controller:
    """A running `serve`; `token` is what its admin API wants, if anything."""

    gateway: str
    admin: str
    token: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)  # of `serve` and of each node

    def call(self, method: str, path: str) -> dict[str, Any]:
        """Ask the admin API."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return _json(
            urllib.request.Request(self.admin + path, b"" if method == "POST" else None, headers, method=method)
        )

    def generate(self, tokens: int = 8) -> None:
        """One request of a client."""
        body = {"model": MODEL, "prompt": "why?", "stream": False, "options": {"num_predict": tokens, "seed": 1}}
        assert _json(urllib.request.Request(f"{self.gateway}/api/generate", json.dumps(body).encode()))["done"]

    def until(self, node: str, **wanted: Any) -> None:
        """Wait until the controller says so of a node."""

        def seen() -> bool:
            nodes = {each["name"]: each for each in self.call("GET", "/-/nodes")["nodes"]}
            return all(nodes[node][key] == value for key, value in wanted.items())

        _until(seen)

    def kill(self, name: str) -> None:
        """End a process without a warning."""
        self.processes[name].kill()
        self.processes[name].wait()


@contextmanager
def controlled(folder: Path, names: Sequence[str] = ("a", "b", "c"), token: str = "") -> Iterator[Controller]:
    """A controller and its nodes, until the end of the block."""
    gateway, admin = free_port(), free_port()
    controller = Controller(f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{admin}", token)
    ports = {name: free_port() for name in names}
    try:
        for name, port in ports.items():
            config = {
                "listen": f"127.0.0.1:{port}",
                "hardware": PROFILES["rtx-4090"].model_dump(),
                "models": {MODEL: {"size_gib": 5.0, "memory_gib": 6.0, "context_tokens": 4096}},
                "slots": 4,
                "preloaded": [MODEL],
            }
            file = folder / f"{name}.json"
            file.write_text(json.dumps(config))
            controller.processes[name] = _start(folder, name, "-m", "live.emulator", str(file))
        for port in ports.values():
            _until(lambda port=port: _answers(f"http://127.0.0.1:{port}/api/version"))  # type: ignore[misc]
        served = {
            "nodes": {name: f"http://127.0.0.1:{port}" for name, port in ports.items()},
            "slots_per_model": 4,
            "listen": f"127.0.0.1:{gateway}",
            "admin": f"127.0.0.1:{admin}",
        }
        if token:
            (folder / "token").write_text(f"{token}\n")
            (folder / "token").chmod(0o600)
            served["token_file"] = str(folder / "token")
        (folder / "serve.json").write_text(json.dumps(served))  # JSON is YAML
        controller.processes["serve"] = _start(folder, "serve", "-m", "ollamamax", "serve", str(folder / "serve.json"))
        _until(lambda: _answers(f"{controller.admin}/-/healthz"))
        yield controller
    finally:
        for process in reversed(controller.processes.values()):
            process.terminate()
        for process in controller.processes.values():
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**plain_environment(), "PYTHONPATH": str(ROOT), "OLLAMAMAX_COMPILED": "0"}
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _until(seen: Callable[[], bool]) -> None:
    """Real processes take real time: look until it is so."""
    until_s = time.monotonic() + LIMIT_S
    while not seen():
        assert time.monotonic() < until_s, "it is not so yet"
        time.sleep(LOOK_S)


def _answers(url: str) -> bool:
    try:
        _json(urllib.request.Request(url))
    except OSError:
        return False
    return True


def _json(request: urllib.request.Request) -> dict[str, Any]:
    with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
        answer: dict[str, Any] = json.load(response)
        return answer
