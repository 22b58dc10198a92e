from __future__ import annotations

import math

import pytest

from tests.policy.bench import cluster
from tests.policy.predictor.nodes import sample, small_model, stump
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import ParameterError, preset
from twin.policy.predictor.features import FEATURES
from twin.policy.vocabulary import ActionResult, TelemetrySample


def policy(**overrides: object) -> ClusterPolicy:
    return ClusterPolicy(
        cluster(2, 1, 2),
        preset("default", {f"predictor.{key}": it for key, it in overrides.items()}),
        model=small_model(),
    )


def leak(it: ClusterPolicy, from_s: float = 0.0, until_s: float = 1200.0, gib_a_step: float = 0.2) -> float:
    """Twenty sound samples of both nodes, then one leaks."""
    now = from_s
    while now < from_s + until_s:
        step = max(0.0, (now - from_s) / 20.0 - 20.0)
        it.observe(now, TelemetrySample("node-0", sample(vram_used_gib=10.0 + gib_a_step * step)))
        it.observe(now, TelemetrySample("node-1", sample()))
        now += 20.0
    return now


def test_a_staircase_beyond_what_ollama_lists_is_foretold_of_the_node_that_leaks_alone() -> None:
    it = policy()
    now = leak(it)
    said = it.predictor.forecasts(now)
    assert [(forecast.node, forecast.failure) for forecast in said][:1] == [("node-0", "gpu_memory")]
    assert not [forecast for forecast in said if forecast.node == "node-1"]
    assert said[0].probability > 0.9
    assert "does not list grows" in said[0].reasons[0]
    assert 0.0 < said[0].lead_s <= said[0].horizon_s


def test_a_steady_cluster_is_told_nothing_of() -> None:
    it = policy()
    now = leak(it, gib_a_step=0.0)
    assert not it.predictor.forecasts(now)
    assert not it.warnings()


@pytest.mark.parametrize("family", ["statistical", "pattern", "ml"])
def test_each_family_sees_the_leak_alone_and_may_be_switched_off(family: str) -> None:
    others = {name: name == family for name in ("statistical", "pattern", "ml")}
    it = policy(**others)
    now = leak(it)
    (said,) = it.predictor.forecasts(now)[:1]
    assert said.failure == "gpu_memory"
    assert ("trained model" in " ".join(said.reasons)) is (family == "ml")


def test_a_restart_forgets_the_trend() -> None:
    it = policy()
    now = leak(it)
    it.observe(now, ActionResult(1, "node-0", "restart", "done"))
    assert not it.predictor.forecasts(now)


def test_a_warning_is_kept_once_when_it_begins_and_once_when_it_ends() -> None:
    it = policy()
    now = leak(it)
    for step in range(60):
        it.observe(now + 20.0 * step, TelemetrySample("node-0", sample()))
    began, ended = it.warnings()
    assert began[1].probability >= 0.6 > ended[1].probability
    assert began[0] < ended[0]


def test_samples_between_two_that_are_due_are_not_looked_at() -> None:
    it = policy()
    for second in range(100):
        it.observe(float(second), TelemetrySample("node-0", sample()))
    assert it.watching.nodes["node-0"].features.tracks[0].count == 6  # type: ignore[attr-defined]


def test_without_telemetry_a_node_is_looked_at_all_the_same() -> None:
    it = policy()
    for second in range(100):
        it.decide(float(second))
    assert it.watching.nodes["node-0"].features.updated_s > 50.0  # type: ignore[attr-defined]


def test_switched_off_nothing_is_read_and_nothing_is_told() -> None:
    it = policy(enabled=False)
    assert not it.reads_telemetry
    assert not it.predictor.forecasts(leak(it))


def test_a_model_for_another_window_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"trained with window_s 300"):
        policy(window_s=600.0)
    policy(window_s=600.0, ml=False)


def test_at_least_one_family_must_be_on() -> None:
    with pytest.raises(ParameterError, match="no family is on"):
        policy(statistical=False, pattern=False, ml=False)


def test_what_is_missing_goes_where_the_tree_says() -> None:
    vector = [math.nan] * len(FEATURES)
    assert stump("vram_free", 0.5, -1.0, 1.0).logit(vector) == -1.0
    assert stump("vram_free", 0.5, -1.0, 1.0, missing_left=False).logit(vector) == 1.0


def test_a_warning_begins_at_the_threshold_of_confidence() -> None:
    """The small model never says more than it can: nothing reaches 1."""
    anxious, sure = policy(confidence_threshold=0.1), policy(confidence_threshold=1.0)
    leak(anxious)
    leak(sure)
    assert anxious.warnings()
    assert not sure.warnings()


def test_a_statistical_score_below_the_threshold_counts_as_nothing() -> None:
    only = {"pattern": False, "ml": False}
    sensitive, deaf = policy(**only, threshold=0.7), policy(**only, threshold=1.0)
    now = leak(sensitive)
    leak(deaf)
    assert sensitive.predictor.forecasts(now)
    assert not deaf.predictor.forecasts(now)


def test_a_longer_window_has_a_slower_trend() -> None:
    trends = []
    for window_s in (300.0, 900.0):
        it = policy(window_s=window_s, ml=False)
        leak(it, until_s=600.0)
        trends.append(it.watching.nodes["node-0"].features.tracks[1].slope())  # type: ignore[attr-defined]
    assert trends[0] > 1.2 * trends[1] > 0.0


def test_telemetry_is_wanted_once_an_interval() -> None:
    assert policy(prediction_interval_s=20.0).telemetry_period_s == 20.0
    it = policy(prediction_interval_s=50.0, ml=False)
    assert it.telemetry_period_s == 50.0
    for second in range(100):
        it.observe(float(second), TelemetrySample("node-0", sample()))
    assert it.watching.nodes["node-0"].features.tracks[0].count == 3  # type: ignore[attr-defined]
