"""Faults done to the nodes and the network of a rig, and the record of what was really done and when."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator

import structlog

from live.rig.drill_cluster import DrillCluster
from live.rig.errors import RigError
from live.rig.toxiproxy import NetworkFault
from twin.scenario.active_fault import ActiveFault
from twin.scenario.draws import targets
from twin.scenario.faults.base import Operation, Step
from twin.scenario.schema import Scenario

_log = structlog.get_logger()

NOT_REAL: frozenset[Operation] = frozenset({"stick_loader"})
"""Operations that no signal, cgroup or network can do to a real node."""


def check_possible(scenario: Scenario, kind: str) -> None:
    """Raises `RigError` where the scenario has a fault that cannot be done to such nodes."""
    for place, fault in enumerate(scenario.faults):
        steps = list(_first(fault.onset())) + list(_first(fault.ending()))
        for step in steps:
            if kind == "real" and step.operation in NOT_REAL:
                raise RigError(
                    f"faults[{place}]: {fault.about.kind} cannot be done to a real node; "
                    "use --nodes emulated, or --world twin"
                )


def _first(steps: Iterator[Step], count: int = 32) -> Iterator[Step]:
    for _, step in zip(range(count), steps, strict=False):
        yield step


def _no_clock() -> float:
    return math.nan


class LiveInjection:
    """Performs the steps of the scenario's faults on a running rig."""

    def __init__(self, cluster: DrillCluster, scenario: Scenario, seed: int) -> None:
        self.cluster = cluster
        self.now: Callable[[], float] = _no_clock
        self.faults = [
            ActiveFault(place, fault, node)
            for place, fault in enumerate(scenario.faults)
            for node in targets(scenario, place, fault, seed)
        ]
        self.served_at_injection: dict[str, int] = {}
        self._slowed: set[str] = set()
        self._paused: set[str] = set()
        self._cut: set[str] = set()

    async def run(self, now: Callable[[], float]) -> None:
        """Do every fault at its time by the run's clock. Raises `RigError` where one could not be done."""
        self.now = now
        async with asyncio.TaskGroup() as group:
            for active in self.faults:
                group.create_task(self._one(active))

    async def _one(self, active: ActiveFault) -> None:
        await self._until(active.fault.at_s)
        active.injected_s = self.now()
        self.served_at_injection[active.node] = self.cluster.nodes[active.node].served_generations()
        _log.info("fault", kind=active.fault.about.kind, node=active.node)
        async with asyncio.TaskGroup() as group:
            onset = group.create_task(self._onset(active))
            if active.fault.duration_s is not None:
                await self._until(active.injected_s + active.fault.duration_s)
                onset.cancel()
                if active.active:
                    active.end(self.now(), "schedule")
                    for step in active.fault.ending():
                        await self._perform(active, step)

    async def _onset(self, active: ActiveFault) -> None:
        for step in active.fault.onset():
            await self._until(active.injected_s + step.after_s)
            if not active.active:
                return
            await self._perform(active, step)
        if active.fault.about.instant:
            active.end(self.now(), "schedule")

    async def _until(self, time_s: float) -> None:
        await asyncio.sleep(max(0.0, time_s - self.now()))

    async def _perform(self, active: ActiveFault, step: Step) -> None:
        async with self.cluster.locks[active.node]:
            remark = await self._do(active.node, step)
        active.note(step, remark)

    async def _do(self, name: str, step: Step) -> str:
        """One primitive operation; what there is to remark on it."""
        node = self.cluster.nodes[name]
        network = self.cluster.network
        remark = ""
        if step.operation == "kill_server":
            # Toxiproxy would accept and hang up at once, where a real network refuses.
            await node.kill_server()
            await network.refuse(name)
        elif step.operation == "start_server":
            await node.start()
            await network.restore(name, NetworkFault.REFUSE)
        elif step.operation == "kill_runner":
            remark = await self._if_loaded(node.kill_runner)
        elif step.operation == "pause_runner":
            remark = await self._if_loaded(node.pause_runner)
            self._paused.add(name)
        elif step.operation == "resume_runner":
            await node.resume_runner()
            self._paused.discard(name)
        elif step.operation == "cut_network":
            await network.black_hole(name)
            self._cut.add(name)
        elif step.operation == "slow_network":
            # Toxiproxy delays what comes back; a request and its answer see both directions' delay together.
            await network.slow(name, round(2 * step.argument))
        elif step.operation == "restore_network":
            await network.restore(name)
            self._cut.discard(name)
        elif step.operation == "slow_gpu":
            if step.argument == 1.0:
                await node.unthrottle()
                self._slowed.discard(name)
            else:
                await node.throttle(1.0 / step.argument)
                self._slowed.add(name)
        elif step.operation == "stick_loader":
            await node.stick_loader()
        return remark

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
        return node not in self._cut

    async def restarted(self, node: str) -> None:
        """A new server process runs: faults that lived in the old one are over."""
        self._paused.discard(node)
        with contextlib.suppress(KeyError):
            self._slowed.remove(node)
            await self.cluster.nodes[node].unthrottle()
        for active in self.faults:
            if active.node == node and active.active and active.fault.about.ended_by_restart:
                active.end(self.now(), "action")

    async def put_back(self) -> list[str]:
        """Undo every fault that still holds. What could not be undone, in words."""
        problems: list[str] = []
        for active in self.faults:
            if active.active:
                active.end(self.now(), "teardown")
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
