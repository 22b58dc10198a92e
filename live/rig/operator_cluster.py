"""A drill on an operator's own nodes: our gateway and a Toxiproxy of ours stand before them, and go away afterwards.

Without more, only the path to a node is broken, in our Toxiproxy: the nodes themselves are asked for nothing but what the
scenario's load and the probes ask. With hands in the configuration and `--allow-disruption`, a fault may also use the
operator's commands (`hands: {drill: {kill_server: ...}}`) or a node's agent, and the policy may restart and load.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from live.controller.discovery import discover
from live.controller.telemetry import AgentPoller
from live.hands.agent import AgentHands
from live.hands.build import build_hands
from live.hands.command import run_command
from live.hands.config import HandsConfig
from live.hands.placeholders import filled
from live.hands.protocol import HandError, HandResult, Hands
from live.hands.router import HandsByKind
from live.rig.drill_cluster import DrillCluster, Progress
from live.rig.errors import RigError
from live.rig.injection import LiveInjection
from live.rig.toxiproxy import NetworkFault
from twin.policy.vocabulary import Action
from twin.scenario.draws import targets
from twin.scenario.faults.base import NETWORK_OPERATIONS, Fault, ForeignClients, Operation
from twin.scenario.schema import Scenario

AGENT_OPERATIONS: frozenset[Operation] = frozenset({"kill_runner"})
"""What an agent beside the node can do."""
NOT_BY_COMMAND: frozenset[Operation] = frozenset(
    {
        "slow_gpu",
        "stick_loader",
        "garble_runner",
        "expire_models",
        "foreign_clients",
        "set_condition",
        "pull_models",
    }
)
"""What no command can be told to do: it has a degree, or there is no way at all."""
UNDONE_BY: dict[Operation, Operation] = {"kill_server": "start_server", "pause_runner": "resume_runner"}
STEPS_SHOWN = 32
ANSWERS_AGAIN_S = 10.0


@dataclass(frozen=True)
class OperatorNodes:
    """The operator's nodes, and what may be done to them. Names are those of the scenario: node-0, node-1 ..."""

    urls: Mapping[str, str]
    hands: HandsConfig = field(default_factory=HandsConfig)
    own_hands: Mapping[str, HandsConfig] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    allow_disruption: bool = False

    def build(self) -> HandsByKind:
        """Who does what to them; nobody anything without permission. Raises `OperatorError` where the file of a hand's
        secret cannot be read."""
        if not self.allow_disruption:
            return HandsByKind({})
        return build_hands(self.urls, self.hands, self.own_hands, self.agents, self.token)

    def command(self, node: str, operation: Operation) -> Sequence[str] | None:
        """The operator's command for an operation on a node."""
        own = self.own_hands.get(node)
        return (own.drill.get(operation) if own is not None else None) or self.hands.drill.get(operation)

    def way(self, node: str, operation: Operation) -> str:
        """How the operation is done to a node, in words. Raises `RigError` where it may not or cannot be done."""
        if operation in NETWORK_OPERATIONS:
            return "in our Toxiproxy"
        words = self.command(node, operation) if operation not in NOT_BY_COMMAND else None
        way = f"by `{' '.join(words)}`" if words else ""
        if not way and operation in AGENT_OPERATIONS and node in self.agents:
            way = f"by its agent {self.agents[node]}"
        if not way:
            if operation in NOT_BY_COMMAND:
                raise RigError(f"{operation} cannot be done to a node of yours; use --nodes real or emulated")
            raise RigError(f"nobody can {operation} on {node}: name a command under hands: drill: in --config FILE")
        if not self.allow_disruption:
            raise RigError(f"{operation} disturbs {node} itself; say --allow-disruption")
        return way


def of_scenario(nodes: OperatorNodes) -> str:
    """What a scenario must have otherwise, as KEY=VALUE: these nodes, and what can be done to each.

    Raises `OperatorError` where the file of a hand's secret cannot be read.
    """
    hands = nodes.build()
    groups = [
        {"count": len(list(alike)), "hands": sorted(kinds)}
        for kinds, alike in itertools.groupby(nodes.urls, hands.kinds)
    ]
    return f"cluster.groups={json.dumps(groups)}"


def plan(scenario: Scenario, seed: int, nodes: OperatorNodes) -> tuple[list[str], list[str]]:
    """What will be done to which node, and what is refused; a line for each fault and each of its nodes."""
    doing, refused = [], []
    for place, fault in enumerate(scenario.faults):
        for node in targets(scenario, place, fault, seed):
            where = f"faults[{place}]: {fault.about.kind} at {node} ({nodes.urls[node]})"
            try:
                doing.append(f"{fault.at_s:g} s, {where}: {_described(fault, node, nodes)}")
            except RigError as error:
                refused.append(f"{where}: {error}")
    return doing, refused


def _described(fault: Fault, node: str, nodes: OperatorNodes) -> str:
    onset = [step for _, step in zip(range(STEPS_SHOWN), fault.onset(), strict=False)]
    operations = list(dict.fromkeys(step.operation for step in onset))
    ending = list(dict.fromkeys(step.operation for step in fault.ending()))
    begins = ", ".join(f"{operation} {nodes.way(node, operation)}" for operation in operations)
    undo = ending or [UNDONE_BY[operation] for operation in operations if operation in UNDONE_BY]
    for operation in undo:
        nodes.way(node, operation)
    if not undo:
        return begins
    ends = ", ".join(f"{operation} {nodes.way(node, operation)}" for operation in undo)
    when = f"at {fault.at_s + fault.duration_s:g} s" if fault.duration_s is not None else "at the drill's end"
    return f"{begins}; put back {when}: {ends}"


def load_in_words(scenario: Scenario) -> str:
    """What the drill's clients will send."""
    workload = scenario.for_live().workload
    rate = getattr(workload.arrivals, "rate_rps", None)
    count = f"about {rate * scenario.end_of_load_s:.0f} requests" if rate else "requests"
    models = ", ".join(scenario.cluster.models)
    return f"{count} to {models} over {scenario.end_of_load_s:g} s, through a gateway on 127.0.0.1"


class OperatorNode:
    """A RigNode that is not ours: its life and its faults are in the operator's commands, or its agent's."""

    refused_hardware = "the machine is its operator's"

    def __init__(self, name: str, url: str, nodes: OperatorNodes, agent: AgentHands | None) -> None:
        self.name = name
        self.address = url
        self.down = False  # we took its server down, and nobody has started it again
        self.paused = False
        self._nodes = nodes
        self._agent = agent

    async def _do(self, operation: Operation) -> None:
        self._nodes.way(self.name, operation)  # refused once more: what is not planned is never done
        words = self._nodes.command(self.name, operation)
        try:
            if words is None:
                assert self._agent is not None, "nodes.way found an agent"
                result = await self._agent.order(self.name, "kill_runners")
                if result.status != "done":
                    raise RigError(f"{self.name}: {result.detail}")
                return
            order = Action(0, "restart", self.name, "", "", 0.0, 0.0)
            status, said = await run_command([filled(word, order, self.address) for word in words])
        except HandError as error:
            raise RigError(f"{self.name}: {operation}: {error}") from error
        if status != 0:
            raise RigError(f"{self.name}: the command for {operation} ended with status {status}: {said}")

    async def start(self) -> None:
        """Start its server by the operator's command."""
        await self._do("start_server")
        self.down = False

    async def stop(self) -> None:
        """Nothing: it is not ours to stop."""

    async def restart(self) -> None:
        """Nothing: the operator's hand does it."""

    def server_alive(self) -> bool:
        """Whether we have not taken it down."""
        return not self.down

    def runner_pids(self) -> Sequence[int]:
        """Not seen from here."""
        return ()

    def pids(self) -> Sequence[int]:
        """Not seen from here."""
        return ()

    def served_generations(self) -> int:
        """Not seen from here."""
        return 0

    async def kill_server(self) -> None:
        """Take its server down by the operator's command."""
        self.down = True
        await self._do("kill_server")

    async def kill_runner(self) -> None:
        """Kill its runners by the operator's command, or its agent's."""
        await self._do("kill_runner")

    async def pause_runner(self) -> None:
        """Pause its runners by the operator's command."""
        self.paused = True
        await self._do("pause_runner")

    async def resume_runner(self) -> None:
        """Let them go on by the operator's command."""
        await self._do("resume_runner")
        self.paused = False

    async def stick_loader(self) -> None:
        """Raises RigError: it cannot be done."""
        await self._do("stick_loader")

    async def garble_runner(self, share: float) -> None:
        """Raises RigError: it cannot be done."""
        await self._do("garble_runner")

    async def expire_models(self) -> None:
        """Raises RigError: it is not done to what others use."""
        await self._do("expire_models")

    async def foreign_clients(self, clients: ForeignClients, model: str, seed: int) -> None:
        """Raises RigError: nobody but the drill's own load is sent there."""
        await self._do("foreign_clients")

    async def stop_foreign_clients(self) -> None:
        """Nothing: there were none."""

    async def set_condition(self, name: str, value: float) -> None:
        """Raises RigError: it cannot be done."""
        await self._do("set_condition")

    async def throttle(self, core_share: float) -> None:
        """Raises RigError: it cannot be done."""
        await self._do("slow_gpu")

    async def unthrottle(self) -> None:
        """Nothing: it was never throttled."""

    async def limit_memory(self, limit_bytes: int) -> None:
        """Raises RigError: it cannot be done."""
        raise RigError(f"the memory of {self.name} is its operator's; use --nodes real")

    async def unlimit_memory(self) -> None:
        """Nothing: it was never limited."""

    async def freeze(self) -> None:
        """Raises RigError: it cannot be done."""
        raise RigError(f"{self.name} is its operator's and is not frozen; use --nodes real")

    async def thaw(self) -> None:
        """Nothing: it was never frozen."""


class OperatorHands:
    """The hands that may be used; what they do is told to the rest of the drill."""

    def __init__(self, cluster: OperatorCluster, injection: LiveInjection, built: HandsByKind) -> None:
        self._cluster = cluster
        self._injection = injection
        self._built = built

    async def perform(self, action: Action) -> HandResult:
        """Carry it out, if there is a hand for it."""
        result = await self._built.perform(action)
        if result.status == "done" and action.kind == "restart":
            node = self._cluster.nodes[action.node]
            assert isinstance(node, OperatorNode)
            node.down = False
            await self._cluster.network.restore(action.node, NetworkFault.REFUSE)
            await self._injection.restarted(action.node)
        elif result.status == "done" and action.kind == "kill_runner":
            await self._injection.runners_killed(action.node)
        elif result.status == "done" and action.kind == "load":
            self._cluster.note_load(action.node, action.model)
        return result

    async def close(self) -> None:
        """Let go of connections."""
        await self._built.close()


class OperatorCluster(DrillCluster):
    """The operator's nodes behind a Toxiproxy of ours."""

    kind = "operator"

    def __init__(self, scenario: Scenario, nodes: OperatorNodes, progress: Progress) -> None:
        super().__init__(scenario, progress)
        self.operator = nodes
        self._loaded_before: dict[str, set[str]] = {}
        self._we_loaded: set[tuple[str, str]] = set()
        self._poller = AgentPoller(dict(nodes.agents), nodes.token, lambda sample: None, period_s=1.0)

    async def _start(self) -> None:
        await self._look_at_nodes()
        await self._start_network()
        agent = AgentHands(self.operator.agents, self.operator.token) if self.operator.agents else None
        if agent is not None:
            self._stack.push_async_callback(agent.close)
            self._stack.push_async_callback(self._poller.stop)
            self._poller.start()
        for name, url in self.operator.urls.items():
            self.nodes[name] = OperatorNode(name, url, self.operator, agent)
            self.locks[name] = asyncio.Lock()
            self.edges[name] = await self.network.add_edge(name, url)

    async def _look_at_nodes(self) -> None:
        """Every node must be well before it is drilled, and have the models that will be asked for."""
        for name, url in self.operator.urls.items():
            if not url.startswith("http://"):
                raise RigError(f"{name} ({url}): Toxiproxy cannot stand before TLS; give the node's http:// address")
        for report in await discover(self.operator.urls):
            url = self.operator.urls[report.node]
            if report.problem:
                raise RigError(f"{report.node} ({url}) is not well before the drill: {report.problem}")
            missing = sorted(set(self.scenario.cluster.models) - set(report.stored))
            if missing:
                raise RigError(
                    f"{report.node} ({url}) does not have {missing[0]}; pull it there, leave the node out, "
                    "or name your models with --set cluster.models=..."
                )
            self._loaded_before[report.node] = set(report.loaded)

    def hands(self, injection: LiveInjection) -> Hands:
        """What the operator has configured, if it may be used."""
        return OperatorHands(self, injection, self.operator.build())

    def note_load(self, node: str, model: str) -> None:
        """The policy has loaded a model; it is let go at the end, if it was not there before."""
        if model not in self._loaded_before[node]:
            self._we_loaded.add((node, model))

    def telemetry(self) -> dict[str, dict[str, float | None]]:
        """What the agents say, where there are any."""
        return {name: dict(self._poller.latest.get(name, {})) for name in self.nodes}

    async def put_back(self) -> list[str]:
        """Start what we took down, resume what we paused, let go what was loaded for us; then look whether all is well."""
        problems: list[str] = []
        for node in self.nodes.values():
            assert isinstance(node, OperatorNode)
            for wrong, undo in ((node.down, node.start), (node.paused, node.resume_runner)):
                if wrong:
                    try:
                        await undo()
                    except RigError as error:
                        problems.append(str(error))
        built = build_hands(self.operator.urls, HandsConfig(), {}, {}, "")
        for name, model in sorted(self._we_loaded):
            order = Action(0, "unload", name, model, "the drill is over", 0.0, 0.0)
            try:
                async with asyncio.timeout(ANSWERS_AGAIN_S):
                    result = await built.perform(order)
                if result.status != "done":
                    problems.append(f"{model} stays loaded on {name}: {result.detail}")
            except TimeoutError:
                problems.append(f"{model} stays loaded on {name}: no answer within {ANSWERS_AGAIN_S:g} s")
        await built.close()
        return problems + await self._not_well()

    async def _not_well(self) -> list[str]:
        """The nodes that answered before the drill and do not now, each asked for a while."""
        until_s = time.monotonic() + ANSWERS_AGAIN_S
        while True:
            unwell = [report for report in await discover(self.operator.urls) if report.problem]
            if not unwell or time.monotonic() >= until_s:
                return [f"{report.node} is not well after the drill: {report.problem}" for report in unwell]
            await asyncio.sleep(1.0)
