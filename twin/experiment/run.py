"""A scenario run in a world, as often as it wants, and the one object that says how it went."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from twin.errors import OperatorError
from twin.experiment.replay import Replay, replay
from twin.experiment.statistics import interval
from twin.experiment.verdict import Replication, expectation, verdict
from twin.experiment.world import Progress, World, WorldName, scenario_digest
from twin.learn.model_file import model_for
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.vocabulary import Policy
from twin.record.figures import compute_figures
from twin.record.names import FIGURES
from twin.record.reader import RunRecord, RunUnreadable, open_run, record_digest
from twin.record.recovery import recoveries
from twin.scenario.generators import expanded
from twin.scenario.schema import Scenario

SUMMARY = "summary.json"
REPLAY_INVARIANT = "run_equals_its_replay"


class Result:
    """How a scenario went: `summary` is what `run --json` prints."""

    def __init__(self, summary: dict[str, Any], replications: list[Replication], folder: Path | None) -> None:
        self.summary = summary
        self.replications = replications
        self.folder = folder


def run_scenario(
    world: World,
    scenario: Scenario,
    out: Path | None,
    progress: Progress,
    on_replication: Callable[[int, int], None] = lambda done, wanted: None,
) -> Result:
    """Run all replications (seeds `seed`, `seed + 1` ...), each into a folder of its own under `out`.

    Ctrl-C ends the loop; what is finished is kept and judged as unknown. Raises `OperatorError`.
    """
    started_s = time.perf_counter()
    folder = new_folder(out, f"{scenario.name}-{world.name}") if out is not None else None
    replications: list[Replication] = []
    interrupted = False
    for count in range(scenario.replications):
        seed = scenario.seed + count
        try:
            record = world.run(scenario, seed, folder / f"seed-{seed}" if folder else None, progress)
            replications.append(looked_at(record, scenario))
            on_replication(count + 1, scenario.replications)
        except KeyboardInterrupt:
            interrupted = True
            break
        except OSError as error:
            kept = f"; what is finished ({count} of {scenario.replications} runs) lies in {folder}" if count else ""
            raise OperatorError(f"{folder}: {reason_of(error)}; make room, or name another --out{kept}") from error
    summary = summarise(world.name, scenario, replications, interrupted)
    summary["run_dirs"] = [str(it.record.folder) for it in replications if it.record.folder is not None]
    summary["total_wall_s"] = round(time.perf_counter() - started_s, 3)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return Result(summary, replications, folder)


def looked_at(record: RunRecord, scenario: Scenario) -> Replication:
    """A finished run with its figures, its digest, and whether it equals its replay."""
    return Replication(record, compute_figures(record), record_digest(record), replayed(record, scenario))


def own_policy(scenario: Scenario) -> Policy:
    """A fresh policy, as the scenario wants it."""
    parameters = scenario.policy.parameters()
    return ClusterPolicy(scenario.cluster.spec(), parameters, model=model_for(parameters))


def replayed(record: RunRecord, scenario: Scenario, policy: Callable[[Scenario], Policy] = own_policy) -> Replay | None:
    """A finished run replayed by a fresh `policy` for each gateway; None where it has no journal."""
    if not record.manifest["rows"]["observations"]:
        return None
    if record.manifest["world"] == "live":
        scenario = scenario.for_live()
    scenario = expanded(scenario, record.manifest["seed"])  # which may draw the policy's parameters
    return replay(record, *(policy(scenario) for _ in scenario.cluster.gateway_names()))


def reason_of(error: OSError) -> str:
    """The system's reason, without the library that met it."""
    return os.strerror(error.errno) if error.errno else str(error)


def new_folder(out: Path, name: str) -> Path:
    """A folder that does not exist yet, named by the time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for count in range(1000):
        folder = out / (f"{name}-{stamp}" if not count else f"{name}-{stamp}-{count}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not out.is_dir():
                break
            continue
        except OSError as error:
            raise OperatorError(f"--out {out}: {error.strerror}; name a folder that can be written") from error
        return folder
    raise OperatorError(f"--out {out}: no folder can be made there; name another")


def summarise(
    world: WorldName, scenario: Scenario, replications: list[Replication], interrupted: bool = False
) -> dict[str, Any]:
    """The object that `run --json` prints."""
    expectations = [expectation(name, limit, replications) for name, limit in scenario.expect.items()]
    invariants, first_violations = _invariants(replications)
    overall = verdict(scenario, expectations, replications)
    if any(invariants.values()):
        overall = "fail"
    elif interrupted and overall == "pass":
        overall = "unknown"
    notes = [f"seed {it.record.manifest['seed']}: aborted {it.aborted}" for it in replications if it.aborted]
    notes += [f"invariant {name}: {first}" for name, first in first_violations.items()]
    if interrupted:
        notes.append(f"interrupted after {len(replications)} of {scenario.replications} replications")
    notes += _censored(replications)
    notes += _did_not_come(scenario, replications)
    if not scenario.expect:
        notes.append("the scenario expects nothing, so there is nothing to judge")
    return {
        "scenario": scenario.name,
        "claim": scenario.claim,
        "digest": scenario_digest(scenario),
        "seed": scenario.seed,
        "replications": len(replications),
        "world": world,
        "policy": scenario.policy.preset,
        "verdict": overall,
        "expectations": expectations,
        "figures": combine([it.figures for it in replications], [it.digest for it in replications]),
        "invariants": invariants,
        "notes": notes,
    }


def _censored(replications: Sequence[Replication]) -> list[str]:
    """What the mean of a duration leaves out: faults that the run did not see the end of."""
    found = [recovery for it in replications for recovery in recoveries(it.record)]
    notes = []
    for name, what in (("ttd", "detected"), ("ttm", "mitigated"), ("ttr", "recovered from")):
        missing = sum(getattr(recovery, name).censored for recovery in found)
        if missing:
            notes.append(
                f"{name}_s: {missing} of {len(found)} faults were not {what} by the end of the run, or the next fault on "
                "their node; the mean is of the others"
            )
    return notes


def _did_not_come(scenario: Scenario, replications: Sequence[Replication]) -> list[str]:
    """Faults that were asked for and left no row: what should have set them off (a load, a prompt) did not come."""
    missing: Counter[str] = Counter()
    for it in replications:
        if it.aborted:
            continue
        came = {*it.record.table("faults")["fault_id"].to_pylist(), *it.record.table("signs")["fault_id"].to_pylist()}
        asked = expanded(scenario, int(it.record.manifest["seed"])).faults
        missing.update({fault.about.kind for number, fault in enumerate(asked) if number not in came})
    of = f"of {len(replications)} replications" if len(replications) > 1 else "this run"
    return [
        f"no {kind} came about in {f'{count} ' if len(replications) > 1 else ''}{of}: nothing set it off, so nothing is "
        "known of it there"
        for kind, count in sorted(missing.items())
    ]


def summarise_runs(folders: Sequence[Path]) -> tuple[list[RunRecord], dict[str, Any]]:
    """Finished runs of one scenario in one world, and their summary. Raises `OperatorError`."""
    records = [_open(folder) for folder in folders]
    first = records[0].manifest
    scenario = _scenario_of(folders[0], records[0])
    for folder, record in zip(folders, records, strict=True):
        for key in ("digest", "world"):
            if record.manifest[key] != first[key]:
                raise OperatorError(
                    f"{folder}: {key} is {record.manifest[key]}, that of {folders[0]} is {first[key]}; "
                    "give runs of one scenario in one world"
                )
    replications = [looked_at(it, scenario) for it in records]
    summary = summarise(first["world"], scenario, replications)
    summary["run_dirs"] = [str(folder) for folder in folders]
    return records, summary


def replay_run(folder: Path) -> Replay:
    """Replay a recorded run through the policy that its scenario names. Raises `OperatorError`."""
    record = _open(folder)
    scenario = expanded(_scenario_of(folder, record), record.manifest["seed"])
    try:
        return replay(record, *(own_policy(scenario) for _ in scenario.cluster.gateway_names()))
    except RunUnreadable as error:
        raise OperatorError(str(error)) from error


def _scenario_of(folder: Path, record: RunRecord) -> Scenario:
    """The scenario that a run was made from. Raises `OperatorError` where this version does not know it any more."""
    try:
        for key in ("digest", "world", "seed"):
            record.manifest[key]
        return Scenario.model_validate(record.manifest["scenario"])
    except KeyError as error:
        raise OperatorError(f"{folder}: its manifest has no {error.args[0]}; run the scenario again") from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise OperatorError(f"{folder}: its scenario is of another version ({reason}); run it again") from error


def _open(folder: Path) -> RunRecord:
    """One run. A folder of several replications is told from it in the message."""
    try:
        return open_run(folder)
    except RunUnreadable as error:
        seeds = sorted(it.name for it in folder.glob("seed-*")) if folder.is_dir() else []
        hint = f"; it holds {len(seeds)} runs, give one of them, e.g. {folder / seeds[0]}" if seeds else ""
        raise OperatorError(f"{error}{hint}") from error


def _invariants(replications: list[Replication]) -> tuple[dict[str, int], dict[str, str]]:
    """Violations of each invariant over all replications, and the first of each in words."""
    violations: dict[str, int] = {}
    first: dict[str, str] = {}
    for it in replications:
        for name, count in it.record.manifest.get("invariants", {}).items():
            violations[name] = violations.get(name, 0) + count
        for name, text in it.record.manifest.get("first_violations", {}).items():
            first.setdefault(name, f"seed {it.record.manifest['seed']}, {text}")
        if it.replayed is not None:
            violations[REPLAY_INVARIANT] = violations.get(REPLAY_INVARIANT, 0) + it.replayed.differing
            for difference in it.replayed.differences[:1]:
                first.setdefault(REPLAY_INVARIANT, f"seed {it.record.manifest['seed']}, {difference}")
    return violations, first


def combine(figures: Sequence[dict[str, Any]], digests: Sequence[str]) -> dict[str, Any]:
    """One set of figures: of one replication as they are, of several `{"mean", "ci95", "n"}` over those that saw it."""
    if not figures:
        return {**dict.fromkeys(FIGURES), "record_digest": None}
    if len(figures) == 1:
        return {**figures[0], "record_digest": digests[0]}
    combined = {name: _combine([one[name] for one in figures]) for name in figures[0]}
    return {**combined, "record_digest": hashlib.sha256("".join(digests).encode()).hexdigest()}


def _combine(values: Sequence[Any]) -> Any:
    if any(isinstance(value, dict) for value in values):
        keys = sorted({key for value in values if value is not None for key in value}, key=str)
        # A kind of action that a replication did not take was taken 0 times there; a summary has all its keys.
        return {key: _combine([(value or {}).get(key, 0) for value in values]) for key in keys}
    observed = [float(value) for value in values if value is not None]
    if not observed:
        return None
    mean, ci95 = interval(observed)
    return {"mean": mean, "ci95": ci95, "n": len(observed)}
