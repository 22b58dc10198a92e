"""The check for leaks: it passes a model that knows nothing, and finds one that reads the future."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from typer.testing import CliRunner

import ollamamax
from tests.learn.worlds import SHORT
from twin.errors import OperatorError
from twin.experiment.engines import LocalEngine
from twin.learn import leaks
from twin.learn.collect import Asked, Seen, see
from twin.learn.leaks import checked, shares, words
from twin.learn.training import HORIZON_S, TRAINING_WORLDS, train
from twin.policy.parameters import PredictorParameters


@pytest.fixture(scope="module")
def one() -> Seen:
    return see(Asked("test", 3, HORIZON_S, PredictorParameters(), SHORT))


@pytest.fixture(scope="module")
def models() -> tuple[dict[str, Any], dict[str, Any]]:
    engine = LocalEngine(1)
    return train(engine, 2, [SHORT]), train(engine, 2, [SHORT], shuffle_labels=True)


def of_each_split(one: Seen) -> list[Seen]:
    return [dataclasses.replace(one, split=split) for split in shares(1)]


def test_trees_from_shuffled_labels_foretell_less_than_those_from_true_ones(
    models: tuple[dict[str, Any], dict[str, Any]], one: Seen
) -> None:
    knows, blind = models
    assert blind["data"]["shuffled_labels"] is True
    found = checked(knows, blind, of_each_split(one))
    strict = {row["what"]: row for row in found["rows"] if row["alarms"] == "strict"}
    assert strict["trees, labels as they are"]["foretold"] == 2
    assert strict["trees, labels shuffled"]["foretold"] < 2
    assert strict["predictor, signs as they are"]["foretold"] == 2
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_who_foretells_what_has_no_precursor_is_found(models: tuple[dict[str, Any], dict[str, Any]], one: Seen) -> None:
    """The world has its signs, and is given out as one without."""
    found = checked(*models, of_each_split(one))
    removed = [row for row in found["rows"] if row["what"] == "predictor, signs removed"]
    assert {row["foretold"] for row in removed} == {2}
    assert not all(row["at_chance"] for row in removed)
    assert not found["passed"]
    assert "LEAKS" in {row["verdict"] for row in words(found)}


def test_the_command_prints_the_table_and_fails_where_something_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "what": "trees, labels shuffled", "alarms": "loose", "failures": 40, "foretold": 1, "recall": 0.025,
        "recall_ci95": [0.0, 0.13], "alarms_a_node_day": 4.0, "chance": 0.0124, "at_most": 4, "at_chance": True,
        "is_check": True,
    }  # fmt: skip
    asked: list[tuple[int, int]] = []

    def check(document: Any, engine: Any, worlds: int, training_worlds: int, progress: Any) -> dict[str, Any]:
        asked.append((worlds, training_worlds))
        return {"rows": [row], "passed": row["at_chance"]}

    monkeypatch.setattr(leaks, "leak_check", check)
    runner = CliRunner()
    result = runner.invoke(ollamamax.app, ["evaluate", "--shuffle-labels", "--worlds", "200"])
    assert result.exit_code == 0, result.output
    assert "at chance" in result.output
    assert "no leak was found" in result.output
    assert asked == [(200, TRAINING_WORLDS)], "no more training worlds than the shipped model has"
    row |= {"foretold": 20, "at_chance": False}
    result = runner.invoke(ollamamax.app, ["evaluate", "--shuffle-labels"])
    assert result.exit_code == 1
    assert "it leaks" in result.output


def test_it_is_for_models_not_for_series() -> None:
    result = CliRunner().invoke(ollamamax.app, ["evaluate", "--shuffle-labels", "--data", "somewhere"])
    assert isinstance(result.exception, OperatorError)
    assert "--shuffle-labels is for a model" in str(result.exception)
