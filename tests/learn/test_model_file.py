from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.policy.predictor.nodes import small_model
from twin.errors import OperatorError
from twin.learn import model_file
from twin.policy.parameters import preset
from twin.policy.predictor.features import FEATURES
from twin.policy.predictor.statistical import CLASSES


def document() -> dict[str, Any]:
    model = small_model()
    names = ("base", "roots", "feature", "threshold", "left", "right", "missing_left")
    return {
        "format": model_file.FORMAT,
        "version": model_file.VERSION,
        "features": list(FEATURES),
        "classes": list(CLASSES),
        "horizon_s": 300.0,
        "window_s": 300.0,
        "interval_s": 20.0,
        "ensembles": [{name: getattr(each, name) for name in names} for each in model.ensembles],
        "fusion": {str(key): [[-6.0, 1.0, 2.0, 3.0]] * len(CLASSES) for key in range(1, 8)},
        "lead_s": model.lead_s,
        "data": {},
        "figures": {},
    }


def refused(path: Path) -> str:
    with pytest.raises(OperatorError) as caught:
        model_file.model_of(model_file.read(path), path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    model_file.write(document(), path)
    model = model_file.load(path)
    assert model.ensembles[0].threshold == small_model().ensembles[0].threshold
    assert model.digest == json.loads(path.read_text())["digest"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    model_file.write(document(), path)
    path.write_text(path.read_text().replace('"horizon_s":300.0', '"horizon_s":301.0'))
    assert "digest" in refused(path)
    path.write_text(path.read_text()[:100])
    assert "no model file" in refused(path)


def test_a_file_for_other_features_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    model_file.write(document() | {"features": list(FEATURES[:-1])}, path)
    assert "its features are not those of this version" in refused(path)


def test_a_file_of_another_format_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    model_file.write(document() | {"version": 99}, path)
    assert "model format 99" in refused(path)
    path.write_text("[]")
    assert "no model file" in refused(path)
    assert "ollamamax train" in refused(tmp_path / "absent.json")


@pytest.mark.parametrize("left", [0, 99, -3])
def test_a_tree_that_could_not_be_walked_to_its_end_is_refused(tmp_path: Path, left: int) -> None:
    path = tmp_path / "model.json"
    broken = document()
    broken["ensembles"][0] = {**broken["ensembles"][0], "left": [left, 0, 0]}
    model_file.write(broken, path)
    assert "cannot be used" in refused(path)


def test_a_policy_that_foresees_nothing_needs_no_file() -> None:
    assert model_file.model_for(preset("none")) is None


def test_the_shipped_model_is_whole_small_and_made_for_the_default_parameters() -> None:
    assert model_file.SHIPPED.stat().st_size < 1_000_000
    model = model_file.load()
    parameters = preset("default").predictor
    assert (model.window_s, model.interval_s) == (parameters.window_s, parameters.prediction_interval_s)
    assert model_file.read(model_file.SHIPPED)["data"]["shuffled_labels"] is False
