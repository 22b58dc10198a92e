"""All that says whether the twin tells the truth of a machine: a calibration, then other loads than it was fitted on.

The loads are shares of what the nodes were seen to carry; then a burst, a node that crashes and one that hangs; and at the
hang four policies, in whose order the two worlds must agree. A machine is a few percent faster in one quarter of an hour
than in the next: so all cases are run once, then all again, with the runs of the calibration between them. The profile is of
about the same time as what it is held against, and live's own spread has in it what the machine does by itself.

Everything lies in one folder: what is there is kept, so an interruption costs the run under way. `suite.json` there is
written when all live runs are made, and anew after each case.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.calibration.drive import SHARES, drive
from twin.experiment.calibration.profile import calibrate, capacity_rps, write_profile
from twin.experiment.fidelity_run import POLICIES, judge_fidelity, live_runs
from twin.experiment.verdict import Verdict
from twin.experiment.world import World
from twin.record.reader import RunRecord
from twin.scenario.loader import changed
from twin.scenario.schema import Scenario

SUITE = "suite.json"
PROFILE = "profile.yaml"
FAULT_AT_S = 15.0
FAULT_S = 20.0
CALIBRATION_RUNS = len(SHARES) + 2
"""After the first, which shows what the nodes carry: the loads, the crashes, the loading."""
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
    calibration = drive(world, calm, folder / "calibration", asked.seconds, disrupt=True, progress=progress)
    sources = [next(calibration)]
    carried_rps = capacity_rps(sources) or 0.0
    rates_rps = {case: round(case.share * carried_rps, 4) for case in CASES}
    wanted = {
        case: _scenario_of(case, calm, rates_rps[case], asked.seconds, scenario.seed + 1 + place)
        for place, case in enumerate(CASES)
    }
    runs: dict[str, dict[str, list[RunRecord]]] = {}
    for repeat in range(1, asked.repeats + 1):
        sources += itertools.islice(calibration, math.ceil(CALIBRATION_RUNS / asked.repeats))
        for case, its in wanted.items():
            progress(f"{case.name}: {case.says}, {repeat} of {asked.repeats}")
            policies = list(POLICIES)[: case.policies if repeat == asked.repeats else 1]
            runs[case.name] = live_runs(world, its, folder / case.name, repeat, policies, progress)
    profile = calibrate(scenario.name, [*sources, *calibration])
    write_profile(folder / PROFILE, profile)
    document: dict[str, Any] = {"scenario": scenario.name, "profile": profile, "cases": [], "complete": False}
    for case, rate_rps in rates_rps.items():
        result = judge_fidelity(
            case.name, runs[case.name], folder / PROFILE, folder / case.name, asked.replications, progress
        )
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
