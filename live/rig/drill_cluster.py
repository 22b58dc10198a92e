"""What a drill needs of a cluster: nodes behind a Toxiproxy of our own, hands for the policy, and everything put back."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from live.hands.protocol import Hands
from live.rig.components import find_or_build, version
from live.rig.ledger import RIG_FOLDER, Ledger, end_leftovers
from live.rig.node import RigNode
from live.rig.toxiproxy import ToxiproxyNetwork
from twin.scenario.schema import Scenario

if TYPE_CHECKING:
    from live.rig.injection import LiveInjection

Progress: TypeAlias = Callable[[str], None]


class DrillCluster:
    """An async context: on leaving it everything is put back. Rooms of their own: a rig, or an operator's own nodes."""

    kind = ""

    def __init__(self, scenario: Scenario, progress: Progress) -> None:
        self.scenario = scenario
        self.progress = progress
        self.nodes: dict[str, RigNode] = {}
        self.locks: dict[str, asyncio.Lock] = {}  # what is done to a node is done one after the other
        self.edges: dict[str, str] = {}  # node to the address that the gateway uses
        self.components: dict[str, str] = {}  # for the manifest: what ran, in which version
        self.node_cores: list[int] | None = None
        self.own_cores: list[int] | None = None
        self.folder = Path()
        self._stack = contextlib.AsyncExitStack()
        self._network: ToxiproxyNetwork | None = None

    @property
    def network(self) -> ToxiproxyNetwork:
        """The running Toxiproxy."""
        assert self._network is not None, "the rig is not up"
        return self._network

    async def __aenter__(self) -> Self:
        """Start everything. Raises `RigError`, with nothing left running."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything, and put back what was changed."""
        await self._stack.aclose()

    async def _start(self) -> None:
        raise NotImplementedError

    async def _start_network(self) -> Ledger:
        """End what earlier rigs left, and start a Toxiproxy; the ledger of this rig."""
        for line in await asyncio.to_thread(end_leftovers):
            self.progress(f"put back what an earlier run left: {line}")
        toxiproxy = await asyncio.to_thread(find_or_build, "toxiproxy-server")
        self.components["toxiproxy"] = await asyncio.to_thread(version, toxiproxy)
        ledger = Ledger()
        self._stack.callback(ledger.close)
        # Named by its ledger, so that the next rig can tell whether its owner still lives.
        self.folder = Path(tempfile.gettempdir()) / f"{RIG_FOLDER}{ledger.token}"
        self.folder.mkdir(mode=0o700)
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        network = ToxiproxyNetwork(server=toxiproxy, log=self.folder / "toxiproxy.log", ledger=ledger)
        self._stack.push_async_callback(network.stop)
        await network.start()
        self._network = network
        return ledger

    def hands(self, injection: LiveInjection) -> Hands:
        """What carries out the policy's actions."""
        raise NotImplementedError

    async def put_back(self) -> list[str]:
        """Undo what was done to the nodes beyond their network. What could not be undone, in words."""
        return []

    def telemetry(self) -> dict[str, dict[str, float | None]]:
        """Node to what can be read of its machine. Blocks for milliseconds: not for the event loop."""
        return {name: {} for name in self.nodes}

    def served_generations(self) -> dict[str, int]:
        """What each node counts itself."""
        return {name: node.served_generations() for name, node in self.nodes.items()}
