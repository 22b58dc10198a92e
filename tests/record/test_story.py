from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.record.runs import READ, Run
from tests.reports.synthetic import crash
from twin.record import cached
from twin.record.cached import folder_digest, story_of
from twin.record.decisions import nodes_at, route_calls
from twin.record.figures import compute_figures
from twin.record.query import query
from twin.record.reader import open_run
from twin.record.recovery import outcomes
from twin.record.story import tell


def test_a_story_has_the_figures_and_recoveries_of_the_record() -> None:
    record = crash()
    story = tell(record)
    assert story.figures == compute_figures(record)
    assert story.recoveries[0]["ttd"]["value_s"] == 0.5
    assert story.recoveries[0]["ended_by"] == "action"


def test_troubles_are_counted_as_the_figures_count_them() -> None:
    record = crash(requests=3000, lost=3)
    requests = record.table("requests")
    _, lost, _ = outcomes(requests)
    story = tell(record)
    assert story.troubles["lost"] == int(lost.sum()) == 3
    assert story.troubles["saved"] == story.troubles["retried"] - 3
    assert [row["fate"] for row in story.troubled[:4]] == ["lost", "lost", "lost", "saved"]
    assert story.troubled[3]["failed_attempts"][0]["node"] == "node-3"


def test_the_states_of_a_node_are_those_of_the_record_and_not_of_its_samples() -> None:
    spans = [(row["from"], row["to"], row["state"]) for row in tell(crash()).states if row["node"] == "node-3"]
    assert spans == [
        (0.0, 60.0, "serving"),
        (60.0, 60.5, "faulty"),
        (60.5, 60.75, "incident"),
        (60.75, 64.0, "restarting"),
        (64.0, 66.0, "incident"),
        (66.0, 76.0, "proving"),
        (76.0, 200.0, "serving"),
    ]


def test_the_blast_radius_holds_the_requests_between_injection_and_recovery() -> None:
    run = Run().every(1.0, 1.0, 100.0, node="node-1").fault(30.0, ended_s=35.0)
    run.request(34.0, 36.0, node="node-0", outcome="failed", attempts=2).failed_attempt(33.0)
    run.request(40.0, 41.0, node="node-0")
    (blast,) = tell(run.end()).blast
    assert (blast["from"], blast["lost"], blast["saved"]) == (30.0, 1, 0)
    assert blast["attempts_failed"] == 1 and blast["nodes_with_failures"] == 1
    assert blast["to"] > 36.0


def test_decisions_are_numbered_in_the_order_of_time_with_reasons_and_results() -> None:
    first, second = tell(crash()).decisions
    assert (first["number"], first["what"], first["why"]) == (1, "incident: server_down", "2 × refused")
    assert (second["number"], second["what"]) == (2, "restart")
    assert second["result"] == "done pid 5 after 3.25 s"


def test_a_story_is_plain_data_and_the_same_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    crash(tmp_path / "run")
    first = story_of(tmp_path / "run")
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
    monkeypatch.setattr(cached, "tell", lambda record: pytest.fail("it is in the cache"))
    assert json.dumps(asdict(story_of(tmp_path / "run"))) == json.dumps(asdict(first))


def test_a_damaged_cache_and_one_that_cannot_be_written_only_cost_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    crash(tmp_path / "run")
    first = story_of(tmp_path / "run")
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text('{"figures": ')
    assert story_of(tmp_path / "run").figures == first.figures
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert story_of(tmp_path / "run").figures == first.figures


def test_another_run_has_another_digest(tmp_path: Path) -> None:
    for seed in (1, 2):
        crash(tmp_path / str(seed), seed=seed)
    assert folder_digest(tmp_path / "1") == folder_digest(tmp_path / "1")
    assert folder_digest(tmp_path / "1") != folder_digest(tmp_path / "2")


def test_why_a_request_went_to_a_node_comes_from_the_journal(tmp_path: Path) -> None:
    run = Run(tmp_path / "run").request(1.0, 2.0)
    run.recorder.telemetry.add((0.5, "node-0", 3, 0, 1, "serving", *READ))
    run.recorder.telemetry.add((9.0, "node-0", 9, 0, 1, "down", *READ))
    answer = {"kind": "dispatch", "node": "node-0", "first_token_deadline_s": 4.0, "stall_timeout_s": "Infinity"}
    payload = json.dumps({"request": {"request_id": 0}, "attempt": 1})
    run.recorder.observations.add((0, 1.0, "route", None, "node-0", 0, payload, json.dumps(answer), "gateway-0"))
    run.end()
    with query(open_run(tmp_path / "run")) as ask:
        (call,) = route_calls(ask, 0)
        (node,) = nodes_at(ask, 1.0)
        assert route_calls(ask, 1) == []
    assert call["attempt"] == 1
    assert call["said"] == "sent to node-0; its first token within 4 s, no limit on its silence"
    assert (node["health"], node["in flight"]) == ("serving", 3)
