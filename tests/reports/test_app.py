"""Each page of the app on real folders, in Streamlit's own test harness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from reports.app import shared
from tests.reports.conftest import Made
from tests.reports.evaluation import EVALUATION

PAGES = ("runs", "one_run", "recovery", "overhead", "prediction", "compare", "worlds", "sweep", "cluster")
LIMIT_S = 60.0
Open = Callable[[str], AppTest]


def draw(name: str) -> None:
    """The script of a page: Streamlit runs the source of this function."""
    import importlib

    importlib.import_module(f"reports.app.{name}").page()


@pytest.fixture
def pages(made: Made, monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(made.root, monkeypatch)


def opener(root: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv(shared.ROOT_VARIABLE, str(root))
    monkeypatch.setenv("OLLAMAMAX_ADMIN", "http://127.0.0.1:9")
    shared._listed.clear()

    def opened(name: str) -> AppTest:
        page = AppTest.from_function(draw, kwargs={"name": name}, default_timeout=LIMIT_S).run()
        assert not page.exception, page.exception
        return page

    return opened


def words_of(page: AppTest) -> str:
    """All that a reader can read but tables and charts."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "warning", "error", "code")
    return "\n".join(str(each.value) for kind in kinds for each in getattr(page, kind)).replace("\\", "")


def charts_of(page: AppTest) -> list[Any]:
    return [json.loads(each.proto.spec) for each in page.get("vega_lite_chart")]


def test_the_runs_are_listed_with_verdicts_and_filtered(pages: Open) -> None:
    page = pages("runs")
    table = page.dataframe[0].value
    assert set(table["Kind"]) == {"runs", "comparison", "sweep"}
    assert set(table["World"]) == {"twin", "live"}
    assert "✓ Pass" in set(table["Verdict"])
    page.multiselect(key="runs_worlds").set_value(["live"]).run()
    assert list(page.dataframe[0].value["World"]) == ["live"]
    page.text_input(key="runs_text").set_value("no such name").run()
    assert "Nothing fits the filters" in words_of(page)


def test_a_run_opens_with_its_claim_and_verdict_before_all_else(pages: Open) -> None:
    page = pages("one_run")
    assert page.title[0].value == "A crashed node costs no admitted request."
    assert "✓ Pass" in page.markdown[0].value
    said = words_of(page)
    for heading in ("Decisions", "Blast radius", "Failed and retried requests", "Invariants", "Run it again"):
        assert heading in said
    assert "ollamamax run" in page.code[-1].value
    drawn = charts_of(page)
    assert len(drawn) == 8
    assert all(chart["config"]["font"].startswith("system-ui") for chart in drawn)


def test_another_run_of_the_same_result_can_be_chosen(pages: Open, made: Made) -> None:
    page = pages("one_run")
    box = next(each for each in page.selectbox if each.label == "Run")
    assert len(box.options) == 2
    box.select_index(1).run()
    assert not page.exception
    assert page.title[0].value == "A crashed node costs no admitted request."


def test_recovery_times_are_drawn_beside_what_is_promised(pages: Open) -> None:
    page = pages("recovery")
    said = words_of(page)
    assert "policy.preset=default: median" in said
    assert "within the promised 60 s" in said
    assert "Not yet recovered from" in said
    page.segmented_control(key="recovery_time").set_value("ttd_s").run()
    assert not page.exception
    assert "Not yet detected" in words_of(page)


def test_overhead_prefers_the_comparison_in_which_nothing_broke(pages: Open, made: Made) -> None:
    (made.root / "gateway-bench.json").write_text(
        json.dumps(
            {
                "targets": [
                    {"target": "ollamamax", "added_p50_ms": {"median": 0.3, "low": 0.2, "high": 0.4, "rounds": 3}}
                ]
            }
        )
    )
    page = pages("overhead")
    said = words_of(page)
    assert "What it costs where nothing breaks" in said
    assert "not only what watching costs" not in said
    assert "Probe traffic" in said
    assert "Time that a proxy adds to a request, median" in said
    (made.root / "gateway-bench.json").unlink()
    shared._listed.clear()
    assert "python -m live.gateway.bench --json" in words_of(pages("overhead"))


def test_prediction_draws_an_evaluation_and_the_telemetry_of_the_node_that_failed(pages: Open, made: Made) -> None:
    assert "ollamamax evaluate --json" in words_of(pages("prediction"))
    path = made.root / "evaluation.json"
    path.write_text(json.dumps(EVALUATION))
    page = pages("prediction")
    said = words_of(page)
    for heading in ("Recall against false alarms", "Class by class", "Lead time", "Reliability", "Methods", "One node"):
        assert heading in said
    assert "1 fault (server_crash from 20.0 s) held node-1." in said
    path.write_text(json.dumps(EVALUATION | {"calibration": {}}))
    assert "is not of this version" in words_of(pages("prediction"))
    path.unlink()


def test_a_comparison_says_in_a_sentence_what_is_better(pages: Open) -> None:
    page = pages("compare")
    boxes = page.selectbox(key="compare_shelf")
    broken = next(place for place, option in enumerate(boxes.options) if "Fail" in option)
    boxes.select_index(broken).run()
    assert not page.exception
    said = words_of(page)
    assert "Against policy.preset=none: policy.preset=default is" in said
    assert "Ranking" in said
    assert charts_of(page)


def test_twin_and_live_gives_each_figure_a_verdict(pages: Open) -> None:
    page = pages("worlds")
    said = words_of(page)
    assert "cannot be told from live" in said and "0 are off" in said
    assert "did not run the same" not in said
    assert len(charts_of(page)) == 1 + 6 + 4


def test_a_sweep_is_a_map_and_a_curve(pages: Open) -> None:
    page = pages("sweep")
    assert "The claim holds at" in words_of(page)
    assert len(charts_of(page)) == 2
    page.selectbox(key="sweep_figure").set_value("e2e_s.p95").run()
    assert not page.exception
    assert "Arrival to end, p95" in words_of(page)


def test_without_a_controller_the_cluster_page_says_how_to_start_one(pages: Open) -> None:
    said = words_of(pages("cluster"))
    assert "http://127.0.0.1:9/-/nodes does not answer" in said
    assert "--admin 127.0.0.1:11436" in said


@pytest.mark.parametrize("name", [name for name in PAGES if name != "cluster"])
def test_an_empty_folder_is_explained_with_a_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opener(tmp_path, monkeypatch)(name)
    assert page.info
    assert any("ollamamax" in each.value for each in page.code)


@pytest.mark.parametrize("name", [name for name in PAGES if name != "cluster"])
def test_damaged_folders_break_no_page(
    name: str, damaged: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opener(tmp_path, monkeypatch)(name)
    if name == "runs":
        problems = dict(zip(page.dataframe[0].value["Folder"], page.dataframe[0].value["Problem"], strict=True))
        assert set(problems) == set(damaged)
        for folder, said in (
            ("old", "record version 1"),
            ("no-table", "actions.parquet is missing"),
            ("cut-table", "requests.parquet cannot be read"),
            ("cut-manifest", "manifest.json cannot be read"),
            ("half-written", "half-written"),
            ("no-summary", "the runs go on, or were broken off"),
            ("cut-study", "is damaged"),
            ("other-study", "not of this version"),
        ):
            assert said in problems[folder], (folder, problems[folder])
