"""The promises are looked at: every part is run, what is finished is kept, and each promise gets its verdict.

The folder has `results.jsonl` (a line for each finished run, as a study's) and `claims.json` (what `claims --json` prints).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.claims.measures import Row, of_promise
from twin.experiment.claims.parts import line_of_part, perform_part
from twin.experiment.claims.promises import POLICY_CHANGES, PROMISES, Part, Promise
from twin.experiment.engines import Engine
from twin.experiment.replication import Task, this_version
from twin.experiment.run import new_folder, reason_of
from twin.experiment.study import Line, Point, ResultsFile, write_whole
from twin.experiment.verdict import Verdict
from twin.experiment.world import World, WorldName, scenario_digest, scenario_document
from twin.scenario.loader import load
from twin.scenario.schema import Scenario

CLAIMS = "claims.json"
OnResult = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    world: WorldName = "twin"
    scenarios: Path = Path("scenarios")
    only: Sequence[int] = ()
    replications: int | None = None  # at most so many of each part
    evaluation: Path | None = None
    resume: Path | None = None
    command: str = "ollamamax claims"


@dataclass(frozen=True, slots=True)
class Job:
    """A part under one policy."""

    promise: Promise
    part: Part
    policy: str
    point: Point
    replications: int


def chosen(only: Sequence[int]) -> list[Promise]:
    """The promises by their numbers; all where none is named. Raises `OperatorError`."""
    known = {promise.number: promise for promise in PROMISES}
    for number in only:
        if number not in known:
            raise OperatorError(f"--only {number}: there are {', '.join(map(str, known))}")
    return [promise for number, promise in known.items() if not only or number in only]


def jobs_of(asked: Asked) -> list[Job]:
    """Everything that is to be run. Raises `OperatorError`."""
    jobs = []
    for promise in chosen(asked.only):
        for part in promise.parts:
            if asked.world == "live" and part.live is None:
                continue
            for policy in ("default", *part.baselines):
                wanted = part.replications if policy == "default" else part.baseline_replications
                if asked.world == "live":
                    wanted = 3 if policy == "default" or promise.number == 6 else 1
                wanted = min(wanted, asked.replications or wanted)
                changes = [*part.changes, *POLICY_CHANGES[policy]]
                if asked.world == "live":
                    changes += part.live or ()
                scenario = load(asked.scenarios / part.file, changes)
                settings = {
                    "part": part.key,
                    "policy": policy,
                    "timed": part.timed and asked.world == "twin",
                    "digest": scenario_digest(scenario),
                    "version": this_version(),
                }
                jobs.append(Job(promise, part, policy, Point(settings, scenario), wanted))
    return jobs


def _folder(asked: Asked, out: Path) -> Path:
    if asked.resume is None:
        return new_folder(out, f"claims-{asked.world}")
    if not asked.resume.is_dir():
        raise OperatorError(f"--resume {asked.resume}: no folder of claims; leave --resume out to begin anew")
    return asked.resume


def look_at_claims(
    asked: Asked,
    engine: Engine | None,
    world: World | None,
    out: Path,
    on_result: OnResult = lambda done, wanted: None,
    on_promise: Callable[[dict[str, Any]], None] = lambda promise: None,
) -> tuple[Path, dict[str, Any]]:
    """Run what is missing, in an engine (twin) or one after the other in a `world` (live); the folder and the result.

    Ctrl-C ends it early; the promises whose runs are missing are unknown then. Raises `OperatorError`.
    """
    jobs = jobs_of(asked)
    folder = _folder(asked, out)
    results = ResultsFile(folder)
    results.read()
    wanted = sum(job.replications for job in jobs)
    done, stopped = sum(_has(results, job, seed) for job in jobs for seed in _seeds(job)), ""
    on_result(done, wanted)
    promises: list[dict[str, Any]] = []
    try:
        for promise in chosen(asked.only):
            mine = [job for job in jobs if job.promise is promise]
            if not stopped:
                try:
                    for line in _missing(mine, results, engine, world, folder):
                        results.add(line)
                        done += 1
                        on_result(done, wanted)
                except KeyboardInterrupt:
                    stopped = f"interrupted after {done} of {wanted} runs"
            promises.append(_promise(promise, mine, results, asked))
            on_promise(promises[-1])
        document = _document(promises, asked, folder, stopped)
        write_whole(folder / CLAIMS, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise OperatorError(f"{folder}: {reason_of(error)}; make room, and give --resume {folder}") from error
    return folder, document


def _seeds(job: Job) -> range:
    return range(job.point.scenario.seed, job.point.scenario.seed + job.replications)


def _has(results: ResultsFile, job: Job, seed: int) -> bool:
    return results.has(job.point, seed)


def _missing(
    jobs: Sequence[Job], results: ResultsFile, engine: Engine | None, world: World | None, folder: Path
) -> Iterable[Line]:
    """The lines that are not there so far, as they are finished."""
    missing = [(job, seed) for job in jobs for seed in _seeds(job) if not results.has(job.point, seed)]
    if world is not None:
        for job, seed in missing:
            place = folder / "runs" / f"{job.part.key}-{job.policy}" / f"seed-{seed}"
            yield line_of_part(world, job.point.scenario, job.point.settings, seed, place)
        return
    assert engine is not None
    tasks = [
        Task(scenario_document(job.point.scenario), job.point.settings, seed, None, this_version())
        for job, seed in missing
    ]
    # Timed runs one after the other: two at once would time each other.
    timed = [task for task in tasks if task.settings["timed"]]
    untimed = [task for task in tasks if not task.settings["timed"]]
    if untimed:
        yield from engine.results(perform_part, untimed)
    yield from map(perform_part, timed)


def _reload_s(scenario: Scenario) -> float:
    """Start of a runner and reading of the largest model."""
    hardware = scenario.cluster.hardware_of_nodes()[0]
    size_gib = max(scenario.cluster.size_gib(name) for name in scenario.cluster.models)
    return hardware.runner_start_s + size_gib / hardware.load_gib_per_s


def _promise(promise: Promise, jobs: Sequence[Job], results: ResultsFile, asked: Asked) -> dict[str, Any]:
    lines = {(job.part.key, job.policy): results.of(job.point, job.replications) for job in jobs}
    missing = sum(job.replications - len(lines[job.part.key, job.policy]) for job in jobs)
    reload_s = max((_reload_s(job.point.scenario) for job in jobs), default=0.0)
    rows = of_promise(promise.number, lines, reload_s, asked.evaluation)
    note = ""
    if promise.parts and not jobs:
        rows, note = [], "not looked at in the live world: it takes hours of failures; the twin does"
    elif missing:
        note = f"{missing} runs are missing"
    return {
        "number": promise.number,
        "promised": promise.promised,
        "verdict": _overall([it["verdict"] for it in rows if it["kind"] == "promised" and it["verdict"]], missing),
        "own_verdict": _overall([it["verdict"] for it in rows if it["kind"] == "own" and it["verdict"]], missing),
        "rows": rows,
        "note": note,
        "again": _again(promise, asked),
        "scenarios": sorted({job.part.file for job in jobs}),
    }


def _overall(verdicts: Sequence[Verdict], missing: int) -> Verdict:
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts and not missing and "unknown" not in verdicts else "unknown"


def _again(promise: Promise, asked: Asked) -> str:
    parts = [*shlex.split(asked.command), "--only", str(promise.number)]
    if promise.number == 4:
        parts += ["--evaluation", str(asked.evaluation or "evaluation.json")]
    return shlex.join(parts)


def _document(promises: Sequence[Row], asked: Asked, folder: Path, stopped: str) -> dict[str, Any]:
    verdicts: list[Verdict] = [it["verdict"] for it in promises]
    return {
        "verdict": _overall(verdicts, 0),
        "world": asked.world,
        "version": this_version(),
        "complete": not stopped,
        "stopped": stopped,
        "promises": list(promises),
        "folder": str(folder),
    }
