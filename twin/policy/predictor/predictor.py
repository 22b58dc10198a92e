"""The predictor: features of every node, three families of evidence, one calibrated probability a class.

It is asked by `forecasts`, and costs nothing but reading a list there: what it says of a node is worked out when a
telemetry sample of it comes, or its prediction interval is over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from twin.policy.forecast import FailureClass, Forecast, Forecaster
from twin.policy.predictor import patterns, statistical
from twin.policy.predictor.features import FEATURES, NodeFeatures
from twin.policy.predictor.model import ML, Model
from twin.policy.views import ClusterView, NodeView, Replica
from twin.policy.vocabulary import NEVER_S, ActionResult, AttemptEnded, ProbeResult, TelemetrySample

SHOWN_MIN: Final = 0.05
"""Probabilities below this are no forecast."""
CHANGES_MAX: Final = 20_000
"""Warnings that are kept for the record."""
SMOOTHING: Final = 0.6
"""Weight of the newest look in the scores that are fused: one odd sample alone is no forecast."""
IN_SERVICE: Final = frozenset({"serving", "proving"})
"""Of other nodes nothing is foretold: they have failed, or are being mended."""
EARLY_SHARE: Final = 0.9
"""A sample that comes this share of the interval after the last one is in time."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Predictor(Forecaster):
    """Foresees nothing: what there is when prediction is off."""

    def forecasts(self, now: float) -> Sequence[Forecast]:
        """What may fail, on all nodes, likeliest first."""
        return ()

    def attempt_ended(self, now: float, ended: AttemptEnded, replica: Replica) -> None:
        """A request's attempt ended at a replica, which has said with how many others it was there."""

    def answered(self, now: float, result: ProbeResult) -> None:
        """A probe was answered."""

    def sampled(self, now: float, sample: TelemetrySample) -> None:
        """A telemetry sample came."""

    def acted(self, now: float, result: ActionResult) -> None:
        """An action ended."""

    def tick(self, now: float) -> None:
        """A control period has begun."""

    def warnings(self) -> Sequence[tuple[float, Forecast]]:
        """What was foretold with confidence, each time it began, changed its class or ended (probability below)."""
        return ()


class NodePrediction:
    """What is known and said of one node."""

    __slots__ = ("due_s", "features", "forecasts", "logits", "node", "patterns", "statistical", "warned")

    def __init__(self, node: NodeView, features: NodeFeatures) -> None:
        self.node = node
        self.features = features
        self.due_s = 0.0  # a sample is wanted from then on
        self.forecasts: list[Forecast] = []
        self.warned: FailureClass | Literal[""] = ""  # the class that was last warned of
        self.statistical: list[float] = []  # smoothed scores by class; empty: none yet
        self.patterns: list[float] = []
        self.logits: list[float] = []

    def forget(self) -> None:
        """Smoothing begins anew."""
        self.statistical = []
        self.patterns = []
        self.logits = []


@mypyc_attr(allow_interpreted_subclasses=True)
class FusedPredictor(Predictor):
    """Foresees by the families that are on."""

    def __init__(self, view: ClusterView, model: Model, families: int) -> None:
        parameters = view.parameters.predictor
        self.view = view
        self.model = model
        self.families = families
        self.window_s: float = parameters.window_s
        self.horizon_s = model.horizon_s
        self.interval_s: float = parameters.prediction_interval_s
        self.threshold: float = parameters.threshold
        self.confidence: float = parameters.confidence_threshold
        self.nodes: dict[str, NodePrediction] = {}
        for name, node in view.nodes.items():
            self.nodes[name] = NodePrediction(node, NodeFeatures(self.window_s, self.horizon_s))
        self.said: list[Forecast] = []
        self.stale = False  # `said` is to be made anew
        self.tick_s = 0.0
        self.changes: list[tuple[float, Forecast]] = []

    def forecasts(self, now: float) -> Sequence[Forecast]:
        """What may fail, on all nodes, likeliest first."""
        if self.stale:
            self.stale = False
            said: list[Forecast] = []
            for each in self.nodes.values():
                said.extend(each.forecasts)
            said.sort(key=_likeliest_first)
            self.said = said
        return self.said

    def attempt_ended(self, now: float, ended: AttemptEnded, replica: Replica) -> None:
        """A request's attempt ended at a replica."""
        features = self.nodes[replica.node.name].features
        features.attempt_ended(now, ended, replica.company, replica.prompt_tokens_beside)

    def answered(self, now: float, result: ProbeResult) -> None:
        """A probe was answered."""
        self.nodes[result.node].features.answered(result)

    def acted(self, now: float, result: ActionResult) -> None:
        """An action ended. After a restart the trends begin anew."""
        if result.kind == "restart" and result.status == "done":
            each = self.nodes[result.node]
            each.features.restarted()
            each.forget()
            self._say(now, each, [])

    def sampled(self, now: float, sample: TelemetrySample) -> None:
        """A telemetry sample came; those between two that are due are not looked at."""
        each = self.nodes.get(sample.node)
        if each is None or now < each.due_s:
            return
        each.due_s = now + EARLY_SHARE * self.interval_s
        self._look(now, each, sample.values)

    def tick(self, now: float) -> None:
        """Nodes that send no telemetry are looked at once an interval."""
        if now < self.tick_s:
            return
        self.tick_s = now + self.interval_s
        late_s = 1.5 * self.interval_s
        for each in self.nodes.values():
            last_s = each.features.updated_s
            if last_s != last_s or now - last_s >= late_s:
                self._look(now, each, None)

    def _look(self, now: float, each: NodePrediction, values: dict[str, float] | None) -> None:
        if each.features.returns(each.node.health in IN_SERVICE):
            each.forget()
        each.features.look(now, values)
        self.judge(now, each)

    def judge(self, now: float, each: NodePrediction) -> None:
        """Work out what is said of a node."""
        vector = each.features.vector(now, each.node.in_flight)
        seen = patterns.look(vector, self.horizon_s)
        each.patterns = smoothed(each.patterns, seen.scores)
        each.statistical = smoothed(each.statistical, statistical.scores(vector, self.threshold))
        model = self.model
        if self.families & ML:
            each.logits = smoothed(each.logits, [ensemble.logit(vector) for ensemble in model.ensembles])
        said: list[Forecast] = []
        if each.node.health in IN_SERVICE:
            for which in range(len(statistical.CLASSES)):
                logit = each.logits[which] if self.families & ML else 0.0
                probability = model.probability(
                    self.families, which, each.statistical[which], each.patterns[which], logit
                )
                if probability >= SHOWN_MIN:
                    lead_s = seen.leads[which]
                    if not 0.0 <= lead_s <= self.horizon_s:
                        lead_s = model.lead_s[which]
                    reasons = self._reasons(vector, which, seen, logit)
                    said.append(
                        Forecast(
                            each.node.name, statistical.CLASSES[which], probability, self.horizon_s, lead_s, reasons
                        )
                    )
        if said or each.forecasts:
            self._say(now, each, said)

    def _reasons(self, vector: list[float], which: int, seen: patterns.Patterns, logit: float) -> tuple[str, ...]:
        found: list[str] = []
        if seen.reasons[which]:
            found.append(seen.reasons[which])
        unusual = statistical.reason(vector, which)
        if unusual:
            found.append(unusual)
        if self.families & ML:
            found.append(f"the trained model gives {100.0 / (1.0 + math.exp(-logit)):.0f} %")
        return tuple(found)

    def _say(self, now: float, each: NodePrediction, said: list[Forecast]) -> None:
        each.forecasts = said
        self.stale = True
        likeliest: Forecast | None = None
        for forecast in said:
            if likeliest is None or forecast.probability > likeliest.probability:
                likeliest = forecast
        if likeliest is not None and likeliest.probability >= self.confidence:
            if likeliest.failure != each.warned:
                each.warned = likeliest.failure
                self._keep(now, likeliest)
        elif each.warned and (likeliest is None or likeliest.probability < 0.5 * self.confidence):
            failure = likeliest.failure if likeliest is not None else each.warned
            probability = likeliest.probability if likeliest is not None else 0.0
            each.warned = ""
            self._keep(now, Forecast(each.node.name, failure, probability, self.horizon_s, NEVER_S, ()))

    def _keep(self, now: float, forecast: Forecast) -> None:
        if len(self.changes) < CHANGES_MAX:
            self.changes.append((now, forecast))

    def warnings(self) -> Sequence[tuple[float, Forecast]]:
        """What was foretold with confidence."""
        return self.changes


def _likeliest_first(forecast: Forecast) -> float:
    return -forecast.probability


def smoothed(before: list[float], scores: list[float]) -> list[float]:
    """Scores of a look, smoothed with those before; empty: there are none before."""
    if not before:
        return scores
    return [old + SMOOTHING * (new - old) for old, new in zip(before, scores)]  # noqa: B905  # compiled, strict is slow


NUMBER_OF_FEATURES: Final = len(FEATURES)
