"""The agent's HTTP: the last sample, and the hands.

GET  /healthz             it runs (no token needed)
GET  /telemetry           {"node", "ollama", "age_s", "period_s", "values": {COLUMN: number or null}}
POST /hands/restart       restart the Ollama of this machine
POST /hands/kill_runners  SIGKILL to every runner, also to those that outlived their server; Ollama loads the models again

An order may say for which node it is ({"node"}). An agent that has a name, of its own or from the controller that it found
by the address of its Ollama, carries out none that is for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import time
from urllib.parse import urlsplit

import aiohttp
import psutil
import structlog
from aiohttp import web

from live.agent.ollama import OllamaProcesses
from live.agent.sources import Collector, Values
from live.controller.access import guard
from live.controller.transport import object_in, plain_reason
from live.gateway.hosts import Hosts
from live.hands.protocol import HandError
from live.hands.router import HandsByKind
from twin.policy.vocabulary import Action

_log = structlog.get_logger()

RESTART_LIMIT_S = 120.0
ANNOUNCE_PERIOD_S = 10.0
ANNOUNCE_LIMIT_S = 5.0
UNNAMED = "this-node"
"""What an agent calls its node where nobody has given it a name."""


class Agent:
    """Samples, and answers. Own it, `start` it, `stop` it."""

    def __init__(
        self,
        node: str,
        ollama: str,
        collector: Collector,
        processes: OllamaProcesses,
        hands: HandsByKind,
        *,
        token: str = "",
        period_s: float = 1.0,
    ) -> None:
        self._node = node
        self.name = "" if node == UNNAMED else node
        """By which a controller knows it; empty: not known yet."""
        self._ollama = ollama
        self._collector = collector
        self._processes = processes
        self._hands = hands
        self._token = token
        self._period_s = period_s
        self._url = ""
        self._values: Values = {}
        self._sampled_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._restarting = asyncio.Lock()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Take a first sample and listen; the address. Raises OSError where that is not possible."""
        await self._sample()
        app = web.Application(
            middlewares=[guard(self._token, Hosts(), frozenset({"/healthz"}))], client_max_size=1 << 16
        )
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/telemetry", self._telemetry)
        app.router.add_post("/hands/restart", self._restart)
        app.router.add_post("/hands/kill_runners", self._kill_runners)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0]
        self._tasks.append(asyncio.create_task(self._keep_sampling(), name="telemetry"))
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self._url = f"http://{shown}:{bound[1]}"
        return self._url

    def announce(self, controller: str, advertise: str | None = None) -> None:
        """Tell a controller again and again where this agent is: there, or where it listens. It has been started."""
        self._tasks.append(asyncio.create_task(self._keep_announcing(controller, advertise), name="announce"))

    async def stop(self) -> None:
        """Stop listening and sampling."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    # -- sampling --------------------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        self._values = await self._collector.sample()
        self._sampled_s = time.monotonic()

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            await self._sample()

    async def _keep_announcing(self, controller: str, advertise: str | None) -> None:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        said = ""
        timeout = aiohttp.ClientTimeout(total=ANNOUNCE_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            while True:
                try:
                    agent = advertise or await asyncio.to_thread(reachable, self._url, controller)
                    body = {"node": self.name, "ollama": self._ollama, "agent": agent}
                    async with session.post(f"{controller}/-/agents", json=body, allow_redirects=False) as response:
                        answer = (await response.text())[:300]
                        outcome = "" if response.status == 200 else f"{response.status}: {answer}"
                    if not outcome:
                        self.name = self.name or _name_in(answer)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    outcome = plain_reason(error)
                if outcome != said:
                    said = outcome
                    _log.warning(
                        "controller_does_not_take_the_agent", controller=controller, why=outcome or "it does now"
                    )
                await asyncio.sleep(ANNOUNCE_PERIOD_S)

    # -- answering -------------------------------------------------------------------------------------------------

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _telemetry(self, _request: web.Request) -> web.Response:
        age_s = round(time.monotonic() - self._sampled_s, 3)
        about = {"node": self.name, "ollama": self._ollama, "age_s": age_s, "period_s": self._period_s}
        return web.json_response({**about, "values": self._values})

    async def _refuses(self, request: web.Request) -> web.Response | None:
        """The answer to an order that is for another node."""
        meant = _name_in(await request.text())
        if not meant or not self.name or meant == self.name:
            return None
        error = f"this is the agent of {self.name}, not of {meant}: give each node the address of its own agent"
        return web.json_response({"error": error}, status=409)

    async def _restart(self, request: web.Request) -> web.Response:
        if (refusal := await self._refuses(request)) is not None:
            return refusal
        if self._hands.hand("restart", self._node) is None:
            error = "this agent has no hand for a restart; configure hands: {restart: ...} there"
            return web.json_response({"error": error}, status=501)
        if self._restarting.locked():
            return web.json_response({"status": "failed", "detail": "a restart is under way already"})
        async with self._restarting:
            action = Action(0, "restart", self._node, "", "the controller ordered it", RESTART_LIMIT_S, 0.0)
            try:
                async with asyncio.timeout(RESTART_LIMIT_S):
                    result = await self._hands.perform(action)
                status, detail = result.status, result.detail
            except TimeoutError:
                status, detail = "failed", f"no result within {RESTART_LIMIT_S:g} s"
            except HandError as error:
                status, detail = "failed", plain_reason(error)
        _log.info("restart", status=status, detail=detail)
        return web.json_response({"status": status, "detail": detail})

    async def _kill_runners(self, request: web.Request) -> web.Response:
        if (refusal := await self._refuses(request)) is not None:
            return refusal
        killed, orphans = await asyncio.to_thread(self._kill)
        _log.info("kill_runners", killed=killed, orphans=orphans)
        if not killed:
            return web.json_response({"status": "failed", "detail": "no runner is seen: no model is loaded"})
        detail = f"killed {killed} runners" + (f", {orphans} of them without a server" if orphans else "")
        return web.json_response({"status": "done", "detail": detail})

    def _kill(self) -> tuple[int, int]:
        """How many runners were killed, and how many of them had outlived their server."""
        killed = orphaned = 0
        orphans = self._processes.orphans()
        for runner in [*self._processes.runners(), *orphans]:
            with contextlib.suppress(psutil.NoSuchProcess):
                runner.send_signal(signal.SIGKILL)
                killed += 1
                orphaned += runner in orphans
        return killed, orphaned


def reachable(url: str, controller: str) -> str:
    """Where a controller reaches who listens there: "everywhere" is no address for anybody else, so then it is the one from
    which this machine sends to the controller. Raises OSError where there is no way to it."""
    parts, there = urlsplit(url), urlsplit(controller)
    if not ipaddress.ip_address(parts.hostname or "").is_unspecified:
        return url
    [family, _, _, _, address], *_ = socket.getaddrinfo(there.hostname, there.port or 80, type=socket.SOCK_DGRAM)
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect(address)  # sends nothing: it only chooses the way
        own = way.getsockname()[0]
    return f"http://{f'[{own}]' if ':' in own else own}:{parts.port}"


def _name_in(text: str) -> str:
    """The node that an answer or an order names; empty where it names none."""
    name = object_in(text).get("node")
    return name if isinstance(name, str) else ""
