"""The table of drills: its scenarios, its arithmetic, and that it goes on where it was broken off."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from live.rig import drill_table
from live.rig.drill_page import as_markdown, said_of
from live.rig.drill_table import (
    FOLDER,
    QUIET,
    RESTART,
    RESULTS,
    WITHOUT,
    Row,
    rows_of,
    run_all,
    run_once,
    summary,
)
from live.rig.gateway_restart import line_of, restart_once
from live.rig.injection import check_possible
from live.rig.load import ClientView
from live.rig.model_folder import LAYER_MIN_BYTES, ModelFolder
from twin.errors import OperatorError
from twin.experiment.run import run_scenario
from twin.experiment.twin_world import TwinWorld
from twin.scenario.loader import load

FILES = sorted(FOLDER.glob("*.yaml"))
SILENT = Console(quiet=True)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_drill_can_be_done_to_real_nodes_and_its_claim_holds_in_the_twin(file: Path) -> None:
    scenario = load(file, ["replications=1"])
    check_possible(scenario, "real")
    found = run_scenario(TwinWorld(), scenario, None, lambda line: None).summary
    assert found["verdict"] == "pass", found["expectations"]
    assert not any(found["invariants"].values())


@pytest.mark.parametrize("name", ["server-killed", "runner-killed-every-second", "damaged-model"])
def test_without_a_policy_it_does_not(name: str) -> None:
    scenario = load(FOLDER / f"{name}.yaml", ["replications=1", "policy.preset=none"])
    assert run_scenario(TwinWorld(), scenario, None, lambda line: None).summary["verdict"] == "fail"


def line(row: str, seed: int, preset: str = "default", **more: Any) -> Row:
    return {
        "row": row, "nodes": "emulated", "seed": seed, "preset": preset, "offered": 9, "admitted": 9, "rejected": 0,
        "lost": 0, "failed_attempts": 2, "ttd_s": None, "ttm_s": None, "attempts_per_request": 1.0, "mean_s": 1.0,
        "p95_quiet_s": 2.0, "p95_fault_s": 3.0, "missed": [], "unobserved": [], "broken_invariants": [],
        "left_behind": [], **more,
    }  # fmt: skip


def test_a_row_has_the_median_and_the_worst_and_fails_with_one_run_that_missed() -> None:
    lines = [line("a", seed, ttm_s=ttm_s) for seed, ttm_s in enumerate([0.5, 0.1, 0.9])]
    [row] = summary([*lines, line("a", 3, lost=2, missed=["requests_lost"])])
    assert row["ttm_s"] == {"median": 0.5, "worst": 0.9, "runs": 3}
    assert (row["runs"], row["lost"]["worst"], row["verdict"], row["missed"]) == (4, 2, "fail", ["requests_lost"])


def test_what_was_not_observed_is_no_pass() -> None:
    [row] = summary([line("a", 1, unobserved=["ttm_s"])])
    assert (row["verdict"], row["ttm_s"]) == ("unknown", None)


def test_what_tolerance_costs_is_paired_by_seed() -> None:
    costs = {1: (1.1, 1.0), 2: (2.0, 2.0), 3: (3.3, 3.0)}
    lines = [line(QUIET, seed, "default", mean_s=on) for seed, (on, _) in costs.items()]
    lines += [line(QUIET, seed, WITHOUT, mean_s=off, lost=7) for seed, (_, off) in costs.items()]
    [row] = summary([*lines, line(QUIET, 4, "default", mean_s=99.0)])  # its other half is not there yet
    cost = row["tolerance_costs"]
    assert (cost["mean"], cost["runs"], cost["verdict"]) == (pytest.approx(0.2 / 3), 3, "unknown")
    assert cost["ci95"] == [pytest.approx(-0.0768, abs=1e-3), pytest.approx(0.2101, abs=1e-3)]
    assert "6.67 % of the mean latency (95 % interval -7.68 to 21.01 %)" in said_of(cost)
    assert row["lost"]["worst"] == 0  # that the other preset loses is no matter of this row


def test_a_fault_that_makes_the_slowest_more_than_twice_as_slow_is_no_pass() -> None:
    quiet = [line(QUIET, seed, p95_quiet_s=2.0, p95_fault_s=None) for seed in range(3)]
    [kept] = summary([*quiet, *(line("a", seed, p95_fault_s=4.0) for seed in range(4))], ["a"])
    [missed] = summary([*quiet, *(line("a", seed, p95_fault_s=4.1) for seed in range(4))], ["a"])
    assert (kept["verdict"], kept["missed"], kept["p95_fault_to_quiet"]["runs"]) == ("pass", [], 3)
    assert (missed["verdict"], missed["missed"]) == ("fail", ["p95_fault_to_quiet"])


def test_the_page_has_the_aims_of_each_drill_beside_what_came_of_it() -> None:
    lines = [line("server-killed", seed, ttm_s=ttm_s) for seed, ttm_s in enumerate([0.5, 0.1, 0.9])]
    lines += [line(QUIET, seed, preset, p95_fault_s=None) for seed in (1, 2) for preset in ("default", WITHOUT)]
    page = as_markdown(summary(lines), "real", rows_of(FOLDER, []), "python -m live.rig.drill_table", 2.0)
    assert (
        "| server-killed | requests_lost ≤ 0, ttm_s ≤ 2 | 3 | 27 | 0 | 6 | 0 (0) | 0.5 (0.9) | 1.5 (1.5) | pass | – |"
        in page
    )
    assert "On the quiet row, fault tolerance costs 0.00 % of the mean latency (95 % interval" in page


def given(out: Path, runs: int = 2, rows: list[str] | None = None) -> argparse.Namespace:
    return argparse.Namespace(out=out, nodes="emulated", runs=runs, seed=1, row=rows or [QUIET, "reset"])


def test_a_table_that_was_broken_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, str]] = []

    def run(file: Path, _nodes: str, seed: int, preset: str, _changes: object = ()) -> Row:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((file.stem, seed, preset))
        return {name: value for name, value in line(file.stem, seed, preset).items() if name not in ("row", "preset")}

    monkeypatch.setattr(drill_table, "run_once", run)
    with pytest.raises(KeyboardInterrupt):
        run_all(given(tmp_path), SILENT)
    assert asked == [(QUIET, 1, "default"), (QUIET, 1, WITHOUT), ("reset", 1, "default")]
    asked.clear()
    lines = run_all(given(tmp_path), SILENT)
    assert asked == [(QUIET, 2, WITHOUT), (QUIET, 2, "default"), ("reset", 2, "default")]
    assert len(lines) == len((tmp_path / RESULTS).read_text().splitlines()) == 6
    asked.clear()
    assert [row["drill"] for row in summary(run_all(given(tmp_path, rows=["reset"]), SILENT), ["reset"])] == ["reset"]
    assert asked == []


def test_a_row_that_does_not_exist_and_a_file_that_is_none_are_said(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"--row nonsense: there is no such drill; there are all-cold, black-hole"):
        rows_of(FOLDER, ["nonsense"])
    (tmp_path / RESULTS).write_text(json.dumps(line("reset", 1)) + "\n{\n")
    with pytest.raises(OperatorError, match=r"results.jsonl:2: no result of a drill"):
        run_all(given(tmp_path), SILENT)
    (tmp_path / RESULTS).write_text(json.dumps({"row": "reset"}) + "\n")
    with pytest.raises(OperatorError, match=r"results.jsonl:1: a result of another version"):
        run_all(given(tmp_path), SILENT)


def test_damage_to_a_nodes_model_files_leaves_the_shared_ones_alone(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "blobs").mkdir(parents=True)
    weights, template = shared / "blobs" / "weights", shared / "blobs" / "template"
    weights.write_bytes(bytes(range(256)) * (LAYER_MIN_BYTES // 128))
    template.write_text("short")
    whole = weights.read_bytes()
    folder = ModelFolder(shared, tmp_path / "own")
    folder.make()
    own = tmp_path / "own" / "blobs" / "weights"
    folder.set("model_files_truncated", 1.0)
    assert own.read_bytes() == whole[: len(whole) // 2]
    folder.set("model_files_truncated", 0.0)
    assert own.read_bytes() == whole
    folder.set("model_files_missing", 1.0)
    assert not own.exists()
    folder.make()  # as at a restart of the node: damage stays
    assert not own.exists()
    folder.set("model_files_missing", 0.0)
    assert own.read_bytes() == weights.read_bytes() == whole
    assert (tmp_path / "own" / "blobs" / "template").read_text() == "short"


@pytest.mark.real
@pytest.mark.long
@pytest.mark.parametrize("name", ["server-killed", "damaged-model"])
def test_a_drill_of_the_table_loses_nothing_on_emulated_nodes(name: str, toxiproxy_server: Path) -> None:
    found = run_once(FOLDER / f"{name}.yaml", "emulated", 1, "default", ["workload.duration_s=30"])
    assert (found["lost"], found["broken_invariants"]) == (0, [])
    assert found["admitted"] > 100


def client(outcome: Any, sent_s: float, end_s: float, error: str = "", terminal_records: int = 1) -> ClientView:
    view = ClientView("1", cast(Any, None), sent_s, outcome=outcome, error=error, end_s=end_s)
    view.terminal_records = terminal_records
    return view


def test_who_finds_nobody_listening_is_rejected_and_who_was_let_in_is_lost() -> None:
    views = [
        client("succeeded", 1.0, 2.0),
        client("succeeded", 11.5, 13.0),
        client("failed", 12.5, 12.6, "ClientConnectorError: refused", 0),
        client("rejected", 13.0, 13.4, "503", 0),
    ]
    found = line_of(views, 12.0, 13.5)
    assert (found["admitted"], found["rejected"], found["lost"], found["missed"]) == (2, 2, 0, [])
    assert (found["ttm_s"], found["p95_fault_s"], found["p95_quiet_s"]) == (pytest.approx(1.4), 1.5, 1.0)
    cut = line_of([*views, client("failed", 11.9, 12.5, "ServerDisconnectedError: ", 0)], 12.0, 13.5)
    assert (cut["lost"], cut["missed"]) == (1, ["requests_lost"])


@pytest.mark.real
@pytest.mark.long
def test_an_orderly_restart_of_the_gateway_loses_nothing(toxiproxy_server: Path) -> None:
    file = rows_of(FOLDER, [RESTART])[RESTART]
    found = restart_once(file, "emulated", 1, "default", ["workload.duration_s=20"])
    assert (found["lost"], found["missed"], found["unobserved"]) == (0, [], [])
    assert found["admitted"] > 80
