"""All that says whether the twin tells the truth of a machine: a calibration, then other loads than it was fitted on.

The loads are shares of what the nodes were seen to carry; then a burst, nodes that crash and nodes that hang; and at the
hangs four policies, in whose order the two worlds must agree. A machine is a few percent faster in one quarter of an hour
than in the next: so all is done in rounds, each with every case once and with a whole calibration of short runs, one before
each case. The profile is of the same time as what it is held against, and live's own spread has in it what the machine does
by itself. All rounds ask the same; but what breaks does so a little later in each, and another node first: which request
meets a failure is chance, and one such accident seen three times would pass for a law.

Everything lies in one folder: what is there is kept, so an interruption costs the run under way. `suite.json` there is
written when all live runs are made, and anew after each case.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.calibration.drive import LEAST_S, drive
from twin.experiment.calibration.profile import Source, calibrate, capacity_rps, write_profile
from twin.experiment.fidelity_run import POLICIES, judge_fidelity, live_run
from twin.experiment.verdict import Verdict
from twin.experiment.world import World
from twin.record.reader import RunRecord
from twin.scenario.loader import changed
from twin.scenario.schema import Scenario

SUITE = "suite.json"
PROFILE = "profile.yaml"
STRIKES = 3
"""In a run with faults: each on another node."""
FIRST_STRIKE_S = 4.0
LEAST_APART_S = 14.0
CALM_AGAIN_S = 5.0
"""From the end of a fault to the next strike, for what it held up. In each round the strikes are later by a part of this."""
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
    Case("crash", "50 %, nodes crash one after another", CALM, fault="server_crash"),
    Case("hang", "50 %, runners hang one after another", CALM, fault="runner_hang", policies=len(POLICIES)),
    Case("load-80", "80 %", 0.8),
    Case("burst", "60 % in bursts (gaps with a coefficient of variation of 3)", 0.6, burst_cv=3.0),
    Case("load-95", "95 %", 0.95),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """How long and how often. `seconds` is the length of the live run of each case, warm-up and end apart; `repeats` is how
    many rounds there are."""

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
    least_s = FIRST_STRIKE_S + STRIKES * LEAST_APART_S
    if asked.seconds < least_s:
        raise OperatorError(f"--seconds {asked.seconds:g}: at least {least_s:g}, or no recovery is seen")
    calm = changed(scenario, ("abort_when=null", "faults=[]"))
    progress("what the nodes carry")
    whole = next(drive(world, calm, folder / "capacity", asked.seconds, disrupt=True, progress=progress))
    carried_rps = capacity_rps([whole]) or 0.0
    rates_rps = {case: round(case.share * carried_rps, 4) for case in CASES}
    sources: list[Source] = []
    runs: dict[str, dict[str, list[RunRecord]]] = {case.name: {} for case in CASES}
    short_s = max(LEAST_S, asked.seconds / asked.repeats)
    for repeat in range(1, asked.repeats + 1):
        calibration = drive(world, calm, folder / f"calibration-{repeat}", short_s, disrupt=True, progress=progress)
        for place, case in enumerate(CASES):
            sources += islice(calibration, 1)
            progress(f"{case.name}: {case.says}, {repeat} of {asked.repeats}")
            seed = scenario.seed + 1 + place
            wanted = _scenario_of(case, calm, rates_rps[case], seed, asked, repeat)
            for policy in list(POLICIES)[: case.policies]:
                record = live_run(world, wanted, folder / case.name, policy, repeat, progress)
                runs[case.name].setdefault(policy, []).append(record)
        sources += calibration
    profile = calibrate(scenario.name, sources)
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


def _scenario_of(case: Case, calm: Scenario, rate_rps: float, seed: int, asked: Asked, repeat: int) -> Scenario:
    document = calm.for_live().model_dump(mode="json", by_alias=True, exclude_unset=True)
    document.pop("live", None)
    arrivals: dict[str, Any] = {"kind": "poisson", "rate_rps": rate_rps}
    if case.burst_cv:
        arrivals |= {"kind": "bursty", "cv": case.burst_cv}
    document["workload"] |= {"arrivals": arrivals, "duration_s": asked.seconds}
    document["seed"] = seed
    if case.fault:
        names = calm.cluster.node_names()
        apart_s = (asked.seconds - FIRST_STRIKE_S) / STRIKES
        later_s = CALM_AGAIN_S * (repeat - 1) / asked.repeats
        first_s = calm.workload.warmup_s + FIRST_STRIKE_S + later_s
        document["faults"] = [
            {
                "kind": case.fault,
                "at_s": round(first_s + strike * apart_s, 3),
                "target": names[(strike + repeat - 1) % len(names)],
                "duration_s": round(apart_s - CALM_AGAIN_S, 3),
            }
            for strike in range(STRIKES)
        ]
    return Scenario.model_validate(document)


def _worst(document: dict[str, Any]) -> Verdict:
    verdicts = [case["result"]["verdict"] for case in document["cases"]]
    if "fail" in verdicts:
        return "fail"
    return "unknown" if "unknown" in verdicts or not document["complete"] else "pass"
