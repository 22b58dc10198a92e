from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from tests.learn.worlds import SHORT, failure, seen, truth
from twin.experiment.engines import LocalEngine
from twin.experiment.twin_world import TwinWorld
from twin.learn.baselines import accrual, autoregression, rules
from twin.learn.collect import Asked, see
from twin.learn.downtime import ARMS, Oracle, downtime_minutes, summary
from twin.learn.evaluation import figures, poisson, shares, wilson
from twin.learn.training import HORIZON_S, train
from twin.policy.parameters import PredictorParameters
from twin.policy.predictor.features import PLACE


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The figures of a model that was trained on the very world that it is measured in: recall is no matter here."""
    document = train(LocalEngine(1), 2, [SHORT])
    one = see(Asked("test", 3, HORIZON_S, PredictorParameters(), SHORT))
    return figures(document, [dataclasses.replace(one, split=split) for split in shares(1)])


def test_every_method_stands_in_the_table_with_its_counts_and_intervals(found: dict[str, Any]) -> None:
    methods = {row["method"]: row for row in found["methods"]}
    assert {"predictor", "without ml", "only pattern", "isolation forest", "AR + EWMA", "threshold rule"} <= set(
        methods
    )
    row = methods["predictor"]
    assert (row["failures"], row["look_alikes"]) == (2, 1)
    assert row["foretold"] == 2
    assert row["recall_ci95"][0] < row["recall"] <= row["recall_ci95"][1]
    assert row["lead_s"]["median"] > 30.0


def test_accuracy_stands_only_beside_that_of_never_fails(found: dict[str, Any]) -> None:
    assert set(found["calibration"]) >= {"accuracy", "accuracy_of_never_fails", "ece", "brier", "points"}


def test_the_figures_are_plain_data(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))


def test_the_budget_of_fifty_nodes_is_measured(found: dict[str, Any]) -> None:
    assert found["budget"]["nodes"] == 50
    assert found["budget"]["median_ms"] > 0.0


def test_reliability_counts_every_look_and_class_once(found: dict[str, Any]) -> None:
    reliability = found["calibration"]
    assert sum(point["n"] for point in reliability["points"]) == reliability["rows"]


def test_intervals_are_those_of_the_textbook() -> None:
    assert wilson(8, 10) == [0.4902, 0.9433]
    assert wilson(0, 0) is None
    assert poisson(0, 1.0) == [0.0, 3.6889]
    assert poisson(10, 2.0) == [2.3977, 9.1952]


def test_the_threshold_rule_counts_in_limits() -> None:
    world = seen(truth(), 200.0)
    world.features[:, PLACE["vram_free"]] = 0.9
    world.features[:, PLACE["disk_free"]] = 0.9
    world.features[3, PLACE["temperature"]] = 2 * 83.0
    score = rules(world)
    assert score[3] == pytest.approx(2.0)
    assert score[2] < 1.0


def test_a_heartbeat_that_does_not_come_raises_phi() -> None:
    world = seen(truth(), 2_000.0)
    world.time_s[60:] += 100.0
    assert accrual(world)[60] > 1.0 > accrual(world)[59]


def test_the_auto_regressive_score_is_the_loudest_signal() -> None:
    world = seen(truth(), 200.0)
    world.features[4, PLACE["ram_used.change"]] = 17.0
    assert autoregression(world)[4] == 17.0


def test_an_oracle_knows_what_comes_within_the_horizon_and_no_look_alike() -> None:
    oracle = Oracle(SHORT, 300.0)
    assert not oracle.forecasts(550.0)
    (known,) = oracle.forecasts(700.0)
    assert (known.node, known.failure, known.lead_s) == ("node-0", "gpu_memory", 200.0)
    assert not oracle.forecasts(1100.0)


def test_downtime_is_nothing_where_all_is_served_in_time() -> None:
    calm = SHORT.model_copy(update={"faults": []})
    assert downtime_minutes(TwinWorld().run(calm, 1, None, lambda line: None)) == 0.0


def test_the_gap_is_closed_by_what_the_predictor_saves_of_what_the_oracle_saves() -> None:
    row = summary(np.array([[10.0, 9.0, 7.0, 4.0], [6.0, 6.0, 5.0, 2.0]]), dict.fromkeys(ARMS, 0))["worlds"][0]
    assert row["gap_closed"] == pytest.approx(0.4)
    assert row["difference_minutes"] == pytest.approx(-2.0)
    assert row["worlds_worse"] == 0


def test_a_failure_that_did_not_show_is_not_counted_among_those_that_did() -> None:
    assert failure(10.0).foretellable is False
    assert failure(10.0, signs_s=5.0).foretellable is True
