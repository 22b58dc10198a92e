"""The policy: its parts put together behind the `Policy` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mypy_extensions import mypyc_attr

from twin.policy.adaptation import ADAPTABLE
from twin.policy.detection import FAST_PROBE_S, Detection
from twin.policy.forecast import Forecast, Forecaster
from twin.policy.foresight import Foresight
from twin.policy.healer import Healer
from twin.policy.operator import Operator
from twin.policy.parameters import ParameterError, Parameters
from twin.policy.predictor.memory import predictor_state, restore_predictor
from twin.policy.predictor.model import ML, Model, families_of
from twin.policy.predictor.predictor import FusedPredictor, Predictor
from twin.policy.prompt_limits import PromptLimits
from twin.policy.redundancy import Redundancy
from twin.policy.router import Router
from twin.policy.slots import SlotLearning
from twin.policy.state import frozen, thaw
from twin.policy.tracking import Tracker
from twin.policy.views import ClusterView
from twin.policy.vocabulary import (
    NEVER_S,
    Action,
    ActionResult,
    Advice,
    AttemptEnded,
    ClusterSpec,
    Command,
    Incident,
    NodeHands,
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
    SettingsChanged,
    TelemetrySample,
)
from twin.policy.wear import Wear


@mypyc_attr(allow_interpreted_subclasses=True)
class ClusterPolicy(Policy):
    """Routes, detects, foresees, heals and keeps replicas for one cluster. See `twin.policy.vocabulary.Policy`.

    It foresees with the `model` that `ollamamax train` made, or with another `predictor`; without either, not at all.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        parameters: Parameters,
        predictor: Forecaster | None = None,
        model: Model | None = None,
    ) -> None:
        self.view = ClusterView(cluster, parameters)
        self.watching = predictor if isinstance(predictor, Predictor) else predictor_of(self.view, model)
        self.predictor: Forecaster = predictor if predictor is not None else self.watching
        self.foresees = type(self.watching) is not Predictor
        self.router = Router(self.view)
        self.slots = SlotLearning(self.view)
        self.detection = Detection(self.view)
        self.tracker = Tracker(self.view)
        self.healer = Healer(self.view, self.detection, self.tracker)
        self.wear = Wear(self.view)
        self.prompts = PromptLimits(self.view)
        self.foresight = Foresight(self.view, self.healer, self.tracker)
        self.redundancy = Redundancy(self.view, self.healer, self.foresight)
        self.operator = Operator(self.view, self.detection, self.healer)
        self.period_s = parameters.probes.period_s
        self.active = parameters.probes.enabled or parameters.circuit_breaker.enabled or parameters.redundancy.enabled
        self.changes: list[Action] = []  # of settings, still to be written down
        self._due_s = 0.0
        self._looked_s = 0.0  # when it decided last: the time of its snapshots

    @property
    def waiting(self) -> int:
        """How many requests it keeps."""
        return self.router.waiting

    @property
    def incidents(self) -> list[Incident]:
        """What it took for failures so far, without what was settled."""
        return self.healer.incidents

    def settled(self, now: float) -> Sequence[Incident]:
        """The incidents that are over for good, and that it keeps no longer."""
        return self.healer.settled(now)

    @property
    def reads_telemetry(self) -> bool:
        """The predictor does."""
        return self.foresees

    @property
    def telemetry_period_s(self) -> float:
        """The predictor's interval."""
        return self.view.parameters.predictor.prediction_interval_s

    def warnings(self) -> Sequence[tuple[float, Forecast]]:
        """What the predictor foretold with confidence."""
        return self.watching.warnings()

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
            replica, prompt_tokens = self.router.ended(now, observation)
            if observation.outcome == "succeeded":
                replica.node.served += 1
                if self.slots.enabled:
                    self.slots.ended(now, observation, replica)
                self.tracker.succeeded += 1
            elif observation.outcome == "failed":
                self.tracker.failed += 1
            self.detection.attempt_ended(now, observation, replica)
            if observation.error in ("server_error", "error_record"):  # by them a server tells that its runner died
                if observation.first_token_s != observation.first_token_s:  # nan: it had none yet
                    self.prompts.died(now, replica, prompt_tokens)
                self.wear.failed(replica)
            elif self.prompts.suspected and observation.outcome == "succeeded":
                self.prompts.survived(now, replica, prompt_tokens)
            if self.foresees:
                self.watching.attempt_ended(now, observation, replica)
            while self.router.refuted:
                self.detection.refuted(now, self.router.refuted.pop())
        elif type(observation) is ProbeResult:
            self.detection.answered(now, observation)
            self.watching.answered(now, observation)
        elif type(observation) is TelemetrySample:
            self.detection.sampled(now, observation)
            self.watching.sampled(now, observation)
        elif type(observation) is ActionResult:
            if observation.kind == "set":
                return
            if observation.status == "no_hand":
                node = self.view.nodes[observation.node]
                node.hands = node.hands - {observation.kind}
            self.watching.acted(now, observation)
            if self.operator.result(now, observation):
                self._due_s = now
            elif not self.redundancy.result(now, observation) and not self.foresight.result(now, observation):
                self.healer.result(now, observation)
        elif type(observation) is RequestWithdrawn:
            self.router.withdraw(observation.request_id)
        elif type(observation) is OperatorOrder:
            self.operator.order(now, observation)
            self._due_s = now
        elif type(observation) is NodeInventory:
            self.view.learn(now, observation)
        elif type(observation) is NodeHands:
            self.view.nodes[observation.node].hands = frozenset(observation.hands)
        elif type(observation) is Advice:
            self.healer.advice(now, observation)
        elif type(observation) is SettingsChanged:
            self._change(now, observation)

    def _change(self, now: float, change: SettingsChanged) -> None:
        """Take another value of a parameter, and have that written down. Raises `ParameterError`."""
        if change.key not in ADAPTABLE:
            raise ParameterError(f"{change.key} cannot change while the policy runs; there are {sorted(ADAPTABLE)}")
        was = self.view.parameters.values()[change.key]
        value = int(change.value) if isinstance(was, int) else change.value
        parameters = self.view.parameters.with_values({change.key: value})
        self.changes.append(self.healer.change(now, f"{change.key} {was} -> {value}: {change.reason}"))
        self._due_s = now
        if self.healer.advises:
            return
        self.view.parameters = parameters
        self.router.configure(parameters)
        self.detection.configure(parameters)
        self.period_s = parameters.probes.period_s
        for node in self.view.nodes.values():
            for replica in node.replicas.values():
                replica.set_limits(parameters)

    def decide(self, now: float) -> Sequence[Command]:
        """What to do now."""
        self.detection.observer.called(self.next_wakeup(), now)
        self._looked_s = now
        commands: list[Command] = [*self.changes]
        self.changes.clear()
        matched = self.detection.contexts.matched
        commands.extend(self.healer.change(now, why) for why in matched)
        matched.clear()
        probes: list[Probe] = []
        self.view.let_rise(now)
        self.operator.decide(now, commands)
        if not self.active:
            self._due_s = now + self.period_s if self.operator.open else NEVER_S
            return commands
        self.router.reap(now)
        self.watching.tick(now)
        self.detection.close_due_breakers(now)
        self.tracker.look(now)
        self.healer.decide(now, commands)
        self.wear.look(self.healer.opened_from(self.wear.next_incident))
        self.prompts.look(now)
        self.foresight.decide(now, [*self.predictor.forecasts(now), *self.wear.forecasts(now)], commands)
        self.redundancy.decide(now, commands)
        for replica, why in self.wear.worn(now):
            self.redundancy.renew(now, replica, why, commands)
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
        """What must outlive this object, as it was when it decided last. Moments are in seconds before that."""
        now = self._looked_s
        nodes = {
            node.name: {
                "health": node.health,
                "in_flight": node.in_flight,
                "penalty": node.penalty,
                "rising": node.rising,
                "hands": sorted(node.hands),
                "operator": self.operator.phase(node.name),
                "resident": [name for name, replica in node.replicas.items() if replica.resident],
                "slots": self.slots.known(node.name),
                "contexts": {name: it.context_tokens for name, it in node.replicas.items() if it.context_tokens},
                "matched": [name for name, it in node.replicas.items() if it.matched],
                "start_s": node.start_s,
                "served": node.served,
                "passed_s_ago": now - node.last_passed_s,
                "pace": frozen(node.pace, now, ()),
            }
            for node in self.view.nodes.values()
        }
        open_incidents = {
            name: [it.trouble, it.incident.evidence] for name, it in self.healer.open.items() if not it.foreseen
        }
        parts = {
            "nodes": nodes,
            "retry_budget": self.router.budget,
            "waiting": self.waiting,
            "open_incidents": open_incidents,
            "healer": self.healer.snapshot(now),
            "foresight": self.foresight.snapshot(now),
            "redundancy": self.redundancy.snapshot(now),
            "tracker": self.tracker.snapshot(now),
            "activity": self.detection.activity.snapshot(now),
            "slow": dict(self.detection.slowness.slow),
            "predictor": predictor_state(self.watching, now),
            "wear": self.wear.snapshot(now),
            "prompt_limits": self.prompts.snapshot(now),
        }
        return PolicyState(now, parts)

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
                context_tokens = int(known["contexts"].get(model, 0))
                replica.load_with(context_tokens, self.view.parameters, matched=model in known["matched"])
            self.view.replace(node, now)
        self.router.budget = state.parts["retry_budget"]
        self.learn(now, state.parts)
        for name, (diagnosis, evidence) in state.parts["open_incidents"].items():
            if name in self.view.nodes:
                self.detection.reopen(now, self.view.nodes[name], diagnosis, evidence)

    def learn(self, now: float, parts: dict[str, Any]) -> None:
        """Take over what another object had learnt by `now`, of a snapshot's parts: not what was the case then."""
        for name, known in parts["nodes"].items():
            node = self.view.nodes.get(name)
            if node is None:
                continue
            node.start_s = node.start_s_of_routes = float(known["start_s"])
            node.served = int(known["served"])
            node.last_passed_s = now - float(known["passed_s_ago"])
            thaw(node.pace, now, (), known["pace"])
            for replica in node.replicas.values():
                replica.set_limits(self.view.parameters)
            self.slots.restore(name, known["slots"])
            self.view.replace(node, now)
        self.healer.restore(now, parts["healer"])
        self.foresight.restore(now, parts["foresight"])
        self.redundancy.restore(now, parts["redundancy"])
        self.tracker.restore(now, parts["tracker"])
        self.detection.activity.restore(now, parts["activity"])
        self.detection.slowness.slow.update(
            {name: why for name, why in parts["slow"].items() if name in self.view.nodes}
        )
        restore_predictor(self.watching, now, parts["predictor"])
        self.wear.restore(now, parts["wear"])
        self.prompts.restore(now, parts["prompt_limits"])

    def adopt(self, now: float, request: RequestSpec, node: str) -> Route:
        """Take over a request that is at a node already."""
        return self.router.adopt(now, request, node)


def predictor_of(view: ClusterView, model: Model | None) -> Predictor:
    """The predictor that the parameters want. Raises `ParameterError` where the model was trained for others."""
    parameters = view.parameters.predictor
    if not parameters.enabled or model is None:
        return Predictor()
    families = families_of(statistical=parameters.statistical, pattern=parameters.pattern, ml=parameters.ml)
    if not families:
        raise ParameterError(
            "predictor: no family is on; switch statistical, pattern or ml on, or say predictor.enabled=false"
        )
    if families & ML and (
        parameters.window_s != model.window_s or parameters.prediction_interval_s != model.interval_s
    ):
        raise ParameterError(
            f"predictor: the model was trained with window_s {model.window_s:g} and prediction_interval_s "
            f"{model.interval_s:g}, not {parameters.window_s:g} and {parameters.prediction_interval_s:g}; train another "
            "(`ollamamax train`), or say predictor.ml=false"
        )
    return FusedPredictor(view, model, families)
