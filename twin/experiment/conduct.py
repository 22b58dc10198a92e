"""A study is conducted: planned, worked off by an engine, kept as it goes, and summarised. Whatever ends it, what was
finished is kept, and `--resume` goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.engines import Engine, EngineLost
from twin.experiment.pairs import compare_pairs, figures_to_compare
from twin.experiment.points import best_of, summarise_point, values_of
from twin.experiment.replication import Task, perform, this_version
from twin.experiment.run import new_folder, reason_of
from twin.experiment.statistics import Precision, next_count
from twin.experiment.study import (
    STUDY,
    Kind,
    Plan,
    ResultsFile,
    grid,
    parse_vary,
    read_study,
    write_whole,
)
from twin.experiment.world import scenario_digest, scenario_document
from twin.scenario.loader import load

OnResult = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for. None: not said, so the resumed study's, or the scenario's."""

    scenario: Path
    vary: Sequence[str] = ()
    changes: Sequence[str] = ()
    replications: int | None = None
    seed: int | None = None
    precision: Precision | None = None
    replications_max: int | None = None
    resume: Path | None = None


def plan_of(kind: Kind, asked: Asked) -> Plan:
    """The plan. Raises `OperatorError` before anything runs."""
    before = read_study(asked.resume) if asked.resume is not None else None
    changes = list(asked.changes)
    vary = parse_vary(asked.vary)
    seed, replications = asked.seed, asked.replications
    if before is not None:
        if before["kind"] != kind:
            raise OperatorError(f"--resume {asked.resume}: it is of `ollamamax {before['kind']}`; use that command")
        changes = changes or before["changes"]
        _refuse_less(asked, before, vary)
        vary = vary or before["vary"]
        seed = before["seed"] if seed is None else seed
        replications = before["replications_asked"] if replications is None else replications
    if not vary:
        raise OperatorError("nothing to vary; give --vary KEY=V1,V2..., e.g. --vary policy.preset=default,none")
    more = [f"seed={seed}"] if seed is not None else []
    more += [f"replications={replications}"] if replications is not None else []
    scenario = load(asked.scenario, [*changes, *more])
    if before is not None:
        for what, then, now in (
            ("scenario", before["digest"], scenario_digest(scenario)),
            ("seed", before["seed"], scenario.seed),
            ("version", before["version"], this_version()),
        ):
            if then != now:
                raise OperatorError(
                    f"--resume {asked.resume}: its {what} was {then}, now it is {now}; start the study anew"
                )
    points = grid(scenario, vary)
    if kind == "compare" and len(points) < 2:
        raise OperatorError("there is only one variant; give --vary two values or more, the first is the baseline")
    most = asked.replications_max or 10 * scenario.replications
    return Plan(kind, scenario, changes, vary, points, scenario.replications, asked.precision, most)


def _refuse_less(asked: Asked, before: dict[str, Any], vary: dict[str, list[Any]]) -> None:
    """A study that goes on has at least the points and replications that it had: its results would be lost to it."""
    missing = [
        f"{key}={json.dumps(value)}"
        for key, values in before["vary"].items()
        for value in values
        if vary and value not in vary.get(key, ())
    ]
    other = [key for key in vary if key not in before["vary"]]
    if missing or other:
        what = f"--vary leaves out {', '.join(missing)}" if missing else f"--vary has {', '.join(other)} besides"
        raise OperatorError(
            f"--resume {asked.resume}: {what}; leave --vary away, give all that the study has and more, or start it anew"
        )
    finished = max((point["n"] for point in before["points"]), default=0)
    if asked.replications is not None and asked.replications < finished:
        raise OperatorError(
            f"--resume {asked.resume}: it has {finished} replications of a point already, and is now to have "
            f"{asked.replications}; leave --replications away, or start it anew"
        )


def conduct(
    plan: Plan,
    engine: Engine,
    out: Path,
    *,
    resume: Path | None = None,
    keep_runs: bool = False,
    figures: Sequence[str] = (),
    command: str = "",
    on_result: OnResult = lambda done, wanted: None,
) -> tuple[Path, dict[str, Any]]:
    """Work the plan off: the folder, and what its `study.json` says (`complete`, and in `stopped` why it is not).

    Ctrl-C and an engine that is lost end it early. Raises `OperatorError` where the disk is full.
    """
    started_s = time.perf_counter()
    folder = resume if resume is not None else new_folder(out, f"{plan.scenario.name}-{plan.kind}")
    results = ResultsFile(folder)
    results.read()
    count, stopped = plan.replications, ""
    chosen = figures_to_compare(plan.scenario, figures)
    try:
        _write(folder, _summary(plan, results, count, chosen, command, "not finished"))
        while not stopped:
            stopped = _work_off(plan, results, count, engine, folder if keep_runs else None, on_result)
            if stopped or not plan.precision or count >= plan.replications_max or tight(plan, results, count):
                break
            count = next_count(count, plan.replications_max)
        if not stopped:
            results.sort(plan.points)
        summary = _summary(plan, results, count, chosen, command, stopped)
        summary["total_wall_s"] = round(time.perf_counter() - started_s, 3)
        _write(folder, summary)
    except OSError as error:
        raise OperatorError(
            f"{folder}: {reason_of(error)}; what is finished is kept: make room, and give --resume {folder}"
        ) from error
    return folder, summary


def _work_off(
    plan: Plan, results: ResultsFile, count: int, engine: Engine, runs: Path | None, on_result: OnResult
) -> str:
    """Do what is missing of the first `count` replications of each point; why it stopped early, or nothing."""
    documents = [scenario_document(point.scenario) for point in plan.points]
    seeds = range(plan.scenario.seed, plan.scenario.seed + count)
    tasks = [
        Task(document, point.settings, seed, _run_folder(runs, place, seed), this_version())
        for seed in seeds
        for place, (point, document) in enumerate(zip(plan.points, documents, strict=True))
        if not results.has(point, seed)
    ]
    wanted = count * len(plan.points)
    done = wanted - len(tasks)
    on_result(done, wanted)
    if not tasks:
        return ""
    finished = engine.results(perform, tasks)
    try:
        for line in finished:
            results.add(line)
            done += 1
            on_result(done, wanted)
    except KeyboardInterrupt:
        return f"interrupted after {done} of {_runs(wanted)}"
    except EngineLost as error:
        return f"{error} ({done} of {_runs(wanted)} {'is' if wanted == 1 else 'are'} finished)"
    finally:
        finished.close()  # type: ignore[attr-defined]  # engines are generators
    return ""


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _run_folder(runs: Path | None, place: int, seed: int) -> str | None:
    return str(runs / f"point-{place}" / f"seed-{seed}") if runs is not None else None


def tight(plan: Plan, results: ResultsFile, count: int) -> bool:
    """Whether the wanted interval is tight: of the mean at each point of a sweep, of each difference of a comparison."""
    assert plan.precision is not None
    of_points = [values_of(results.of(point, count), plan.precision.figure) for point in plan.points]
    if plan.kind == "sweep":
        return all(plan.precision.kept_by([value for value in values if value is not None]) for values in of_points)
    base = of_points[0]
    known = [value for value in base if value is not None]
    if not known:
        return False
    mean = sum(known) / len(known)
    return all(
        plan.precision.kept_by(
            [two - one for one, two in zip(base, values, strict=True) if one is not None and two is not None], mean
        )
        for values in of_points[1:]
    )


def _summary(
    plan: Plan, results: ResultsFile, count: int, figures: Sequence[str], command: str, stopped: str
) -> dict[str, Any]:
    scenario = plan.scenario
    lines = [results.of(point, count) for point in plan.points]
    points = [summarise_point(point, of_point) for point, of_point in zip(plan.points, lines, strict=True)]
    for point in points:
        if point["n"] < count and point["verdict"] == "pass":
            point["verdict"] = "unknown"
    settings = [point.settings for point in plan.points]
    best = best_of(points, scenario) if plan.kind == "sweep" else None
    summary: dict[str, Any] = {
        "kind": plan.kind,
        "scenario": scenario.name,
        "claim": scenario.claim,
        "digest": scenario_digest(scenario),
        "version": this_version(),
        "changes": plan.changes,
        "vary": plan.vary,
        "replications": count,
        "replications_asked": plan.replications,
        "seed": scenario.seed,
        "command": command,
        "complete": not stopped,
        "stopped": stopped,
        "points": points,
        "best": settings[best] if best is not None else None,
        "pairs": compare_pairs(settings, lines, figures) if plan.kind == "compare" else [],
        "notes": _notes(points),
    }
    if plan.precision is not None:
        summary["until"] = {
            "figure": plan.precision.figure,
            "half_width": plan.precision.half_width,
            "relative": plan.precision.relative,
            "reached": tight(plan, results, count),
        }
    return summary


def _notes(points: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    for point in points:
        where = words(point["settings"])
        warmup = point["warmup"]
        if warmup["enough"] is False:
            notes.append(
                f"{where}: the warm-up of {warmup['declared_s']:g} s is too short, MSER-5 asks for "
                f"{warmup['needed_s']:.0f} s"
            )
        broken = [name for name, count in point["invariants"].items() if count]
        if broken:
            notes.append(f"{where}: invariants broken: {', '.join(broken)}")
        if point["aborted"]:
            notes.append(f"{where}: {point['aborted']} of {point['n']} runs were broken off by abort_when")
        for name, times in point["recovery"].items():
            if times["censored"]:
                notes.append(
                    f"{where}: {name} was not observed to its end for {times['censored']} of {times['n']} faults"
                )
    return notes


def words(settings: dict[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()
    )


def _write(folder: Path, summary: dict[str, Any]) -> None:
    write_whole(folder / STUDY, json.dumps(summary, indent=2) + "\n")
