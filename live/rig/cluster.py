"""A cluster on one machine: real Ollama processes or emulated nodes, and real Toxiproxy as their network."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

from live.emulator.config import EmulatedModel
from live.hands.ollama_api import OllamaApiHands
from live.rig.components import find_or_build, version
from live.rig.emulated_node import EmulatedNode
from live.rig.errors import RigError
from live.rig.ledger import Ledger, end_leftovers
from live.rig.machine import pin, usable_cores
from live.rig.model_files import DEFAULT, ensure_models
from live.rig.node import RigNode
from live.rig.ollama_node import OllamaNode
from live.rig.toxiproxy import ToxiproxyNetwork
from twin.policy.vocabulary import Action
from twin.scenario.schema import Scenario

NodeKind: TypeAlias = Literal["real", "emulated"]
Progress: TypeAlias = Callable[[str], None]
LOAD_LIMIT_S = 120.0


class RigCluster:
    """The nodes of a scenario, behind one Toxiproxy. An async context: on leaving it everything is put back."""

    def __init__(self, scenario: Scenario, kind: NodeKind, progress: Progress) -> None:
        self.scenario = scenario
        self.kind = kind
        self.progress = progress
        self.nodes: dict[str, RigNode] = {}
        self.locks: dict[str, asyncio.Lock] = {}  # what is done to a node is done one after the other
        self.edges: dict[str, str] = {}  # node to the address that the gateway uses
        self.components: dict[str, str] = {}  # for the manifest: what ran, in which version
        cores = usable_cores()
        # The last core is for Toxiproxy, the gateway and the clients, the others are the nodes'.
        self.node_cores: Sequence[int] | None = (cores[:-1] or cores) if cores else None
        self.own_cores: Sequence[int] | None = cores[-1:] or None
        self._stack = contextlib.AsyncExitStack()
        self._network: ToxiproxyNetwork | None = None
        self.folder = Path()

    @property
    def network(self) -> ToxiproxyNetwork:
        """The running Toxiproxy."""
        assert self._network is not None, "the rig is not up"
        return self._network

    async def __aenter__(self) -> RigCluster:
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
        for line in await asyncio.to_thread(end_leftovers):
            self.progress(f"put back what an earlier run left: {line}")
        toxiproxy = await asyncio.to_thread(find_or_build, "toxiproxy-server")
        self.components["toxiproxy"] = await asyncio.to_thread(version, toxiproxy)
        self.folder = Path(tempfile.mkdtemp(prefix="ollamamax-rig-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        ledger = Ledger()
        self._stack.callback(ledger.close)
        network = ToxiproxyNetwork(server=toxiproxy, log=self.folder / "toxiproxy.log", ledger=ledger)
        self._stack.push_async_callback(network.stop)
        await network.start()
        if self.own_cores:
            pin(network.pid, self.own_cores)
        self._network = network
        make = await self._real(ledger) if self.kind == "real" else self._emulated(ledger)
        names = self.scenario.cluster.node_names()
        self.progress(f"starting {len(names)} {self.kind} nodes behind Toxiproxy")
        for index, name in enumerate(names):
            node = make(index, name)
            self.nodes[name] = node
            self.locks[name] = asyncio.Lock()
            self._stack.push_async_callback(node.stop)
        await asyncio.gather(*(node.start() for node in self.nodes.values()))
        for name, node in self.nodes.items():
            self.edges[name] = await network.add_edge(name, node.address)
        await self._preload()

    async def _real(self, ledger: Ledger) -> Callable[[int, str], RigNode]:
        ollama = await asyncio.to_thread(find_or_build, "ollama")
        self.components["ollama"] = await asyncio.to_thread(version, ollama)
        cluster = self.scenario.cluster
        models = await ensure_models(ollama, dict.fromkeys(cluster.models, DEFAULT))

        def make(index: int, name: str) -> RigNode:
            return OllamaNode(
                name,
                ollama=ollama,
                models=models,
                folder=self.folder / name,
                ledger=ledger,
                cores=[self.node_cores[index % len(self.node_cores)]] if self.node_cores else None,
                slots_per_model=cluster.slots_per_model,
                max_loaded_models=max(3, len(cluster.models)),
            )

        return make

    def _emulated(self, ledger: Ledger) -> Callable[[int, str], RigNode]:
        cluster = self.scenario.cluster
        hardware = cluster.hardware_of_nodes()
        models = {
            name: EmulatedModel(
                size_gib=cluster.size_gib(name),
                memory_gib=cluster.memory_gib(name),
                context_tokens=cluster.context_of(name),
            )
            for name in cluster.models
        }

        def make(index: int, name: str) -> RigNode:
            return EmulatedNode(
                name,
                hardware=hardware[index],
                models=models,
                folder=self.folder / name,
                ledger=ledger,
                cores=self.node_cores,
                slots_per_model=cluster.slots_per_model,
                max_queue=cluster.max_queue,
                keep_alive_s=cluster.keep_alive_s,
            )

        return make

    async def _preload(self) -> None:
        """Load the models where the scenario has them at the start."""
        hands = OllamaApiHands({name: node.address for name, node in self.nodes.items()})
        try:
            async with asyncio.TaskGroup() as group:
                for name, models in self.scenario.cluster.spec().placement.items():
                    group.create_task(self._load(hands, name, models))
        finally:
            await hands.close()

    async def _load(self, hands: OllamaApiHands, node: str, models: Sequence[str]) -> None:
        for model in models:
            order = Action(0, "load", node, model, "the scenario has it loaded", LOAD_LIMIT_S, 0.0)
            result = await asyncio.wait_for(hands.perform(order), LOAD_LIMIT_S)
            if result.status != "done":
                raise RigError(f"{model} could not be loaded on {node}: {result.detail}")

    def served_generations(self) -> dict[str, int]:
        """What each node counts itself."""
        return {name: node.served_generations() for name, node in self.nodes.items()}
