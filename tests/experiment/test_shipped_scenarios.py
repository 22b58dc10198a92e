"""The claims of the scenario files about load and drawn faults hold, in one replication each; and can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twin.experiment.run import run_scenario
from twin.experiment.twin_world import TwinWorld
from twin.scenario.loader import load

FOLDER = Path(__file__).parents[2] / "scenarios"


def summary(name: str, *changes: str) -> dict[str, Any]:
    it = load(FOLDER / f"{name}.yaml", ["replications=1", "record.journal=false", *changes])
    return run_scenario(TwinWorld(), it, None, lambda line: None).summary


SHORT = {"diurnal-day": ["workload.duration_s=7200", "fault_generators.0.time_between_failures.mean_s=1500"]}


@pytest.mark.parametrize(
    "name",
    [
        "cascade",
        "crash-renewal",
        "diurnal-day",
        "harsh-soak",
        "impatient-clients",
        "one-way-partition",
        "sessions",
        "swarm",
        "two-gateways",
    ],
)
def test_the_claim_of_a_scenario_holds(name: str) -> None:
    found = summary(name, *SHORT.get(name, []))
    assert found["verdict"] == "pass", found["expectations"]
    assert not any(found["invariants"].values()), found["notes"]
    assert found["figures"]["requests_offered"] > 400


@pytest.mark.parametrize("name", ["cascade", "crash-renewal", "impatient-clients", "sessions"])
def test_without_a_policy_it_does_not(name: str) -> None:
    assert summary(name, "policy.preset=none")["verdict"] == "fail"


def test_two_gateways_with_the_usual_patience_restart_what_they_cannot_see() -> None:
    found = summary("two-gateways", "policy.healer.unreachable_grace_s=20")
    assert found["figures"]["false_actions"] == 2
    assert found["verdict"] == "fail"
