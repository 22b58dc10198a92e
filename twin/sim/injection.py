"""Faults done to the simulated system, and the record of what was really done and when."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from twin.scenario.active_fault import ActiveFault
from twin.scenario.draws import stream, strikes
from twin.scenario.faults.base import NETWORK_OPERATIONS, LinkChange, NetworkFault, Step
from twin.sim.foreign import ForeignLoad
from twin.sim.runner import Runner

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway
    from twin.sim.simulation import Simulation


LOOK_AGAIN_S: Final = 0.01
"""For the midst of an answer, where a fault waits for it."""


class Injection:
    """Performs the steps of the scenario's faults."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.faults: list[ActiveFault] = []
        self._gateways: dict[str, Gateway] = {}
        self._afflicted: dict[ActiveFault, list[Runner]] = {}  # that a reload ends: the runners that have it
        self._to_pull: dict[ActiveFault, set[str]] = {}  # that a pull ends: models that are still to be fetched anew
        self._foreign: dict[ActiveFault, ForeignLoad] = {}
        for name, node in simulation.nodes.items():
            node.on_silence = partial(self._silence_changed, name)
            node.on_emergence = partial(self._emerged, name)

    def schedule(self) -> None:
        """Have every fault begin at its time."""
        simulation = self.simulation
        self._gateways = {gateway.name: gateway for gateway in simulation.gateways}
        for name, node_model in simulation.nodes.items():
            node_model.on_reload = partial(self._reloaded, name)
        for place, fault in enumerate(simulation.scenario.faults):
            for node, struck in strikes(simulation.scenario, place, fault, simulation.seed):
                active = ActiveFault(place, fault, node, struck)
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
        if active.fault.in_answer and not self._answers(active.node):
            if engine.now + LOOK_AGAIN_S < self.simulation.scenario.end_of_load_s:
                engine.call_at(engine.now + LOOK_AGAIN_S, partial(self._begin, active))
            return
        if active.fault.comes_to_nothing:
            active.end_signs(engine.now, "nothing")
            self._withdraw(active)
            return
        if active.fault.lead_s:
            active.end_signs(engine.now, "failed")
        active.begin(engine.now, waits=bool(active.fault.about.emerges))
        if active.fault.duration_s is not None:
            engine.call_at(engine.now + active.fault.duration_s, partial(self._end, active))
        if active.fault.about.ended_by_pull:
            placed = self.simulation.scenario.cluster.spec().placement[active.node]
            self._to_pull[active] = set(placed or self.simulation.nodes[active.node].models)
        if active.fault.about.ended_by_reload and not active.fault.about.emerges:
            runners = list(self.simulation.nodes[active.node].runners.values())
            if runners:  # else nothing is loaded that could be reloaded
                self._afflicted[active] = runners
        self._step(active, active.fault.onset())

    def _answers(self, node: str) -> bool:
        """Whether a node is in the midst of an answer."""
        now = self.simulation.engine.now
        return any(
            entry[2].first_token_s <= now  # nan before it is known
            for runner in self.simulation.nodes[node].runners.values()
            if not runner.paused
            for entry in runner.active
        )

    def _step(self, active: ActiveFault, steps: Iterator[Step]) -> None:
        """Perform the steps that are due, and come back for the next."""
        engine = self.simulation.engine
        for step in steps:
            due_s = (active.signs_s if active.showing else active.armed_s) + step.after_s
            if due_s > engine.now:
                engine.call_at(due_s, partial(self._step_later, active, active.showing, step, steps))
                return
            self._perform(active, step)
        if active.fault.is_instant() and active.active:
            active.end(engine.now, "schedule")
            self._withdraw(active)

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
        if active.fault.about.part != "node":
            self.simulation.conditions.withdraw(active)
            return
        node = self.simulation.nodes[active.node]
        if node.conditions.withdraw(active):
            node.conditions_changed()
            self._spoke(active.node)
        foreign = self._foreign.pop(active, None)
        if foreign is not None:
            foreign.stop()

    def _emerged(self, node: str, condition: str, runner: Runner | None) -> None:
        """What a condition stands for came about (in a runner)."""
        for active in self.faults:
            if active.node == node and active.active and active.fault.about.emerges == condition:
                active.emerged(self.simulation.engine.now)
                if active.fault.about.ended_by_reload and runner is not None:
                    self._afflicted.setdefault(active, []).append(runner)

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

    def runners_killed(self, node: str) -> None:
        """The runners of the node are gone: faults that lived in them are over."""
        for active in self.faults:
            if active.node == node and active.active and active.fault.about.ended_by_kill:
                active.end(self.simulation.engine.now, "action")
                self._withdraw(active)
        self._spoke(node)

    def pulled(self, node: str, model: str) -> None:
        """A model was fetched anew: a fault of the files is over once all have been that the node is to serve."""
        for active, models in self._to_pull.items():
            if active.node == node and active.active:
                models.discard(model)
                if not models:
                    active.end(self.simulation.engine.now, "action")
                    self._withdraw(active)

    def _reloaded(self, node: str) -> None:
        """A runner of the node is gone: what lived in the memory of the loaded models is over with the last of them."""
        for active in self.faults:
            if active.node == node and active.active and active in self._afflicted:
                self._afflicted[active] = [runner for runner in self._afflicted[active] if runner.alive]
                if not self._afflicted[active]:
                    active.end(self.simulation.engine.now, "action")
                    self._withdraw(active)

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
        if active.fault.about.part != "node":
            assert step.operation == "set_condition", "nothing else can be done to what is no node"
            active.note(step)
            simulation.conditions.set(active, step.condition, step.argument)
            return
        node = simulation.nodes[name]
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
        elif operation in NETWORK_OPERATIONS:
            self._perform_on_network(active, step)
        elif operation == "garble_runner":
            node.garble_runner(step.argument)
        elif operation == "slow_gpu":
            node.slow_gpu(step.argument)
        elif operation == "pull_models":
            for model in node.models:
                node.files.pull(model, partial(active.pulled, model))
        elif operation == "set_condition":
            node.conditions.set(active, step.condition, step.argument)
            node.conditions_changed()
        elif operation == "expire_models":
            node.expire_models()
        elif operation == "foreign_clients":
            assert step.foreign is not None
            draws = stream(simulation.seed, f"fault:{active.place}:foreign:{name}")
            self._foreign[active] = ForeignLoad(simulation.engine, node, step.foreign, draws)

    def _perform_on_network(self, active: ActiveFault, step: Step) -> None:
        """The link of the node, or the uplink of what was struck: once, though several nodes are behind it."""
        network = self.simulation.network
        seen_from = active.fault.seen_from if isinstance(active.fault, NetworkFault) else None
        if step.operation == "reset_connections":
            for path in network.behind(active.struck, seen_from):
                if path.node == active.node:
                    self._gateways[path.gateway].transport.reset(path)
            return
        now, coordination = self.simulation.engine.now, self.simulation.coordination
        coordination.network_changes(now)
        key = (active.place, active.struck, active.node) if seen_from else (active.place, active.struck)
        if step.operation == "restore_network":
            paths = network.restore(key, active.struck)
        else:
            paths = network.change(key, active.struck, step.link or LinkChange(), seen_from)
        coordination.network_changed(now)
        self.simulation.traffic.changed()
        for path in paths:
            self._gateways[path.gateway].transport.changed(path)

    # -- silence --------------------------------------------------------------------------------------------------

    def fell_silent(self, node: str) -> None:
        """From now on nothing comes from the node's runners."""
        for gateway in self.simulation.gateways:
            gateway.transport.fell_silent(gateway.paths[node])

    def _silence_changed(self, node: str) -> None:
        if any(runner.paused for runner in self.simulation.nodes[node].runners.values()):
            self.fell_silent(node)
        else:
            self._spoke(node)

    def _spoke(self, node: str) -> None:
        for gateway in self.simulation.gateways:
            gateway.transport.spoke(gateway.paths[node])
