"""A running `serve` learns a setting: seen, tried in the twin, taken, watched, taken back. On emulated nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live.controller.adapting import Adapting
from live.gateway.config import ServeConfig
from live.rig.processes import free_port
from live.serve import run
from tests.live.controller.test_admin import MODEL, emulator
from tests.live.controller.test_look_ahead import PROFILE

BURST = 30
SLOTS = 4
NAMES = ("a", "b", "c")


class Served:
    """A running `serve` whose intervals end when the test says so."""

    def __init__(self, gateway: str, admin: str, http: aiohttp.ClientSession, intervals: asyncio.Queue[None]) -> None:
        self.gateway = gateway
        self.admin = admin
        self.http = http
        self.intervals = intervals

    async def call(self, path: str) -> dict[str, Any]:
        async with self.http.get(self.admin + path) as response:
            assert response.status == 200
            answer: dict[str, Any] = await response.json()
            return answer

    async def burst(self, requests: int) -> int:
        """So many requests at once; how many were answered, and not turned away."""
        body = {"model": MODEL, "prompt": "why?", "stream": False, "options": {"num_predict": 10, "seed": 1}}

        async def ask() -> bool:
            async with self.http.post(f"{self.gateway}/api/generate", json=body) as response:
                await response.read()
                assert response.status in (200, 503)
                return response.status == 200

        return sum(await asyncio.gather(*(ask() for _ in range(requests))))

    async def interval_ends(self, phase: str) -> dict[str, Any]:
        """What the admin API says of adaptation once it has come to that phase."""
        self.intervals.put_nowait(None)
        async with asyncio.timeout(240):
            while True:
                state = await self.call("/-/adaptation")
                assert state["live"], state
                if state["phase"] == phase:
                    return state
                await asyncio.sleep(0.05)

    async def changes(self) -> list[tuple[str, str]]:
        said = await self.call("/-/actions")
        return [(it["status"], it["reason"]) for it in said["actions"] if it["kind"] == "set"]


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    intervals: asyncio.Queue[None] = asyncio.Queue()

    async def interval(_: Adapting) -> None:
        await intervals.get()

    monkeypatch.setattr(Adapting, "_interval", interval)
    calibration = tmp_path / "measured.yaml"
    calibration.write_text(json.dumps(PROFILE))
    ports = {name: free_port() for name in NAMES}
    nodes = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = ServeConfig.model_validate(
        {
            "nodes": nodes,
            "slots_per_model": SLOTS,
            "listen": listen,
            "admin": admin,
            "calibration": str(calibration),
            "policy": {"overrides": {"config_adaptation.live": True, "admission.queue_max": 1}},
        }
    )
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        for name in NAMES:
            process = emulator(name, ports[name], tmp_path)
            stack.push_async_callback(process.kill)
            await process.start(f"{nodes[name]}/api/version", 40)
        serving = asyncio.create_task(run(config, stop))
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://{listen}/-/readyz") as response:
                        if response.status == 200:
                            break
                assert not serving.done(), serving.exception()
                await asyncio.sleep(0.02)
        yield Served(f"http://{listen}", f"http://{admin}", http, intervals)
        stop.set()
        assert await serving == 0


async def test_a_setting_that_is_better_in_the_twin_is_taken_and_taken_back_when_more_goes_wrong(
    served: Served,
) -> None:
    state = await served.call("/-/adaptation")
    assert (state["live"], state["phase"], state["changed"], state["history"]) == (True, "idle", {}, [])
    answered = await served.burst(BURST)
    assert SLOTS * len(NAMES) <= answered < BURST, "the others were turned away from a queue of one"
    await asyncio.sleep(3.0)
    await served.burst(BURST)

    state = await served.interval_ends("watching")
    assert state["changed"] == {"admission.queue_max": 4}
    assert "admission.queue_max 1 -> 4, because requests were turned away from a full queue" in state["history"][-1]
    assert "in 8 paired runs of the recent load -" in state["history"][-1], "tried in the twin, and fewer were bad"
    ((status, reason),) = await served.changes()
    assert status == "done"
    assert reason == state["history"][-1].replace(", because ", ": "), "the action has the evidence"

    await served.burst(4 * BURST)
    state = await served.interval_ends("idle")
    assert state["changed"] == {}
    assert "admission.queue_max 4 -> 1, rolled back" in state["history"][-1]
    assert [status for status, _ in await served.changes()] == ["done", "done"]
