"""The agent beside a node as a hand: it restarts the Ollama of its machine, or kills its runners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from live.controller.transport import TooLong, object_in, plain_reason, read_whole
from live.hands.protocol import HandError, HandResult
from twin.policy.vocabulary import Action

ANSWER_LIMIT_BYTES = 1 << 16
_ORDERS: dict[str, str] = {"restart": "restart", "kill_runner": "kill_runners"}


class AgentHands:
    """Asks agents; `agents` is node to the agent's URL, and may change meanwhile."""

    def __init__(self, agents: Mapping[str, str], token: str, *, connect_timeout_s: float = 5.0) -> None:
        self._agents = agents
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    def kinds(self, node: str) -> frozenset[str]:
        """What can be done to a node; an agent that has no hand for it itself says so when it is asked."""
        return frozenset(_ORDERS) if node in self._agents else frozenset()

    async def perform(self, action: Action) -> HandResult:
        """Have the node's agent restart its Ollama, or kill its runners."""
        if action.kind not in _ORDERS or action.node not in self._agents:
            raise HandError(f"{action.node} has no agent that could {action.kind} it")
        return await self.order(action.node, _ORDERS[action.kind])

    async def order(self, node: str, what: str) -> HandResult:
        """Have the node's agent do `restart` or `kill_runners`."""
        url = f"{self._agents[node]}/hands/{what}"
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.post(
                url, json={"node": node}, headers=self._headers, allow_redirects=False
            ) as response:
                answer = await read_whole(response, ANSWER_LIMIT_BYTES)
        except TooLong as error:
            raise HandError(f"{url} answered at too great a length: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise HandError(f"the agent of {node} cannot be reached: {plain_reason(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            return HandResult("unknown", f"the agent of {node} hung up: {plain_reason(error)}")
        said = object_in(answer)
        detail = str(said.get("detail") or said.get("error") or "")
        status: Any = said.get("status")
        if response.status == 200 and status in ("done", "failed"):
            return HandResult(status, detail)
        if response.status == 501:
            return HandResult("no_hand", f"the agent of {node}: {detail or f'it has no hand for {what}'}")
        return HandResult("failed", f"the agent of {node} answered {response.status}: {detail or 'no reason'}")

    async def close(self) -> None:
        """Close what is still open."""
        if self._session is not None:
            await self._session.close()
