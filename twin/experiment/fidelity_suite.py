"""All that says whether the twin tells the truth of a machine: a calibration, then other loads than it was fitted on.

The loads are shares of what the nodes were seen to carry; then a burst, a node that crashes and one that hangs; and at the
hang four policies, in whose order the two worlds must agree. Everything lies in one folder: what is there is kept, so an
interruption costs the run under way. After each case `suite.json` there is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.calibration.drive import drive
from twin.experiment.calibration.profile import calibrate, write_profile
from twin.experiment.fidelity_run import POLICIES, judge_fidelity, live_runs
from twin.experiment.verdict import Verdict
from twin.experiment.world import World
from twin.scenario.loader import changed
from twin.scenario.schema import Scenario

SUITE = "suite.json"
PROFILE = "profile.yaml"
FAULT_AT_S = 15.0
FAULT_S = 20.0
CALM = 0.5
"""Share of what the nodes carry at which they are broken: two of three must carry it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A load at a share of what the nodes carry, and what breaks in it."""

    name: str
    says: str
    share: float
    burst_cv: float = 0.0
    fault: str = ""
    policies: int = 1


CASES = (
    Case("load-50", "50 % of what they carry", 0.5),
    Case("crash", "50 %, a node crashes", CALM, fault="server_crash"),
    Case("hang", "50 %, a runner hangs", CALM, fault="runner_hang", policies=len(POLICIES)),
    Case("load-80", "80 %", 0.8),
    Case("burst", "60 % in bursts (gaps with a coefficient of variation of 3)", 0.6, burst_cv=3.0),
    Case("load-95", "95 %", 0.95),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """How long and how often. `seconds` is the length of each live run, warm-up and end apart."""

    seconds: float = 60.0
    repeats: int = 3
    replications: int = 5


def fidelity_suite(
    world: World,
    scenario: Scenario,
    folder: Path,
    asked: Asked,
    progress: Callable[[str], None],
    on_case: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """Make what is missing in the folder; the whole so far goes to `on_case` after each case. Raises `OperatorError`.

    The document: {"profile": the calibrated profile, "cases": [{"name", "says", "rate_rps", "result": the object of
    `fidelity --json`}], "verdict", "complete"}.
    """
    if asked.seconds < FAULT_AT_S + FAULT_S:
        raise OperatorError(f"--seconds {asked.seconds:g}: at least {FAULT_AT_S + FAULT_S:g}, or no recovery is seen")
    calm = changed(scenario, ("abort_when=null", "faults=[]"))
    sources = drive(world, calm, folder / "calibration", asked.seconds, disrupt=True, progress=progress)
    profile = calibrate(scenario.name, sources)
    write_profile(folder / PROFILE, profile)
    capacity_rps = profile["measured"]["capacity_rps"]
    document: dict[str, Any] = {"scenario": scenario.name, "profile": profile, "cases": [], "complete": False}
    for place, case in enumerate(CASES):
        rate_rps = round(case.share * capacity_rps, 4)
        progress(f"{case.name}: {case.says}, {rate_rps:.3g} requests/s")
        wanted = _scenario_of(case, calm, rate_rps, asked.seconds, scenario.seed + 1 + place)
        at = folder / case.name
        runs = live_runs(world, wanted, at, asked.repeats, list(POLICIES)[: case.policies], progress)
        result = judge_fidelity(case.name, runs, folder / PROFILE, at, asked.replications, progress)
        document["cases"].append({"name": case.name, "says": case.says, "rate_rps": rate_rps, "result": result})
        document["complete"] = len(document["cases"]) == len(CASES)
        document["verdict"] = _worst(document)
        (folder / SUITE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        on_case(document)
    return document


def _scenario_of(case: Case, calm: Scenario, rate_rps: float, seconds: float, seed: int) -> Scenario:
    document = calm.for_live().model_dump(mode="json", by_alias=True, exclude_unset=True)
    document.pop("live", None)
    arrivals: dict[str, Any] = {"kind": "poisson", "rate_rps": rate_rps}
    if case.burst_cv:
        arrivals |= {"kind": "bursty", "cv": case.burst_cv}
    document["workload"] |= {"arrivals": arrivals, "duration_s": seconds}
    document["seed"] = seed
    if case.fault:
        at_s = calm.workload.warmup_s + FAULT_AT_S
        struck = calm.cluster.node_names()[0]
        document["faults"] = [{"kind": case.fault, "at_s": at_s, "target": struck, "duration_s": FAULT_S}]
    return Scenario.model_validate(document)


def _worst(document: dict[str, Any]) -> Verdict:
    verdicts = [case["result"]["verdict"] for case in document["cases"]]
    if "fail" in verdicts:
        return "fail"
    return "unknown" if "unknown" in verdicts or not document["complete"] else "pass"
