"""The policy: its parts put together behind the `Policy` protocol."""

from __future__ import annotations

from collections.abc import Sequence

from mypy_extensions import mypyc_attr

from twin.policy.detection import FAST_PROBE_S, Detection
from twin.policy.healer import Healer
from twin.policy.operator import Operator
from twin.policy.parameters import Parameters
from twin.policy.redundancy import Redundancy
from twin.policy.router import Router
from twin.policy.views import ClusterView
from twin.policy.vocabulary import (
    NEVER_S,
    ActionResult,
    AttemptEnded,
    ClusterSpec,
    Command,
    Incident,
    NodeInventory,
    Observation,
    OperatorOrder,
    Policy,
    PolicyState,
    Probe,
    ProbeResult,
    RequestId,
    RequestSpec,
    RequestWithdrawn,
    Route,
)


@mypyc_attr(allow_interpreted_subclasses=True)
class ClusterPolicy(Policy):
    """Routes, detects, heals and keeps replicas for one cluster. See `twin.policy.vocabulary.Policy`."""

    def __init__(self, cluster: ClusterSpec, parameters: Parameters) -> None:
        self.view = ClusterView(cluster, parameters)
        self.router = Router(self.view)
        self.detection = Detection(self.view)
        self.healer = Healer(self.view, self.detection)
        self.redundancy = Redundancy(self.view, self.healer)
        self.operator = Operator(self.view, self.detection, self.healer)
        self.period_s = parameters.probes.period_s
        self.active = parameters.probes.enabled or parameters.circuit_breaker.enabled or parameters.redundancy.enabled
        self._due_s = 0.0

    @property
    def waiting(self) -> int:
        """How many requests it keeps."""
        return self.router.waiting

    @property
    def incidents(self) -> list[Incident]:
        """What it took for failures so far."""
        return self.healer.incidents

    @property
    def reads_telemetry(self) -> bool:
        """No part of it does so far."""
        return False

    def health_of(self, node: str) -> str:
        """What it takes a node for."""
        return self.view.nodes[node].health

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        """Where this attempt of the request goes."""
        return self.router.route(now, request, attempt)

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        """Requests that were waiting and whose turn has come."""
        return self.router.released(now) if self.router.waiting else ()

    def observe(self, now: float, observation: Observation) -> None:
        """Take in what was seen."""
        if type(observation) is AttemptEnded:
            replica = self.router.ended(now, observation)
            if observation.outcome == "succeeded":
                replica.node.served += 1
            self.detection.attempt_ended(now, observation, replica)
            while self.router.refuted:
                self.detection.refuted(now, self.router.refuted.pop())
        elif type(observation) is ProbeResult:
            self.detection.answered(now, observation)
        elif type(observation) is ActionResult:
            if self.operator.result(now, observation):
                self._due_s = now
            elif observation.kind == "load":
                self.redundancy.result(now, observation)
            else:
                self.healer.result(now, observation)
        elif type(observation) is RequestWithdrawn:
            self.router.withdraw(observation.request_id)
        elif type(observation) is OperatorOrder:
            self.operator.order(now, observation)
            self._due_s = now
        elif type(observation) is NodeInventory:
            self.view.learn(now, observation)

    def decide(self, now: float) -> Sequence[Command]:
        """What to do now."""
        commands: list[Command] = []
        probes: list[Probe] = []
        self.view.let_rise(now)
        self.operator.decide(now, commands)
        if not self.active:
            self._due_s = now + self.period_s if self.operator.open else NEVER_S
            return commands
        self.router.reap(now)
        self.detection.close_due_breakers(now)
        self.healer.decide(now, commands)
        self.redundancy.decide(now, commands)
        self.detection.ask(now, probes)
        commands.extend(probes)
        unwell = self.detection.unwell or self.healer.open or self.healer.actions or self.operator.at_work
        self._due_s = now + (min(FAST_PROBE_S, self.period_s) if unwell else self.period_s)
        return commands

    def next_wakeup(self) -> float:
        """When `released` and `decide` want to be called next."""
        due_s = self._due_s if self._due_s < self.detection.wake_s else self.detection.wake_s
        if self.router.delayed:
            return min(due_s, self.router.next_due_s())
        return due_s

    def snapshot(self) -> PolicyState:
        """What must outlive this object."""
        nodes = {
            node.name: {
                "health": node.health,
                "in_flight": node.in_flight,
                "penalty": node.penalty,
                "rising": node.rising,
                "operator": self.operator.phase(node.name),
                "resident": [name for name, replica in node.replicas.items() if replica.resident],
            }
            for node in self.view.nodes.values()
        }
        open_incidents = {name: [it.incident.diagnosis, it.incident.evidence] for name, it in self.healer.open.items()}
        parts = {
            "nodes": nodes,
            "retry_budget": self.router.budget,
            "waiting": self.waiting,
            "open_incidents": open_incidents,
        }
        return PolicyState(self._due_s, parts)

    def restore(self, now: float, state: PolicyState) -> None:
        """Go on from a snapshot: what nodes were taken for, what they had loaded, and which incidents were open.

        Requests are not part of it: those at nodes come through `adopt`, those that waited are offered again.
        """
        for name, known in state.parts["nodes"].items():
            node = self.view.nodes.get(name)
            if node is None:
                continue  # it has left the cluster meanwhile
            node.health = known["health"]
            node.penalty = known["penalty"]
            for model, replica in node.replicas.items():
                replica.resident = model in known["resident"]
            self.view.replace(node, now)
        self.router.budget = state.parts["retry_budget"]
        for name, (diagnosis, evidence) in state.parts["open_incidents"].items():
            if name in self.view.nodes:
                self.detection.reopen(now, self.view.nodes[name], diagnosis, evidence)

    def adopt(self, now: float, request: RequestSpec, node: str) -> Route:
        """Take over a request that is at a node already."""
        return self.router.adopt(now, request, node)
