"""Faults done to the simulated system, and the record of what was really done and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from twin.policy.vocabulary import NEVER_S
from twin.scenario.active_fault import ActiveFault
from twin.scenario.draws import targets
from twin.scenario.faults.base import Step

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class Injection:
    """Performs the steps of the scenario's faults."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.faults: list[ActiveFault] = []
        self._silent_since_s: dict[str, float] = {}
        self._held_back: dict[str, list[Callable[[], None]]] = {}

    def schedule(self) -> None:
        """Have every fault begin at its time."""
        simulation = self.simulation
        for place, fault in enumerate(simulation.scenario.faults):
            for node in targets(simulation.scenario, place, fault, simulation.seed):
                active = ActiveFault(place, fault, node)
                self.faults.append(active)
                if fault.lead_s:
                    simulation.engine.call_at(max(0.0, fault.at_s - fault.lead_s), partial(self._show, active))
                simulation.engine.call_at(fault.at_s, partial(self._begin, active))

    def _show(self, active: ActiveFault) -> None:
        """The signs begin."""
        active.signs_s = self.simulation.engine.now
        self._step(active, active.fault.signs())

    def _begin(self, active: ActiveFault) -> None:
        engine = self.simulation.engine
        if active.signs_outcome == "averted":
            return
        if active.fault.comes_to_nothing:
            active.end_signs(engine.now, "nothing")
            self._withdraw(active)
            return
        if active.fault.lead_s:
            active.end_signs(engine.now, "failed")
        active.injected_s = engine.now
        if active.fault.duration_s is not None:
            engine.call_at(engine.now + active.fault.duration_s, partial(self._end, active))
        self._step(active, active.fault.onset())

    def _step(self, active: ActiveFault, steps: Iterator[Step]) -> None:
        """Perform the steps that are due, and come back for the next."""
        engine = self.simulation.engine
        for step in steps:
            due_s = (active.signs_s if active.showing else active.injected_s) + step.after_s
            if due_s > engine.now:
                engine.call_at(due_s, partial(self._step_later, active, active.showing, step, steps))
                return
            self._perform(active, step)
        if active.fault.about.instant and active.active:
            active.end(engine.now, "schedule")

    def _step_later(self, active: ActiveFault, sign: bool, step: Step, steps: Iterator[Step]) -> None:
        if active.showing if sign else active.active:
            self._perform(active, step)
            self._step(active, steps)

    def _end(self, active: ActiveFault) -> None:
        if not active.active:
            return
        active.end(self.simulation.engine.now, "schedule")
        for step in active.fault.ending():
            self._perform(active, step)
        self._withdraw(active)

    def end_all(self) -> None:
        """The outside world ends whatever is going on; nothing begins any more."""
        for active in self.faults:
            if active.showing:
                active.end_signs(self.simulation.engine.now, "nothing")
                self._withdraw(active)
            self._end(active)

    def _withdraw(self, active: ActiveFault) -> None:
        """What the fault set is as it was."""
        node = self.simulation.nodes[active.node]
        if node.conditions.withdraw(active):
            node.conditions_changed()

    def restarted(self, node: str) -> None:
        """A new server process runs: faults that live in the old one are over."""
        for active in self.faults:
            if active.node == node and active.active and active.fault.about.ended_by_restart:
                active.end(self.simulation.engine.now, "action")
                self._withdraw(active)
            elif active.node == node and active.showing and active.fault.about.ended_by_restart:
                active.end_signs(self.simulation.engine.now, "averted")
                self._withdraw(active)
        if self.simulation.nodes[node].slowdown != 1.0:
            self.simulation.nodes[node].slow_gpu(1.0)
        self._spoke(node)

    def teardown(self, now: float) -> None:
        """The run is over: write down what was done."""
        for active in self.faults:
            if active.active:
                active.end(now, "teardown")
            if active.showing:
                active.end_signs(now, "teardown")
            if active.begun:
                self.simulation.recorder.faults.add(active.row())
            if active.signs_outcome:
                self.simulation.recorder.signs.add(active.signs_row())

    # -- the primitive operations ---------------------------------------------------------------------------------

    def _perform(self, active: ActiveFault, step: Step) -> None:
        name = active.node
        simulation = self.simulation
        node = simulation.nodes[name]
        network = simulation.network
        operation = step.operation
        active.note(step)
        if operation == "kill_server":
            node.kill_server()
            self._spoke(name)
        elif operation == "start_server":
            node.start_server()
        elif operation == "kill_runner":
            node.kill_runner()
            self._spoke(name)
        elif operation == "pause_runner":
            node.pause_runner()
            self.fell_silent(name)
        elif operation == "resume_runner":
            node.resume_runner()
            self._spoke(name)
        elif operation == "stick_loader":
            node.stick_loader()
        elif operation == "cut_network":
            network.cut(name)
            self.fell_silent(name)
        elif operation == "slow_network":
            network.slow(name, step.argument)
        elif operation == "restore_network":
            network.restore(name)
            self._spoke(name)
            for deliver in self._held_back.pop(name, []):
                deliver()
        elif operation == "slow_gpu":
            node.slow_gpu(step.argument)
        elif operation == "set_condition":
            node.conditions.set(active, step.condition, step.argument)
            node.conditions_changed()

    # -- silence --------------------------------------------------------------------------------------------------

    def fell_silent(self, node: str) -> None:
        """From now on nothing comes from the node's runners."""
        self._silent_since_s.setdefault(node, self.simulation.engine.now)
        for gateway in self.simulation.gateways:
            gateway.fell_silent(node)

    def _spoke(self, node: str) -> None:
        path_is_whole = not self.simulation.network.paths[node].cut
        if path_is_whole and not any(runner.paused for runner in self.simulation.nodes[node].runners.values()):
            self._silent_since_s.pop(node, None)

    def silent(self, node: str) -> bool:
        """Whether nothing comes from the node's runners."""
        return node in self._silent_since_s

    def silent_since_s(self, node: str) -> float:
        """Since when; never where it speaks."""
        return self._silent_since_s.get(node, NEVER_S)

    def hold_back(self, node: str, deliver: Callable[[], None]) -> None:
        """What a node says into a cut path comes out when it is mended (TCP sends it again)."""
        self._held_back.setdefault(node, []).append(deliver)
