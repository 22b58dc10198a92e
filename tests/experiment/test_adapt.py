"""A wrong setting is found from what a run shows, mended by trials in the twin, watched, and rolled back where worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ollamamax
from tests.scenario.documents import scenario
from twin.experiment import adapt as driver
from twin.experiment.adapt import AdaptationReport, adapt, recent_load, seen
from twin.experiment.twin_world import TwinWorld
from twin.policy.adaptation import Adaptation
from twin.record.reader import RunRecord
from twin.scenario.schema import Scenario


def bursts(overrides: dict[str, Any], rate_rps: float = 3.0) -> Scenario:
    return scenario(
        cluster__nodes=3,
        cluster__models={"llama3.1:8b": {"replicas": 3}},
        workload__arrivals={"kind": "bursty", "rate_rps": rate_rps, "cv": 3.0},
        workload__duration_s=60,
        policy={"overrides": overrides},
        record={"journal": False},
        faults=[],
    )


def run(it: Scenario) -> RunRecord:
    return TwinWorld().run(it, 1, None, lambda line: None)


@pytest.fixture
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TRIAL_S", 60.0)


def mended() -> tuple[Adaptation, AdaptationReport]:
    it = bursts({"admission.queue_max": 2})
    adaptation = Adaptation(it.policy.parameters())
    return adaptation, adapt(run(it), adaptation, replications=4, jobs=1)


@pytest.mark.usefixtures("short_trials")
def test_a_queue_that_is_too_short_is_found_and_mended_and_what_follows_worse_is_rolled_back() -> None:
    adaptation, report = mended()
    assert report.seen.symptoms["queue_full"] > 10
    assert report.applied is not None
    assert (report.applied.key, report.applied.value) == ("admission.queue_max", 8)
    assert "bad requests a run (95 % -" in report.evidence
    worse = next(trial for trial in report.trials if trial.proposal.value == 0)
    assert worse.difference > 0.0
    assert adaptation.parameters.admission.queue_max == 8
    # In the next interval three times as much arrives, and far more is bad than the change can be blamed for or not.
    assert not adaptation.watched(60.0, seen(run(bursts({"admission.queue_max": 8}, rate_rps=9.0))))
    assert adaptation.parameters.admission.queue_max == 2
    assert "rolled back" in adaptation.history[-1]


@pytest.mark.usefixtures("short_trials")
def test_what_is_well_is_left_alone() -> None:
    it = bursts({}, rate_rps=1.0)
    adaptation = Adaptation(it.policy.parameters())
    report = adapt(run(it), adaptation, replications=2, jobs=1)
    assert report.trials == []
    assert report.evidence == "nothing that was seen points at a setting"
    assert adaptation.parameters == it.policy.parameters()


def test_the_recent_load_has_the_rate_the_bursts_and_the_lengths_of_the_run_and_its_incidents_as_faults() -> None:
    it = bursts({})
    it = Scenario.model_validate(
        it.model_dump(mode="python", by_alias=True, exclude_unset=True)
        | {"faults": [{"kind": "server_crash", "at_s": 30, "target": "node-1"}]}
    )
    record = run(it)
    recent = recent_load(record, {"retry.attempts_max": 1})
    arrivals = recent.workload.arrivals
    offered = record.table("requests", ["arrival_s"]).num_rows
    assert arrivals.kind == "bursty"
    assert arrivals.rate_rps == pytest.approx(offered / it.end_of_load_s, rel=0.2)
    assert [fault.about.kind for fault in recent.faults] == ["server_crash"]
    assert recent.policy.parameters().retry.attempts_max == 1
    assert recent.workload.output_tokens.mean == pytest.approx(it.workload.output_tokens.mean, rel=0.3)


@pytest.mark.usefixtures("short_trials")
def test_the_command_says_what_was_tried_and_what_to_set(tmp_path: Path) -> None:
    TwinWorld().run(bursts({"admission.queue_max": 2}), 1, tmp_path / "run", lambda line: None)
    said = CliRunner().invoke(ollamamax.app, ["adapt", str(tmp_path / "run"), "--replications", "3", "--jobs", "1"])
    assert said.exit_code == 0, said.output
    assert "admission.queue_max 2 -> 8: -" in said.output
    assert "try it: --set policy.admission.queue_max=8" in said.output
