from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.reports.synthetic import crash
from twin.errors import OperatorError
from twin.experiment.library import documents, lines_of, shelf_of, shelves


def test_an_empty_folder_and_none_at_all_hold_nothing(tmp_path: Path) -> None:
    assert shelves(tmp_path) == []
    assert shelves(tmp_path / "none") == []


def test_a_single_run_and_the_runs_of_a_command_are_one_line_each(tmp_path: Path) -> None:
    crash(tmp_path / "alone")
    for seed in (1, 2):
        crash(tmp_path / "deep" / "together" / f"seed-{seed}", seed=seed)
    found = {shelf.name: shelf for shelf in shelves(tmp_path)}
    assert set(found) == {"alone", "together"}
    assert [run.name for run in found["together"].runs] == ["seed-1", "seed-2"]
    assert found["alone"].problem == ""
    assert "has no summary.json" in found["together"].problem


def test_runs_that_can_be_read_are_there_beside_one_that_cannot(tmp_path: Path) -> None:
    for seed in (1, 2):
        crash(tmp_path / "runs" / f"seed-{seed}", seed=seed)
    (tmp_path / "runs" / "seed-1" / "requests.parquet").write_bytes(b"")
    shelf = shelf_of(tmp_path / "runs")
    assert [run.name for run in shelf.runs] == ["seed-2"]
    assert "seed-1/requests.parquet cannot be read" in shelf.problem


def test_a_folder_that_is_neither_is_refused_in_one_line(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "neither a run nor a study"), (tmp_path / "none", "no folder")):
        with pytest.raises(OperatorError, match=said):
            shelf_of(folder)


def test_a_link_that_leads_back_does_not_hold_it_up(tmp_path: Path) -> None:
    crash(tmp_path / "run")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert [shelf.name for shelf in shelves(tmp_path)] == ["run"]


def test_folders_that_may_not_be_read_are_listed_with_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash(tmp_path / "open")
    crash(tmp_path / "closed")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    problems = {shelf.name: shelf.problem for shelf in shelves(tmp_path)}
    assert "may not be read by this user" in problems.pop("closed")
    assert problems == {"open": ""}


def test_lines_that_are_cut_off_are_left_out(tmp_path: Path) -> None:
    line = {"settings": {}, "seed": 1, "figures": {}, "recoveries": []}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line)[:20])
    assert len(lines_of(tmp_path)) == 1
    shutil.rmtree(tmp_path)
    assert lines_of(tmp_path) == []


def test_documents_are_known_by_their_keys(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"targets": []}')
    (tmp_path / "two.json").write_text('{"targets": ')
    (tmp_path / "three.json").write_text("[]")
    assert [path.name for path, _ in documents(tmp_path, {"targets"})] == ["one.json"]
