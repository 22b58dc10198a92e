"""Runs of worlds, and what a policy that only looks could have seen at each moment: the rows of training and measuring.

The features come from the very code that runs in a policy, fed by the run's own observations; truth joins them afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twin.experiment.engines import Engine
from twin.experiment.twin_world import TwinWorld
from twin.learn.truth import Truth, labels, truth_of
from twin.learn.worlds import WARMUP_S, Split, world
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import Parameters, PredictorParameters
from twin.policy.predictor import patterns, statistical
from twin.policy.predictor.features import FEATURES, NodeFeatures
from twin.policy.predictor.predictor import EARLY_SHARE, IN_SERVICE, Predictor, smoothed
from twin.policy.views import ClusterView, Replica
from twin.policy.vocabulary import ActionResult, AttemptEnded, Policy, ProbeResult, TelemetrySample
from twin.scenario.schema import Scenario

DAY_S = 86_400.0
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Asked:
    """One world to run. `scenario`: given by an operator, else drawn by split and number."""

    split: Split
    number: int
    horizon_s: float
    parameters: PredictorParameters
    scenario: Scenario | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One world: rows in order of time. `scores`: statistical then pattern, by class, smoothed; `label`, `until_s`: the
    truth."""

    split: Split
    number: int
    nodes: list[str]
    node: npt.NDArray[np.int16]
    time_s: npt.NDArray[np.float64]
    features: FloatArray
    scores: FloatArray
    label: npt.NDArray[np.int8]
    until_s: npt.NDArray[np.float64]
    fresh: npt.NDArray[np.bool_]  # the first look after a restart: smoothing begins anew
    routable: npt.NDArray[np.bool_]  # the node was in service: else nothing is foretold
    truth: Truth
    length_s: float


class LookingPredictor(Predictor):
    """Does all that the real one does, says nothing, and keeps each vector."""

    def __init__(self, horizon_s: float, parameters: PredictorParameters) -> None:
        self.horizon_s = horizon_s
        self.window_s = parameters.window_s
        self.interval_s = parameters.prediction_interval_s
        self.threshold = parameters.threshold
        self.view: ClusterView | None = None
        self.features: dict[str, NodeFeatures] = {}
        self.due_s: dict[str, float] = {}
        self.places: dict[str, int] = {}
        self.rows: list[tuple[int, float, bool, bool]] = []
        self.fresh: set[str] = set()  # nodes that were restarted since the last look
        self.vectors: list[list[float]] = []
        self.tick_s = 0.0

    def looks_at(self, view: ClusterView) -> None:
        """The cluster of the policy that it is part of."""
        self.view = view
        self.features = {name: NodeFeatures(self.window_s, self.horizon_s) for name in view.nodes}
        self.due_s = dict.fromkeys(view.nodes, 0.0)
        self.places = {name: place for place, name in enumerate(view.nodes)}

    def attempt_ended(self, now: float, ended: AttemptEnded, replica: Replica) -> None:
        """As the real one."""
        features = self.features[replica.node.name]
        features.attempt_ended(now, ended, replica.company, replica.prompt_tokens_beside)

    def answered(self, now: float, result: ProbeResult) -> None:
        """As the real one."""
        self.features[result.node].answered(result)

    def acted(self, now: float, result: ActionResult) -> None:
        """As the real one."""
        if result.kind == "restart" and result.status == "done":
            self.features[result.node].restarted()
            self.fresh.add(result.node)

    def sampled(self, now: float, sample: TelemetrySample) -> None:
        """As the real one, and keeps the vector."""
        if now < self.due_s[sample.node]:
            return
        self.due_s[sample.node] = now + EARLY_SHARE * self.interval_s
        self._look(now, sample.node, sample.values)

    def tick(self, now: float) -> None:
        """As the real one."""
        if now < self.tick_s:
            return
        self.tick_s = now + self.interval_s
        for name, features in self.features.items():
            last_s = features.updated_s
            if math.isnan(last_s) or now - last_s >= 1.5 * self.interval_s:
                self._look(now, name, None)

    def _look(self, now: float, name: str, values: dict[str, float] | None) -> None:
        assert self.view is not None
        node = self.view.nodes[name]
        features = self.features[name]
        in_service = node.health in IN_SERVICE
        if features.returns(in_service):
            self.fresh.add(name)
        features.look(now, values)
        self.rows.append((self.places[name], now, in_service, name in self.fresh))
        self.fresh.discard(name)
        self.vectors.append(features.vector(now, node.in_flight))


class LookingWorld(TwinWorld):
    """The simulated world with a policy that looks."""

    def __init__(self, horizon_s: float, parameters: PredictorParameters) -> None:
        self.predictor = LookingPredictor(horizon_s, parameters)
        self._interval_s = parameters.prediction_interval_s

    def policy(self, scenario: Scenario) -> Policy:
        """The scenario's own, with the looking predictor."""
        parameters: Parameters = scenario.policy.parameters()
        parameters = dataclasses.replace(
            parameters, predictor=PredictorParameters(prediction_interval_s=self._interval_s)
        )
        policy = ClusterPolicy(scenario.cluster.spec(), parameters, predictor=self.predictor)
        self.predictor.looks_at(policy.view)
        return policy


def see(asked: Asked) -> Seen:
    """Run one world."""
    if asked.scenario is None:
        scenario, seed = world(asked.split, asked.number)
        first_s = WARMUP_S
    else:
        scenario, seed = asked.scenario, asked.number
        first_s = scenario.workload.warmup_s
    looking = LookingWorld(asked.horizon_s, asked.parameters)
    record = looking.run(scenario, seed, None, lambda line: None)
    predictor = looking.predictor
    truth = truth_of(record)
    node = np.array([row[0] for row in predictor.rows], dtype=np.int16)
    time_s = np.array([row[1] for row in predictor.rows])
    routable = np.array([row[2] for row in predictor.rows], dtype=bool)
    horizon_s, threshold = asked.horizon_s, asked.parameters.threshold
    fresh = np.array([row[3] for row in predictor.rows], dtype=bool)
    raw = [
        [*statistical.scores(vector, threshold), *patterns.look(vector, horizon_s).scores]
        for vector in predictor.vectors
    ]
    scores = smooth(np.array(raw).reshape(-1, 2 * len(statistical.CLASSES)), node, fresh)
    label = np.full(len(node), -2, dtype=np.int8)
    until_s = np.full(len(node), np.nan)
    names = list(predictor.places)
    for name, place in predictor.places.items():
        own = node == place
        label[own], until_s[own] = labels(truth, name, time_s[own], horizon_s)
    end_s = min(float(record.manifest["simulated_s"]), scenario.end_of_load_s)
    label[(time_s < first_s) | (time_s > end_s - horizon_s)] = -2  # what comes after the end is not known
    return Seen(
        asked.split,
        asked.number,
        names,
        node,
        time_s,
        np.array(predictor.vectors, dtype=np.float32).reshape(-1, len(FEATURES)),
        scores.astype(np.float32),
        label,
        until_s,
        fresh,
        routable,
        truth,
        end_s - first_s,
    )


def smooth(
    scores: npt.NDArray[np.float64], node: npt.NDArray[np.int16], fresh: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """The scores of all looks, smoothed for each node as the predictor does it."""
    found = np.empty_like(scores)
    before: dict[int, list[float]] = {}
    for row, (place, anew) in enumerate(zip(node.tolist(), fresh.tolist(), strict=True)):
        before[place] = smoothed([] if anew else before.get(place, []), scores[row].tolist())
        found[row] = before[place]
    return found


def see_all(asked: Sequence[Asked], engine: Engine, on_result: object = None) -> list[Seen]:
    """Run many worlds; in the order in which they were asked for."""
    found: dict[tuple[str, int], Seen] = {}
    for done, seen in enumerate(engine.results(see, asked)):
        found[(seen.split, seen.number)] = seen
        if callable(on_result):
            on_result(done + 1, len(asked))
    return [found[(it.split, it.number)] for it in asked]
