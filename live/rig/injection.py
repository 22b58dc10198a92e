"""Faults done to the nodes and the network of a rig, and the record of what was really done and when."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from live.rig.drill_cluster import DrillCluster
from live.rig.errors import RigError
from live.rig.model_folder import CONDITIONS
from live.rig.network_steps import NOT_LIVE as NOT_BY_TOXIPROXY
from live.rig.network_steps import NetworkSteps
from live.rig.pulls import pull
from live.rig.toxiproxy import NetworkFault
from twin.scenario.active_fault import ActiveFault
from twin.scenario.draws import strikes
from twin.scenario.faults.base import NETWORK_OPERATIONS, Operation, Step
from twin.scenario.schema import Scenario
from twin.sim.conditions import Conditions

_log = structlog.get_logger()

NOT_LIVE: frozenset[Operation] = NOT_BY_TOXIPROXY
"""Operations that neither kind of node can have done to it."""

NOT_REAL: frozenset[Operation] = frozenset({"stick_loader", "garble_runner", "pull_models"})
"""Operations that no signal, cgroup or network can do to a real node."""


def check_possible(scenario: Scenario, kind: str) -> None:
    """Raises `RigError` where the scenario has a fault that cannot be done to such nodes."""
    gateways = len(scenario.cluster.gateway_names())
    if gateways > 1:
        raise RigError(f"the rig has one gateway, not {gateways}; use --world twin, or --set cluster.gateways=1")
    for place, fault in enumerate(scenario.faults):
        name = f"faults[{place}]: {fault.about.kind}"
        if fault.about.part != "node":
            raise RigError(f"{name} is a fault of the {fault.about.part}, which are real here; use --world twin")
        if kind == "real" and fault.lead_s:
            raise RigError(f"{name}: real nodes show no signs at will; leave lead_s away, or use --nodes emulated")
        steps = list(_first(fault.onset())) + list(_first(fault.ending()))
        if any(step.operation in NOT_LIVE for step in steps):
            raise RigError(f"{name} cannot be done to {kind} nodes; use --world twin")
        own_models = any(step.foreign is not None and step.foreign.own_models != "none" for step in steps)
        if kind == "real" and (own_models or any(not_real(step) for step in steps)):
            raise RigError(f"{name} cannot be done to real nodes; use --nodes emulated, or --world twin")


def _first(steps: Iterator[Step], count: int = 32) -> Iterator[Step]:
    for _, step in zip(range(count), steps, strict=False):
        yield step


def not_real(step: Step) -> bool:
    """Whether no process, cgroup, file or proxy of a real node can do it."""
    return step.operation in NOT_REAL or (step.operation == "set_condition" and step.condition not in CONDITIONS)


LOOK_AGAIN_S = 0.005
"""For the midst of an answer, where a fault waits for it."""


def _no_clock() -> float:
    return math.nan


class LiveInjection:
    """Performs the steps of the scenario's faults on a running rig."""

    def __init__(self, cluster: DrillCluster, scenario: Scenario, seed: int) -> None:
        self.cluster = cluster
        self.scenario = scenario
        self.seed = seed
        self.now: Callable[[], float] = _no_clock
        self._answers: Callable[[str], bool] = lambda node: False
        self.faults = [
            ActiveFault(place, fault, node, struck)
            for place, fault in enumerate(scenario.faults)
            for node, struck in strikes(scenario, place, fault, seed)
        ]
        self.served_at_injection: dict[str, int] = {}
        self._conditions = {node: Conditions() for node in cluster.nodes}
        self._pulls: set[asyncio.Task[None]] = set()
        self._crowded: set[ActiveFault] = set()  # those whose foreign clients are at their node
        self._slowed: set[str] = set()
        self._paused: set[str] = set()
        self.network = NetworkSteps(cluster.network, cluster.nodes)

    async def run(self, now: Callable[[], float], answers: Callable[[str], bool]) -> None:
        """Do every fault at its time by the run's clock. `answers`: whether a node is in the midst of an answer.

        Raises `RigError` where a fault could not be done.
        """
        self.now = now
        self._answers = answers
        async with asyncio.TaskGroup() as group:
            for active in self.faults:
                group.create_task(self._one(active))

    async def _one(self, active: ActiveFault) -> None:
        if active.fault.lead_s and not await self._came_after_signs(active):
            return
        await self._until(active.fault.at_s)
        while active.fault.in_answer and not self._answers(active.node):
            if self.now() >= self.scenario.end_of_load_s:
                return
            await asyncio.sleep(LOOK_AGAIN_S)
        active.begin(self.now())
        self.served_at_injection[active.node] = self.cluster.nodes[active.node].served_generations()
        _log.info("fault", kind=active.fault.about.kind, node=active.node)
        async with asyncio.TaskGroup() as group:
            onset = group.create_task(self._onset(active))
            if active.fault.duration_s is not None:
                await self._until(active.armed_s + active.fault.duration_s)
                onset.cancel()
                if active.active:
                    active.end(self.now(), "schedule")
                    for step in active.fault.ending():
                        await self._perform(active, step)
                    await self._withdraw_in_turn(active)

    async def _came_after_signs(self, active: ActiveFault) -> bool:
        """Show the signs; whether the fault then comes."""
        fault = active.fault
        await self._until(fault.at_s - fault.lead_s)
        active.signs_s = self.now()
        for step in fault.signs():
            await self._until(min(active.signs_s + step.after_s, fault.at_s))
            if not active.showing or self.now() >= fault.at_s:
                break
            await self._perform(active, step)
        await self._until(fault.at_s)
        if active.showing:
            active.end_signs(self.now(), "nothing" if fault.comes_to_nothing else "failed")
        if fault.comes_to_nothing:
            await self._withdraw_in_turn(active)
        return active.signs_outcome == "failed"

    async def _withdraw_in_turn(self, active: ActiveFault) -> None:
        """The same, when nobody restarts the node just now."""
        async with self.cluster.locks[active.node]:
            await self._withdraw(active)

    async def _withdraw(self, active: ActiveFault) -> None:
        """What the fault set is as it was. The node's lock is held."""
        if active in self._crowded:
            self._crowded.remove(active)
            await self.cluster.nodes[active.node].stop_foreign_clients()
        conditions = self._conditions[active.node]
        for name in conditions.withdraw(active):
            await self.cluster.nodes[active.node].set_condition(name, conditions.values[name])

    async def _onset(self, active: ActiveFault) -> None:
        for step in active.fault.onset():
            await self._until(active.armed_s + step.after_s)
            if not active.active:
                return
            await self._perform(active, step)
        if active.fault.is_instant():
            active.end(self.now(), "schedule")

    async def _until(self, time_s: float) -> None:
        await asyncio.sleep(max(0.0, time_s - self.now()))

    async def _perform(self, active: ActiveFault, step: Step) -> None:
        async with self.cluster.locks[active.node]:
            remark = await self._do(active, step)
        active.note(step, remark)

    async def _do(self, active: ActiveFault, step: Step) -> str:
        """One primitive operation; what there is to remark on it."""
        name = active.node
        node = self.cluster.nodes[name]
        network = self.cluster.network
        remark = ""
        if step.operation == "kill_server":
            # Toxiproxy would accept and hang up at once, where a real network refuses.
            await node.kill_server()
            await network.refuse(name)
        elif step.operation == "start_server":
            await node.start()
            if not self.network.refuses(name):
                await network.restore(name, NetworkFault.REFUSE)
        elif step.operation == "kill_runner":
            remark = await self._if_loaded(node.kill_runner)
        elif step.operation == "pause_runner":
            remark = await self._if_loaded(node.pause_runner)
            self._paused.add(name)
        elif step.operation == "resume_runner":
            await node.resume_runner()
            self._paused.discard(name)
        elif step.operation in NETWORK_OPERATIONS:
            await self.network.perform(active.place, name, step)
        elif step.operation == "slow_gpu":
            if step.argument == 1.0:
                await node.unthrottle()
                self._slowed.discard(name)
            else:
                await node.throttle(1.0 / step.argument)
                self._slowed.add(name)
        elif step.operation == "stick_loader":
            await node.stick_loader()
        elif step.operation == "garble_runner":
            await node.garble_runner(step.argument)
        elif step.operation == "pull_models":
            for model in self.scenario.cluster.models:
                self._pulls.add(asyncio.create_task(self._pull(active, model), name=f"pull of {model} on {name}"))
        elif step.operation == "expire_models":
            await node.expire_models()
        elif step.operation == "foreign_clients":
            assert step.foreign is not None
            first = next(iter(self.scenario.cluster.models))
            await node.foreign_clients(step.foreign, first, self.seed + active.place)
            self._crowded.add(active)
        elif step.operation == "set_condition":
            conditions = self._conditions[name]
            conditions.set(active, step.condition, step.argument)
            await node.set_condition(step.condition, conditions.values[step.condition])
        return remark

    async def _pull(self, active: ActiveFault, model: str) -> None:
        active.pulled(model, await pull(self.cluster.nodes[active.node].address, model))

    @staticmethod
    async def _if_loaded(operation: Callable[[], object]) -> str:
        """What is done to runners is done to nothing where no model is loaded; the record says so."""
        try:
            await operation()  # type: ignore[misc]  # a coroutine function
        except RigError as error:
            return str(error)
        return ""

    def reachable(self, node: str) -> bool:
        """Whether an agent beside the node could be reached: it shares the node's path."""
        return self.network.reachable(node)

    async def restarted(self, node: str) -> None:
        """A new server process runs: faults that lived in the old one are over."""
        self._paused.discard(node)
        with contextlib.suppress(KeyError):
            self._slowed.remove(node)
            await self.cluster.nodes[node].unthrottle()
        for active in self.faults:
            if active.node != node or not (active.fault.about.ended_by_restart or active.fault.about.ended_by_reload):
                continue
            if active.active:
                active.end(self.now(), "action")
                await self._withdraw(active)
            elif active.showing:
                active.end_signs(self.now(), "averted")
                await self._withdraw(active)

    async def runners_killed(self, node: str) -> None:
        """The runners of the node are gone: faults that lived in them are over."""
        self._paused.discard(node)
        for active in self.faults:
            if active.node == node and active.active and active.fault.about.ended_by_kill:
                active.end(self.now(), "action")
                await self._withdraw(active)

    async def put_back(self) -> list[str]:
        """Undo every fault that still holds. What could not be undone, in words."""
        problems: list[str] = []
        for task in self._pulls:
            task.cancel()
        await asyncio.gather(*self._pulls, return_exceptions=True)
        for active in self.faults:
            if active.active:
                active.end(self.now(), "teardown")
            if active.showing:
                active.end_signs(self.now(), "teardown")
            problems += await _attempt(
                f"withdrawing {active.fault.about.kind}", partial(self._withdraw_in_turn, active)
            )
        for node in sorted(self._paused):
            problems += await _attempt(f"resuming {node}", self.cluster.nodes[node].resume_runner)
        for node in sorted(self._slowed):
            problems += await _attempt(f"unthrottling {node}", self.cluster.nodes[node].unthrottle)
        problems += await _attempt("restoring the network", self.cluster.network.restore_all)
        return problems + await self.cluster.put_back()


async def _attempt(what: str, operation: Callable[[], object]) -> list[str]:
    try:
        await operation()  # type: ignore[misc]  # a coroutine function
    except RigError as error:
        return [f"{what}: {error}"]
    return []
