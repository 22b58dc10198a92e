"""`ollamamax fidelity`: live runs are made (or given), the twin runs beside them, and one object says how it went."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twin.errors import OperatorError
from twin.experiment.fidelity import (
    beyond_its_aim,
    decoding_takes,
    drift,
    rank_agreement,
    simulate_beside,
    twin_and_live,
    with_own_speed,
)
from twin.experiment.replication import this_version
from twin.experiment.run import new_folder
from twin.experiment.verdict import Verdict, look_up
from twin.experiment.world import World, given_twice, other_machine, scenario_digest
from twin.record.figures import compute_figures
from twin.record.reader import MANIFEST, RunRecord, open_run
from twin.record.recovery import equals, numbers
from twin.scenario.calibrated import read_measured
from twin.scenario.loader import changed
from twin.scenario.schema import Scenario

POLICIES: dict[str, tuple[str, ...]] = {
    "default": ("policy.preset=default",),
    "reactive": ("policy.preset=reactive",),
    "none": ("policy.preset=none",),
    "none, same router": ("policy.preset=none", "policy.router.kind=loaded_first"),
}
"""Policies whose order the two worlds must agree on."""
FELT = "what a request took on average, a lost one counted with its whole deadline (s)"
RANKED = (FELT, "requests_lost")
TAU = 0.9
FIDELITY = "fidelity.json"


def live_runs(
    world: World,
    scenario: Scenario,
    folder: Path,
    repeats: int,
    policies: Sequence[str],
    progress: Callable[[str], None],
) -> dict[str, list[RunRecord]]:
    """Live runs by policy, `repeats` of each on one seed. What lies in the folder is kept."""
    return {
        name: [live_run(world, scenario, folder, name, repeat, progress) for repeat in range(1, repeats + 1)]
        for name in policies
    }


def live_run(
    world: World, scenario: Scenario, folder: Path, policy: str, repeat: int, progress: Callable[[str], None]
) -> RunRecord:
    """One live run with one of `POLICIES`, or what lies in the folder of it. Raises `OperatorError` if that is of another
    scenario."""
    wanted = changed(scenario, (*POLICIES[policy], "abort_when=null"))  # a policy that loses much is to be seen, too
    at = folder / f"live-{policy.replace(', ', '-').replace(' ', '-')}-{repeat}"
    progress(f"live: {policy}, run {repeat}")
    if not (at / MANIFEST).is_file():
        return world.run(wanted, scenario.seed, at, progress)
    record = open_run(at)
    if record.manifest["digest"] != scenario_digest(wanted.for_live()):
        raise OperatorError(f"{at}: it is of another scenario than asked for now; name another folder")
    return record


def given_runs(folders: Sequence[Path], scenario: Scenario) -> dict[str, list[RunRecord]]:
    """Recorded live runs of a scenario by this version. Raises `OperatorError` where they are not, or broke off."""
    records = [open_run(folder) for folder in folders]
    twice = given_twice(folders)
    if twice is not None:
        raise OperatorError(f"{twice}: given twice; a run does not show what it differs from itself by")
    for folder, record in zip(folders, records, strict=True):
        manifest, first = record.manifest, records[0].manifest
        if manifest["world"] != "live":
            raise OperatorError(f"{folder}: a run of the {manifest['world']}; fidelity wants live ones")
        if manifest.get("aborted"):
            raise OperatorError(f"{folder}: it was broken off ({manifest['aborted']}); nothing is compared with it")
        if manifest["version"] != this_version():
            raise OperatorError(f"{folder}: version {manifest['version']}, this is {this_version()}; run it again")
        if manifest["digest"] != first["digest"]:
            raise OperatorError(
                f"{folder}: digest {manifest['digest']}, that of {folders[0]} is {first['digest']}; nothing is compared"
            )
        if manifest["scenario"]["name"] != scenario.name:
            raise OperatorError(f"{folder}: a run of {manifest['scenario']['name']}, not of {scenario.name}")
    return {"default": records}


def judge_fidelity(
    name: str,
    live: Mapping[str, Sequence[RunRecord]],
    profile_file: Path,
    folder: Path,
    replications: int,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The object that `fidelity --json` prints. Raises `OperatorError`."""
    profile = read_measured(profile_file)
    first = next(iter(live))
    for record in live[first]:
        _same_machine(profile, record, profile_file)
    twin = {
        policy: simulate_beside(records, profile_file, folder / f"twin-{place}", replications, progress)
        for place, (policy, records) in enumerate(live.items())
    }
    rows = twin_and_live(live[first], twin[first])
    drifted = drift(profile, live[first])
    takes = [decoding_takes(profile, [record]) for record in live[first]]
    beside = simulate_beside(live[first], profile_file, folder / "twin-own-speed", replications, progress, takes)
    rows = with_own_speed(rows, live[first], beside)
    ranked = RANKED if len(live) > 1 else ()
    ranks = [rank_agreement(_values(live, figure), _values(twin, figure), figure) for figure in ranked]
    off = [it["figure"] for it in rows if it["verdict"] == "off"]
    alone = [f"{it['figure']}: {it['reason']}" for it in rows if it["reason"].endswith(" alone")]
    low = [it["figure"] for it in ranks if it["tau"] is not None and it["tau"] < TAU]
    notes = list(alone)
    beyond = [it["figure"] for it in rows if beyond_its_aim(it)]
    if beyond:
        notes.append(
            f"{', '.join(beyond)}: beyond the aim, by no more than live runs differ from each other; steadier or more runs "
            "would tell"
        )
    if len(live[first]) < 3:
        notes.append("fewer than 3 live runs: how much they differ from each other is not known")
    reason = f"{len(off)} figures off, {len(low)} orders of policies not agreed on"
    verdict: Verdict = "fail" if off or low or drifted else "unknown" if notes else "pass"
    result = {
        "scenario": name,
        "profile": profile["name"],
        "live_runs": sum(len(records) for records in live.values()),
        "twin_runs": sum(len(records) for records in twin.values()) + len(beside),
        "verdict": verdict,
        "reason": reason,
        "figures": rows,
        "ranks": ranks,
        "drift": drifted,
        "decoding_takes": takes,
        "notes": notes,
        "machine": live[first][0].manifest["machine"],
    }
    (folder / FIDELITY).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _same_machine(profile: Mapping[str, Any], record: RunRecord, path: Path) -> None:
    """Raises `OperatorError` where a profile is of another machine than the one that a run was made on."""
    of_run = record.manifest["machine"]
    of_profile = {**of_run, **(profile.get("machine") or {})}  # one written by hand need not say
    for key, there, here in other_machine(of_profile, of_run):
        raise OperatorError(
            f"{path}: measured on a machine with {key} {there}, the live run {record.folder or ''} on one with {here}; "
            "calibrate on this one"
        )


def _values(of: Mapping[str, Sequence[RunRecord]], figure: str) -> dict[str, list[float]]:
    return {name: [_value(record, figure) for record in records] for name, records in of.items()}


def _value(record: RunRecord, figure: str) -> float:
    """A figure by which policies are put in order. Latencies of successes alone would favour who drops the slow ones."""
    if figure != FELT:
        return float(look_up(compute_figures(record), figure) or 0.0)
    table = record.table("requests", ["arrival_s", "deadline_s", "end_s", "outcome"])
    counted = table.filter(~equals(table, "outcome", "rejected") & ~equals(table, "outcome", "cancelled"))
    end_s = np.where(equals(counted, "outcome", "succeeded"), numbers(counted, "end_s"), numbers(counted, "deadline_s"))
    return float(np.mean(end_s - numbers(counted, "arrival_s"))) if len(end_s) else 0.0


def fidelity_folder(out: Path, name: str, resume: Path | None) -> Path:
    """Where it all goes."""
    return resume if resume is not None else new_folder(out, f"{name}-fidelity")
