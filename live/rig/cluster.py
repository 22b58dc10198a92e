"""A cluster on one machine: real Ollama processes or emulated nodes, and real Toxiproxy as their network."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import psutil

from live.controller.discovery import BYTES_PER_GIB
from live.emulator.config import EmulatedModel
from live.hands.ollama_api import OllamaApiHands
from live.hands.protocol import Hands
from live.hands.router import HandsByKind
from live.rig.components import find_or_build, version
from live.rig.drill_cluster import DrillCluster, Progress
from live.rig.emulated_node import EmulatedNode
from live.rig.errors import RigError
from live.rig.hands import RigHands
from live.rig.injection import LiveInjection
from live.rig.ledger import Ledger
from live.rig.machine import pin, usable_cores
from live.rig.model_files import DEFAULT, EMBEDDING, ModelSize, ensure_models
from live.rig.node import RigNode
from live.rig.ollama_node import OllamaNode
from twin.policy.vocabulary import Action, ActionKind
from twin.scenario.schema import Cluster, Scenario

NodeKind: TypeAlias = Literal["real", "emulated"]
LOAD_LIMIT_S = 120.0


def model_sizes(cluster: Cluster) -> dict[str, ModelSize]:
    """The models as files for real nodes, each with weights of its own: Ollama runs two names of one file in one runner,
    and tells of the first alone that it is loaded."""
    texts = [name for name in sorted(cluster.models) if not cluster.is_embedding(name)]
    others = [name for name in sorted(cluster.models) if cluster.is_embedding(name)]
    return {
        name: replace(size, seed=size.seed + place)
        for size, names in ((DEFAULT, texts), (EMBEDDING, others))
        for place, name in enumerate(names)
    }


class RigCluster(DrillCluster):
    """The nodes of a scenario as processes of this machine, behind one Toxiproxy."""

    def __init__(self, scenario: Scenario, kind: NodeKind, progress: Progress) -> None:
        super().__init__(scenario, progress)
        self.kind = kind
        cores = usable_cores()
        # The last core is for Toxiproxy, the gateway and the clients, the others are the nodes'.
        self.node_cores = (cores[:-1] or cores) if cores else None
        self.own_cores = cores[-1:] or None
        self._used_s: dict[str, float] = {}
        self._looked_s = 0.0

    async def _start(self) -> None:
        ledger = await self._start_network()
        if self.own_cores:
            pin(self.network.pid, self.own_cores)
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
            self.edges[name] = await self.network.add_edge(name, node.address)
        await self._preload()

    def hands(self, injection: LiveInjection) -> HandsByKind:
        """What an agent beside each node would do, as far as the scenario has hands for it."""
        rig = RigHands(self, injection)
        cluster = self.scenario.cluster
        by_node: dict[str, dict[ActionKind, Hands]] = {
            name: dict.fromkeys(kinds, rig)
            for name, kinds in zip(cluster.node_names(), cluster.hands_of_nodes(), strict=True)
        }
        return HandsByKind({}, by_node)

    def telemetry(self) -> dict[str, dict[str, float | None]]:
        """What the processes of each node use. A node that is down has none; a rate needs two looks."""
        now_s = time.monotonic()
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        found: dict[str, dict[str, float | None]] = {}
        for name, node in self.nodes.items():
            used_s, rss, processes, files = _usage(node.pids())
            before_s = self._used_s.get(name)
            self._used_s[name] = used_s
            found[name] = {
                # A new process starts from 0.
                "processor_utilisation": None if before_s is None else max(0.0, used_s - before_s) / passed_s,
                "ollama_processes": float(processes),
                "ollama_rss_gib": rss / BYTES_PER_GIB if processes else None,
                "open_files": float(files) if processes else None,
            }
        return found

    async def _real(self, ledger: Ledger) -> Callable[[int, str], RigNode]:
        ollama = await asyncio.to_thread(find_or_build, "ollama")
        self.components["ollama"] = await asyncio.to_thread(version, ollama)
        cluster = self.scenario.cluster
        models = await ensure_models(ollama, model_sizes(cluster))
        cores = self.node_cores or [0]
        each = math.ceil(len(cluster.node_names()) / len(cores))  # neighbours share a core, as in `cluster.hosts`

        def make(index: int, name: str) -> RigNode:
            return OllamaNode(
                name,
                ollama=ollama,
                models=models,
                folder=self.folder / name,
                ledger=ledger,
                cores=[cores[index // each]] if self.node_cores else None,
                slots_per_model=cluster.slots_per_model,
                max_loaded_models=max(3, len(cluster.models)),
                keep_alive_s=cluster.keep_alive_s,
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
                embedding=cluster.is_embedding(name),
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
        addresses = {name: node.address for name, node in self.nodes.items()}
        hands = OllamaApiHands(addresses, keep_alive_s=self.scenario.cluster.keep_alive_s)
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


def _usage(pids: Sequence[int]) -> tuple[float, int, int, int]:
    """Processor time, resident bytes and number of these processes, and the open files of the first: the server."""
    used_s, rss, processes, files = 0.0, 0, 0, 0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it died meanwhile
            process = psutil.Process(pid)
            times = process.cpu_times()
            used_s += times.user + times.system
            rss += process.memory_info().rss
            files = files or process.num_fds()
            processes += 1
    return used_s, rss, processes, files
