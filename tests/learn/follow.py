"""A run in which every forecast of the policy's own predictor is written down."""

from __future__ import annotations

import dataclasses

from twin.experiment.twin_world import TwinWorld
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.forecast import FailureClass, Forecast
from twin.policy.parameters import PredictorParameters
from twin.policy.predictor.model import Model
from twin.policy.predictor.predictor import FusedPredictor, NodePrediction
from twin.policy.views import ClusterView
from twin.policy.vocabulary import Policy
from twin.scenario.schema import Scenario

Told = dict[tuple[str, float, FailureClass], float]


class Following(FusedPredictor):
    """Writes down, and tells the healer nothing."""

    def __init__(self, view: ClusterView, model: Model) -> None:
        super().__init__(view, model, 7)
        self.told: Told = {}

    def judge(self, now: float, each: NodePrediction) -> None:
        super().judge(now, each)
        for forecast in each.forecasts:
            self.told[(forecast.node, now, forecast.failure)] = forecast.probability

    def forecasts(self, now: float) -> tuple[Forecast, ...]:
        return ()


def forecasts_of_a_run(scenario: Scenario, seed: int, model: Model) -> Told:
    """Node, time and class of each forecast, with its probability."""

    class World(TwinWorld):
        def policy(self, scenario: Scenario) -> Policy:
            parameters = dataclasses.replace(scenario.policy.parameters(), predictor=PredictorParameters())
            policy = ClusterPolicy(scenario.cluster.spec(), parameters, predictor=following)
            following.view = policy.view
            for name, node in policy.view.nodes.items():
                following.nodes[name].node = node
            return policy

    parameters = dataclasses.replace(scenario.policy.parameters(), predictor=PredictorParameters())
    following = Following(ClusterView(scenario.cluster.spec(), parameters), model)
    World().run(scenario, seed, None, lambda line: None)
    return following.told
