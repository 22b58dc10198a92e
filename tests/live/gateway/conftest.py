import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from live.controller.driver import PolicyDriver
from live.gateway.request_log import RequestLog
from live.gateway.server import Gateway
from live.gateway.settings import GatewaySettings
from live.hands.router import HandsByKind
from tests.live.gateway.doubles import NoProbes, ScriptedPolicy, StubNode
from twin.policy.model_names import ModelNames
from twin.policy.vocabulary import Route


@dataclass
class House:
    """A gateway with two stub nodes, a and b, and a policy that does as it is told."""

    policy: ScriptedPolicy
    driver: PolicyDriver
    gateway: Gateway
    nodes: dict[str, StubNode]
    url: str
    http: aiohttp.ClientSession
    logs: list[RequestLog] = field(default_factory=list)

    @property
    def a(self) -> StubNode:
        return self.nodes["a"]

    @property
    def b(self) -> StubNode:
        return self.nodes["b"]

    def routes(self, *routes: Route) -> None:
        self.policy.routes.extend(routes)

    async def post(self, path: str, body: dict[str, Any], **options: Any) -> tuple[int, bytes, Mapping[str, str]]:
        async with self.http.post(self.url + path, json=body, **options) as response:
            return response.status, await response.read(), response.headers


@pytest.fixture
async def make_house() -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            names: Sequence[str] = ("a", "b"), addresses: Mapping[str, str] | None = None, **settings: Any
        ) -> House:
            nodes = {name: StubNode() for name in names}
            for node in nodes.values():
                await node.start()
                stack.push_async_callback(node.stop)
            policy = ScriptedPolicy()
            driver = PolicyDriver(policy, NoProbes(), HandsByKind({}))
            await driver.start()
            stack.push_async_callback(driver.stop)
            logs: list[RequestLog] = []
            gateway = Gateway(
                driver,
                {name: node.address for name, node in nodes.items()} | dict(addresses or {}),
                ModelNames(["m"]),
                GatewaySettings(**{"shutdown_grace_s": 0.05, **settings}),
                logs.append,
            )
            stack.push_async_callback(gateway.stop)
            url = await gateway.start()
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return House(policy, driver, gateway, nodes, url, http, logs)

        yield make


@pytest.fixture
async def house(make_house: Any) -> House:
    made: House = await make_house()
    return made
