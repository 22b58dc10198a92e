from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.learn.worlds import SHORT
from twin.errors import OperatorError
from twin.experiment.engines import LocalEngine
from twin.learn import model_file
from twin.learn.collect import Asked, see
from twin.learn.scoring import class_scores, probabilities, smoothed_logits
from twin.learn.training import HORIZON_S, Grown, grow, train
from twin.learn.worlds import HELD_OUT_KINDS, world
from twin.policy.parameters import PredictorParameters
from twin.policy.predictor.features import FEATURES
from twin.policy.predictor.model import FIRST_TREES
from twin.policy.predictor.statistical import CLASSES


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return train(LocalEngine(1), 2, [SHORT])


def test_training_twice_gives_the_same_bytes(trained: dict[str, Any]) -> None:
    again = train(LocalEngine(1), 2, [SHORT])
    assert json.dumps(again, sort_keys=True) == json.dumps(trained, sort_keys=True)


def test_a_model_says_what_it_was_made_of(trained: dict[str, Any]) -> None:
    assert trained["digest"] == model_file.digest_of(trained)
    assert trained["data"]["worlds"] == {"training": 2, "calibration": 1}
    assert list(trained["data"]["scenarios"]) == ["short"]
    assert trained["data"]["rows_before_failures"]["gpu_memory"] > 0
    assert set(trained["data"]["versions"]) >= {"ollamamax", "scikit-learn"}


def test_scores_of_whole_tables_are_those_of_the_policy(trained: dict[str, Any]) -> None:
    seen = see(Asked("test", 7, HORIZON_S, PredictorParameters(), SHORT))
    model = model_file.model_of(trained)
    logits = class_scores(trained["ensembles"], seen.features)
    for row in range(0, len(seen.node), 37):
        vector = seen.features[row].astype(float).tolist()
        assert [it.logit(vector) for it in model.ensembles] == pytest.approx(logits[row].tolist())
    fused = probabilities(trained, seen, 7)
    smooth = smoothed_logits(trained, seen)
    for row in range(0, len(seen.node), 37):
        for which in range(len(CLASSES)):
            statistical, pattern = float(seen.scores[row, which]), float(seen.scores[row, len(CLASSES) + which])
            assert model.probability(7, which, statistical, pattern, float(smooth[row, which])) == pytest.approx(
                float(fused[row, which]), abs=1e-6
            )


def test_the_trees_are_those_that_the_learner_grew() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(1)
    features = random.random((3000, len(FEATURES))).astype(np.float32)
    features[random.random(features.shape) < 0.1] = np.nan
    features[:, 5] = 1.0
    features[:, 6] = np.nan
    positive = np.nan_to_num(features[:, 0]) + np.nan_to_num(features[:, 9]) > 1.2
    _, ensemble = grow(Grown(0, features, positive))
    kept = [column for column in range(len(FEATURES)) if column not in (5, 6)]
    with threadpool_limits(limits=1):
        learner = HistGradientBoostingClassifier(
            max_iter=40,
            max_leaf_nodes=10,
            learning_rate=0.15,
            min_samples_leaf=60,
            l2_regularization=5.0,
            early_stopping=False,
            random_state=0,
        ).fit(features[:, kept], positive)
    expected = learner.predict_proba(features[:, kept])[:, 1]
    ours = class_scores([ensemble], features)[:, 0]
    first = {**ensemble, "roots": ensemble["roots"][:FIRST_TREES]}
    asked = class_scores([first], features)[:, 0] >= ensemble["base"]
    assert 0.1 < asked.mean() < 0.9
    assert np.abs(1.0 / (1.0 + np.exp(-ours[asked])) - expected[asked]).max() < 1e-6
    assert (ours[~asked] < ensemble["base"]).all()


def test_more_evidence_never_makes_a_failure_less_likely(trained: dict[str, Any]) -> None:
    assert all(weight >= 0.0 for by_class in trained["fusion"].values() for row in by_class for weight in row[1:])


def test_worlds_without_failures_teach_nothing_and_say_so() -> None:
    calm = SHORT.model_copy(update={"faults": []})
    with pytest.raises(OperatorError, match="nothing failed in the training worlds"):
        train(LocalEngine(1), 1, [calm])


def test_training_worlds_have_other_hardware_and_kinds_than_those_that_test() -> None:
    training = [world("training", number)[0] for number in range(6)]
    test = [world("test", number)[0] for number in range(6)]
    hardware = [{it.cluster.hardware for it in worlds} for worlds in (training, test)]
    assert not hardware[0] & hardware[1]
    assert not {fault.about.kind for it in training for fault in it.faults} & set(HELD_OUT_KINDS)
    held_out = world("held_out", 0)[0]
    assert {fault.about.kind for fault in held_out.faults} <= set(HELD_OUT_KINDS)
    assert world("training", 3) == world("training", 3)


def test_in_half_of_the_worlds_somebody_has_a_small_model_probe_the_loads() -> None:
    worlds = [world("test", number)[0] for number in range(40)]
    asking = [it for it in worlds if "probes.load_path_model" in it.policy.overrides]
    assert 10 < len(asking) < 30
    for it in asking:
        assert it.policy.overrides["probes.load_path_model"] not in (it.workload.models or {}), (
            "nobody else asks for it"
        )


def test_what_a_policy_says_in_a_run_is_what_the_tables_say(trained: dict[str, Any]) -> None:
    """The same looks, the same smoothing: forecasts of a live predictor equal the offline probabilities."""
    seen = see(Asked("test", 7, HORIZON_S, PredictorParameters(), SHORT))
    fused = probabilities(trained, seen, 7)
    from tests.learn.follow import forecasts_of_a_run

    told = forecasts_of_a_run(SHORT, 7, model_file.model_of(trained))
    assert len(told) > 20
    for (node, time_s, failure), probability in told.items():
        row = np.flatnonzero((seen.node == seen.nodes.index(node)) & (np.abs(seen.time_s - time_s) < 1e-9))
        assert fused[row[0], CLASSES.index(failure)] == pytest.approx(probability, abs=2e-4)
