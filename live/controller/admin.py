"""The admin API, on a listener of its own.

GET  /-/healthz                            it runs (no token needed)
GET  /-/nodes                              every node: health, what its operator ordered, load, telemetry
POST /-/nodes/NAME/drain|return|restart    an operator's order
GET  /-/incidents                          what was taken for failures; whether the error budget burns
GET  /-/actions                            what was done about them, and on whose order
GET  /-/adaptation                         settings that it learns: what it does, what it has changed and why
POST /-/agents                             an agent says where it is: {"node" or "ollama", "agent"}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from aiohttp import web

from live.controller.access import guard
from live.controller.checkpoint import finite
from live.controller.driver import PolicyDriver
from live.controller.telemetry import AgentPoller
from live.gateway.hosts import Hosts
from twin.policy.health import ROUTABLE
from twin.policy.vocabulary import NodeHands, OperatorOrder, OrderKind

BODY_LIMIT_BYTES = 1 << 16


class AdminApi:
    """Shows where everything stands, and takes orders. Own it, `start` it, `stop` it."""

    def __init__(
        self,
        driver: PolicyDriver,
        addresses: Mapping[str, str],
        agents: AgentPoller,
        *,
        hands: Callable[[str], frozenset[str]],
        normalise: Callable[[str], str],
        adaptation: Callable[[], dict[str, Any]],
        token: str = "",
        hosts: Iterable[str] = (),
    ) -> None:
        """`hands`: what can be done to a node. `normalise` brings a URL into the form that `addresses` has. `adaptation`:
        where learning of settings stands.

        `hosts`: names by which it may be called where there is no token, beside its machine's.
        """
        self._driver = driver
        self._addresses = addresses
        self._agents = agents
        self._hands = hands
        self._normalise = normalise
        self._adaptation = adaptation
        self._guard = guard(token, Hosts(hosts), frozenset({"/-/healthz"}))
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen; the address. Raises OSError where that is not possible."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT_BYTES)
        app.router.add_get("/-/healthz", self._healthz)
        app.router.add_get("/-/nodes", self._nodes)
        app.router.add_post("/-/nodes/{name}/{order}", self._order)
        app.router.add_get("/-/incidents", self._incidents)
        app.router.add_get("/-/actions", self._actions)
        app.router.add_get("/-/adaptation", self._learning)
        app.router.add_post("/-/agents", self._agent)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"http://{shown}:{bound[1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    # -- showing ---------------------------------------------------------------------------------------------------

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _nodes(self, _request: web.Request) -> web.Response:
        policy = self._driver.policy
        parts = policy.snapshot().parts
        known = parts.get("nodes", {})
        return _json(
            {
                "now_s": self._driver.now(),
                "waiting": policy.waiting,
                "nodes": [self._node(name, known) for name in self._addresses],
                "incidents": [dataclasses.asdict(incident) for incident in policy.incidents],
                "policy": parts,
            }
        )

    def _node(self, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
        view = known.get(name, {})
        unsettled = [it for it in self._driver.policy.incidents if it.node == name and it.state != "closed"]
        return {
            "name": name,
            "url": self._addresses[name],
            "health": view.get("health"),
            "operator": view.get("operator", ""),
            "in_flight": view.get("in_flight", 0),
            "rising": view.get("rising", 0),
            "resident": view.get("resident", []),
            "slots": view.get("slots", {}),
            "incident": unsettled[-1].diagnosis if unsettled else None,
            "hands": view.get("hands", []),
            "agent": self._agents.agents.get(name),
            "telemetry": self._agents.latest.get(name),
        }

    async def _incidents(self, _request: web.Request) -> web.Response:
        incidents = [dataclasses.asdict(incident) for incident in self._driver.policy.incidents]
        tracker = self._driver.policy.snapshot().parts.get("tracker", {})
        burning = tracker.get("burning", "")  # in words, while the error budget burns too fast
        return _json({"now_s": self._driver.now(), "incidents": incidents, "error_budget": burning})

    async def _actions(self, _request: web.Request) -> web.Response:
        return _json({"now_s": self._driver.now(), "actions": self._driver.recent_actions})

    async def _learning(self, _request: web.Request) -> web.Response:
        return _json({"now_s": self._driver.now(), **self._adaptation()})

    # -- orders ----------------------------------------------------------------------------------------------------

    async def _order(self, request: web.Request) -> web.Response:
        name, order = request.match_info["name"], request.match_info["order"]
        if name not in self._addresses:
            return _refused(404, f"there is no node {name}; there are {', '.join(self._addresses)}")
        if order not in get_args(OrderKind):
            return _refused(404, f"there is no order {order}; there are {', '.join(get_args(OrderKind))}")
        known = self._driver.policy.snapshot().parts.get("nodes", {})
        if order == "return" and not known.get(name, {}).get("operator"):
            return _refused(409, f"{name} is not drained, so there is nothing to return")
        if order == "restart" and "restart" not in known.get(name, {}).get("hands", ()):
            return _refused(409, f"nobody can restart {name}: configure hands: {{restart: ...}}, or an agent beside it")
        warnings = _lonely(name, known) if order != "return" else []
        self._driver.observe(OperatorOrder(name, order))  # type: ignore[arg-type]  # it is one of them
        node = self._node(name, self._driver.policy.snapshot().parts.get("nodes", {}))
        return _json({"order": order, "node": node, "warnings": warnings}, 202)

    async def _agent(self, request: web.Request) -> web.Response:
        try:
            said = json.loads(await request.read())
            agent = self._normalise(str(said["agent"]))
            node = str(said.get("node") or "")
            if node not in self._addresses:
                ollama = self._normalise(str(said["ollama"]))
                node = next((name for name, url in self._addresses.items() if url == ollama), "")
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            return _refused(400, f"not what an agent says of itself: {error}")
        if not node:
            return _refused(404, "there is no node of that name or address; give the agent node: NAME as here")
        is_new = node not in self._agents.agents
        self._agents.agents[node] = agent
        if is_new:
            self._driver.observe(NodeHands(node, tuple(sorted(self._hands(node)))))
        return _json({"node": node})


def _lonely(name: str, known: Mapping[str, Any]) -> list[str]:
    """What nobody else serves: its requests will wait until another node has loaded it."""
    elsewhere: set[str] = set()
    for other, view in known.items():
        if other != name and view.get("health") in ROUTABLE:
            elsewhere.update(view.get("resident", ()))
    models = [model for model in known.get(name, {}).get("resident", ()) if model not in elsewhere]
    return [f"{model} is loaded on no other node that gets traffic" for model in models]


def _refused(status: int, error: str) -> web.Response:
    return web.json_response({"error": error}, status=status)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(finite(value), status=status)
