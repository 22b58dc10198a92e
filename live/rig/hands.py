"""The hands of a rig: restart a node's process or kill its runners; load and unload through Ollama's own API."""

from __future__ import annotations

import asyncio

from live.hands.ollama_api import OllamaApiHands
from live.hands.protocol import HandError, HandResult
from live.rig.drill_cluster import DrillCluster
from live.rig.errors import RigError
from live.rig.injection import LiveInjection
from live.rig.toxiproxy import NetworkFault
from twin.policy.vocabulary import Action

UNREACHABLE_S = 5.0
"""Time after which an order to an agent that cannot be reached has failed; the same as in the twin."""


class RigHands:
    """What an agent beside each node would do."""

    def __init__(self, cluster: DrillCluster, injection: LiveInjection) -> None:
        self._cluster = cluster
        self._injection = injection
        self._api = OllamaApiHands(cluster.edges)

    async def perform(self, action: Action) -> HandResult:
        """Carry out a restart, a kill of the runners, a load or an unload."""
        if action.kind not in ("restart", "kill_runner"):
            return await self._api.perform(action)
        if not self._injection.reachable(action.node):
            # On one machine the process could be restarted all the same; on the cluster that it stands for, not.
            await asyncio.sleep(UNREACHABLE_S)
            raise HandError("the node's agent cannot be reached")
        if action.kind == "kill_runner":
            return await self._kill_runner(action.node)
        async with self._cluster.locks[action.node]:
            await self._cluster.nodes[action.node].restart()
            await self._cluster.network.restore(action.node, NetworkFault.REFUSE)
            await self._injection.restarted(action.node)
        return HandResult("done", "the server answers")

    async def _kill_runner(self, node: str) -> HandResult:
        async with self._cluster.locks[node]:
            try:
                await self._cluster.nodes[node].kill_runner()
            except RigError as error:
                raise HandError(str(error)) from error
            await self._injection.runners_killed(node)
        return HandResult("done", "killed the runners")

    async def close(self) -> None:
        """Let go of connections."""
        await self._api.close()
