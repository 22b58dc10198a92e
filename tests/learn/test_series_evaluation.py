"""The evaluation of a folder: what it prints, what it refuses, and that it cannot look at labels or ahead."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.learn.series import machine, write
from tests.test_command_line import ollamamax
from twin.errors import OperatorError
from twin.learn import series_evaluation
from twin.learn.series_baselines import BASELINES, baseline_scores
from twin.learn.series_evaluation import evaluate_folder
from twin.learn.series_files import read_folder, sampling_period_s
from twin.learn.series_words import heading, rows

WIDE = "recall_at_1_false_page_per_machine_day"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate_folder(write(tmp_path_factory.mktemp("asd-like"), machines=2), 300.0, processes=1)


def test_the_detector_finds_the_events_of_a_plain_folder_and_chance_does_not(found: dict[str, Any]) -> None:
    assert (found["machines"], found["events"], found["machine_days"]) == (2, 6, 6.0)
    assert found["detector"][WIDE]["recall"] == 1.0
    assert found["detector_on_shifted_labels"][WIDE] < 0.3
    assert found["baselines"]["random"][WIDE]["recall"] < 0.5
    assert found["detector"]["auc_pr"] > found["labelled_share"]


def test_every_part_is_switched_off_once_and_every_baseline_is_there(found: dict[str, Any]) -> None:
    assert {"no_residual", "no_ewma", "no_level", "no_auto_regression", "no_drift_adaptation"} <= set(
        found["ablations"]
    )
    assert set(found["baselines"]) == {"auto_regression_ewma", *BASELINES}
    table = rows(found)
    assert [row[""] for row in table][:2] == ["detector", "no residual"]
    assert len(table) == 1 + len(found["ablations"]) + len(found["baselines"])
    assert "2 machines, 6.0 machine-days, 6 events" in heading(found)[0]
    json.dumps(found, allow_nan=False)


def test_what_is_found_is_the_same_again_whatever_the_number_of_processes(
    found: dict[str, Any], tmp_path: Path
) -> None:
    again = evaluate_folder(write(tmp_path / "again", machines=2), 300.0, processes=2)
    assert again | {"data": ""} == found | {"data": ""}


def test_no_detector_sees_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    scores = series_evaluation._scores

    def spy(task: series_evaluation._Task) -> Any:
        seen.append(task.file.labels.size)
        return scores(task)

    monkeypatch.setattr(series_evaluation, "_scores", spy)
    evaluate_folder(write(tmp_path / "data", machines=1), 300.0, processes=1)
    assert seen == [0] * 4


@pytest.mark.parametrize("what", [*series_evaluation.RUNS, "baselines"])
def test_no_score_depends_on_what_comes_later(tmp_path: Path, what: str) -> None:
    file = read_folder(write(tmp_path / "data", machines=1))[0]
    later = file.test.copy()
    later[500:] = later[500:][::-1] * 3.0
    whole, changed = (
        series_evaluation._scores(series_evaluation._Task(each, 300.0, what))[1]
        for each in (file, replace(file, test=later))
    )
    for name, (calibration, test) in whole.items():
        if name != "random":
            assert np.allclose(changed[name][0], calibration)
            assert np.allclose(changed[name][1][:500], test[:500])
            assert not np.allclose(changed[name][1][500:], test[500:])


def test_nan_gaps_constant_columns_and_few_rows_are_scored(tmp_path: Path) -> None:
    data = machine(1)
    data["train"][100:160, 2] = math.nan
    data["test"][50:80] = math.nan
    np.savez(tmp_path / "gaps.npz", **data)  # type: ignore[arg-type]
    np.savez(tmp_path / "tiny.npz", train=np.arange(40.0).reshape(20, 2), test=np.ones((1, 2)), test_label=np.zeros(1))
    result = evaluate_folder(tmp_path, 300.0, processes=1)
    assert (result["machines"], result["events"], result["columns"]) == (2, 3, [2, 6])
    json.dumps(result, allow_nan=False)


def test_a_folder_without_events_has_no_recall(tmp_path: Path) -> None:
    data = machine(1)
    np.savez(tmp_path / "calm.npz", **(data | {"test_label": np.zeros(len(data["test"]))}))  # type: ignore[arg-type]
    result = evaluate_folder(tmp_path, 300.0, processes=1)
    assert result["detector"][WIDE]["recall"] is None
    assert rows(result)[0]["at 1"] == "-"
    assert heading(result)[-1].endswith("- and -")
    assert result["chosen_without_the_machine"] is None


def test_a_baseline_that_is_given_only_what_is_missing_gives_finite_scores() -> None:
    train, test = np.full((30, 2), math.nan), np.full((5, 2), math.nan)
    for raw in BASELINES.values():
        assert all(np.isfinite(part).all() for part in baseline_scores(train, test, raw))


def good() -> dict[str, Any]:
    return {"train": np.zeros((30, 2)), "test": np.zeros((10, 2)), "test_label": np.zeros(10)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": None}, "lacks train"),
        ({"test_label": np.zeros(9)}, "must be 0 or 1 for each of the 10 rows"),
        ({"test_label": np.full(10, 2)}, "must be 0 or 1"),
        ({"test": np.zeros((10, 3))}, "the same columns"),
        ({"train": np.zeros(30)}, "the same columns"),
        ({"train": np.zeros((5, 2))}, "at least 20"),
        ({"train": np.full((30, 2), "x")}, "not numbers"),
        ({"train": np.array([[{}]] * 30, dtype=object)}, "is no .npz of numbers"),
    ],
)
def test_a_file_that_is_not_of_the_form_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    arrays = {key: value for key, value in (good() | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(OperatorError, match=said) as caught:
        read_folder(tmp_path)
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(OperatorError, match=r"bad\.npz: is no .npz of numbers"):
        read_folder(tmp_path)


def test_a_folder_that_is_not_there_or_empty_or_of_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no such folder"):
        read_folder(tmp_path / "missing")
    with pytest.raises(OperatorError, match=r"no \.npz file"):
        read_folder(tmp_path)
    write(tmp_path / "smd", machines=1)
    with pytest.raises(OperatorError, match="its folders smd have some"):
        read_folder(tmp_path)


def test_the_sampling_period_is_what_is_asked_for_or_that_of_a_known_data_set_and_it_says_which() -> None:
    assert sampling_period_s(Path("/data/smd"), ["m"], 7.0) == (7.0, "as --period-s says")
    assert sampling_period_s(Path("/data/SMD-more"), ["m"], None)[0] == 60.0
    assert sampling_period_s(Path("/data/asd"), ["m"], None)[0] == 300.0
    assert sampling_period_s(Path("/data/x"), ["omi-1", "omi-7"], None)[0] == 300.0
    period_s, how = sampling_period_s(Path("/data/x"), ["a", "b"], None)
    assert (period_s, how) == (60.0, "assumed: nothing says it, so 60 s; --period-s sets it")


def test_a_model_and_data_are_not_evaluated_together_and_periods_have_bounds(tmp_path: Path) -> None:
    done = ollamamax("evaluate", str(tmp_path / "model.json"), "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ollamamax: give either a model file or --data, not both")
    alone = ollamamax("evaluate", "--period-s", "60")
    assert (alone.returncode, alone.stderr.startswith("ollamamax: --period-s is for --data")) == (2, True)
    with pytest.raises(OperatorError, match="--period-s 0"):
        evaluate_folder(tmp_path, 0.0)


def test_the_command_prints_a_table_or_one_json_object_and_its_progress_on_stderr(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "smd", machines=1, train=300, test=200))
    done = ollamamax("evaluate", "--data", folder, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["machines"], summary["period_s"]) == (1, 60.0)
    assert "4 of 4 runs" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(("name", "wide", "tight"), [("smd", 0.60, 0.39), ("asd", 0.79, 0.62)])
def test_on_real_machines_it_is_at_least_as_good_as_was_published(name: str, wide: float, tight: float) -> None:
    folder = Path(os.environ.get("OLLAMAMAX_DATA", "")) / name
    if "OLLAMAMAX_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"OLLAMAMAX_DATA names no folder with {name}/: the data set is not part of the project")
    result = evaluate_folder(folder)
    assert result["detector"][WIDE]["recall"] >= wide
    assert result["detector"]["recall_at_0.25_false_pages_per_machine_day"]["recall"] >= tight
    assert result["detector_on_shifted_labels"][WIDE] < 0.15
    assert result["detector"]["deployable_for_1_false_page_per_machine_day"]["false_pages_per_machine_day"] <= 1.0
