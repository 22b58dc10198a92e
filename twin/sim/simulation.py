"""One simulated run: the parts of the simulated world, put together. See `gateway.py` for the walk of a request and
`injection.py` for the walk of a fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from twin.policy.parameters import Parameters
from twin.policy.vocabulary import Advice, OperatorOrder, Policy, Question
from twin.record.rows import forecast_row, incident_row
from twin.record.writer import Recorder
from twin.scenario.abort import AbortWatch
from twin.scenario.demand import Demand
from twin.scenario.draws import stream
from twin.scenario.schema import Scenario
from twin.sim.checkers import all_checkers
from twin.sim.checkers.base import HOOKS, Checker
from twin.sim.clients import Clients
from twin.sim.conditions import Conditions
from twin.sim.coordination import Coordination
from twin.sim.engine import Engine
from twin.sim.flight import Flight
from twin.sim.gateway import Gateway
from twin.sim.hosts import Host
from twin.sim.injection import Injection
from twin.sim.memory import ReturnTimes
from twin.sim.network import SimulatedNetwork
from twin.sim.node import ModelOnNode, OllamaNode
from twin.sim.present import ClusterNow, begin_from
from twin.sim.sampling import Sampling
from twin.sim.spread import Spread
from twin.sim.traffic import Traffic

CALLS_APART_S: Final = 4.0
"""A node brings about ten calls in this time: so wide a bucket of the engine is, divided by the number of nodes."""


class Simulation:
    """Runs a scenario once, with a gateway for each policy. What it holds is the truth; the policies see none of it."""

    def __init__(
        self, scenario: Scenario, seed: int, policies: Sequence[Policy], recorder: Recorder, *, parameters: Parameters
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.parameters = parameters
        self.recorder = recorder
        self.request_rows = recorder.requests.packed_rows()
        self.telemetry_rows = recorder.telemetry.packed_rows()
        self.engine = Engine(2.0 ** math.floor(math.log2(CALLS_APART_S / len(scenario.cluster.node_names()))))
        self.network = SimulatedNetwork(scenario.cluster.topology(), seed)
        self.traffic = Traffic(self.engine)
        names = scenario.cluster.gateway_names()
        self.coordination = Coordination(self.network, names, scenario.cluster.coordination, scenario.cluster.lease_s)
        self.demand = Demand(scenario, seed)
        self.nodes = _nodes(self.engine, scenario, seed, self.demand.has_sessions)
        cluster = scenario.cluster
        self.hands = dict(zip(cluster.node_names(), cluster.hands_of_nodes(), strict=True))  # what can be done to each
        self._restarts = {name: Spread(seed, f"restart:{name}", cluster.restart_cv) for name in self.nodes}
        self.conditions = Conditions()  # of gateways and clients; each node has its own
        self.checkers: list[Checker] = all_checkers(settled=scenario.settle_s > 0)
        self.watching = _watching(self.checkers)
        self.clients = Clients(self)
        self.injection = Injection(self)
        self.gateways = [Gateway(self, name, policy) for name, policy in zip(names, policies, strict=True)]
        self.sampling = Sampling(self)
        self.abort = AbortWatch(scenario)
        self.aborted = ""  # why the run was broken off
        self.on_progress: Callable[[float], None] | None = None  # told the time at each sample
        self.advise: Callable[[Simulation, Question], Advice] | None = None  # who simulates what might be done
        self.start: ClusterNow | None = None  # what the run begins with; None: what the scenario says

    def run(self) -> None:
        """Run to the end of the load and of every request."""
        # The controllers' periods have nothing to do with the time of a fault: their first turn comes at a random phase.
        phases = stream(self.seed, "policy:phase").random(len(self.gateways))
        for gateway, phase in zip(self.gateways, phases.tolist(), strict=True):
            gateway.start(phase * self.parameters.probes.period_s)
        if self.start is not None:
            begin_from(self, self.start)
        self.injection.schedule()
        for order in self.scenario.orders:  # an operator speaks to one gateway
            self.engine.call_at(order.at_s, partial(self.gateways[0].observe, OperatorOrder(order.node, order.order)))
        self.clients.start()
        self.engine.call_at(self.scenario.record.telemetry_period_s, self._sample)
        if self.scenario.settle_s:
            self.engine.call_at(self.scenario.end_of_load_s, self.injection.end_all)
        self.engine.call_at(self.scenario.end_s, self.end_if_done)
        self.engine.run_calls()
        now = self.engine.now
        self.injection.teardown(now)
        for checker in self.watching["at_end"]:
            checker.at_end(now, self)
        for gateway in self.gateways:
            for incident in gateway.policy.incidents:
                self.recorder.incidents.add(incident_row(incident, gateway.name))
            for time_s, forecast in gateway.policy.warnings():
                self.recorder.forecasts.add(forecast_row(time_s, forecast, gateway.name))
            gateway.probing.count()

    def end_if_done(self) -> None:
        """End the run once nobody is here and nobody comes any more."""
        if self.aborted or (self.clients.done and self.engine.now >= self.scenario.end_s):
            self.engine.finish()

    def restart_s(self, node: str) -> float:
        """How long the next restart of the node takes."""
        return self.scenario.cluster.restart_s * self._restarts[node].next()

    def works(self, node: str) -> bool:
        """Whether a node can truly generate now."""
        it = self.nodes[node]
        if not it.alive or it.malfunctions.lock_held:  # whoever holds the server's lock lets nothing through
            return False
        return not any(runner.paused for runner in it.runners.values())

    def flights(self) -> list[Flight]:
        """The admitted requests that have not ended, at all gateways."""
        return [flight for gateway in self.gateways for flight in gateway.flights.values()]

    def waiting(self) -> int:
        """Requests that the policies keep."""
        return sum(gateway.policy.waiting for gateway in self.gateways)

    def _sample(self) -> None:
        now = self.engine.now
        for checker in self.watching["on_sample"]:
            checker.on_sample(now, self)
        self.sampling.sample(now)
        if self.on_progress is not None:
            self.on_progress(now)
        self.aborted = self.abort.reason(now)
        if self.aborted:
            for gateway in self.gateways:
                gateway.withdraw_all(now, "the run was broken off")
            self.end_if_done()
        else:
            self.engine.call_at(now + self.scenario.record.telemetry_period_s, self._sample)


def _watching(checkers: Sequence[Checker]) -> dict[str, list[Checker]]:
    """For each hook those that really override it, so that it costs nothing of the others."""
    return {
        name: [checker for checker in checkers if getattr(type(checker), name) is not getattr(Checker, name)]
        for name in HOOKS
    }


def _put_on_hosts(nodes: list[OllamaNode], each: int, room: float) -> None:
    """So many nodes on each host, in order."""
    for first in range(0, len(nodes), each):
        host = Host(room)
        host.nodes = nodes[first : first + each]
        for node in host.nodes:
            node.host = host


def _nodes(engine: Engine, scenario: Scenario, seed: int, remember_prefixes: bool) -> dict[str, OllamaNode]:
    cluster = scenario.cluster
    models = {
        name: ModelOnNode(
            name, cluster.size_gib(name), cluster.memory_gib(name), cluster.context_of(name), cluster.slots_of(name)
        )
        for name in cluster.models
    }
    nodes = {
        name: OllamaNode(
            engine,
            name,
            hardware,
            models,
            cluster.slots_per_model,
            cluster.max_queue,
            cluster.keep_alive_s,
            cluster.max_loaded_models,
            ReturnTimes(seed, name).next_s,
            Spread(seed, f"load:{name}", cluster.load_cv).next,
            Spread(seed, f"server:{name}", hardware.server_cv).next,
        )
        for name, hardware in zip(cluster.node_names(), cluster.hardware_of_nodes(), strict=True)
    }
    for node in nodes.values():
        node.iteration_level = cluster.iteration_level
        node.remembers_prefixes = remember_prefixes
    if cluster.hosts is not None:
        _put_on_hosts(list(nodes.values()), cluster.hosts.nodes_each, cluster.hosts.room)
    for name, loaded in cluster.spec().placement.items():
        for model in loaded:
            nodes[name].add_runner(model)
    return nodes
