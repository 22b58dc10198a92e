"""What lies in a folder of runs: runs, studies, and what is wrong with those that cannot be read. Nothing here raises for
a damaged one: it is listed with what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from twin.errors import OperatorError
from twin.experiment.run import SUMMARY
from twin.experiment.study import RESULTS, STUDY, Line
from twin.record.reader import MANIFEST, PARTIAL, RunUnreadable, no_right_to, open_run

DEPTH_MAX = 4
FOLDERS_MAX = 5000
STUDY_KEYS = {"kind", "scenario", "vary", "points", "pairs", "replications", "complete"}

Kind: TypeAlias = Literal["runs", "sweep", "compare"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """One result that can be looked at: the runs of one command, or a study.

    `problem` is one line that says what is wrong and what to do, empty where all is well; what is known stands beside
    it nevertheless. `runs` are the readable run folders in the order of their names.
    """

    folder: Path
    kind: Kind
    scenario: str = ""
    world: str = ""
    policy: str = ""
    digest: str = ""
    started: str = ""  # ISO 8601
    verdict: str = ""
    runs: tuple[Path, ...] = ()
    problem: str = ""
    summary: dict[str, Any] = field(default_factory=dict)  # of `run --json` or `study.json`, where there is one

    @property
    def name(self) -> str:
        """How it is called."""
        return self.folder.name


def shelves(root: Path) -> list[Shelf]:
    """Everything below a folder, the latest first. An empty list where there is nothing, or no folder."""
    found = []
    for folder in _folders(root):
        if folder != root and folder.name.startswith("seed-"):
            continue  # it belongs to the runs of its parent
        try:
            found.append(shelf_of(folder))
        except OperatorError:  # a folder between: it holds nothing itself
            continue
    return sorted(found, key=lambda shelf: (shelf.started, shelf.name), reverse=True)


def shelf_of(folder: Path) -> Shelf:
    """What one folder holds. Raises `OperatorError` where that is neither runs nor a study."""
    if problem := no_right_to(folder):
        return Shelf(folder, "runs", problem=problem)
    names = {it.name for it in _entries(folder)}
    if STUDY in names:
        return _study(folder)
    if MANIFEST in names or any(name.endswith((".parquet", PARTIAL)) for name in names):
        return _runs(folder, [folder])
    if SUMMARY in names or any(name.startswith("seed-") for name in names):
        return _runs(folder, sorted(_seeds(folder), key=lambda it: (len(it.name), it.name)))
    what = "no folder" if not folder.is_dir() else "neither a run nor a study"
    raise OperatorError(f"{folder} is {what}; `ollamamax run SCENARIO --out DIR` makes run folders")


def lines_of(folder: Path) -> list[Line]:
    """The finished replications of a study; lines that cannot be read are left out (a run may be writing)."""
    lines: list[Line] = []
    try:
        text = (folder / RESULTS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return lines
    for each in text.splitlines():
        try:
            line = json.loads(each)
        except ValueError:
            continue
        if isinstance(line, dict) and {"settings", "seed", "figures", "recoveries"} <= set(line):
            lines.append(line)
    return lines


def documents(root: Path, wanted: set[str]) -> list[tuple[Path, dict[str, Any]]]:
    """JSON files at most two folders deep that are objects with all these keys: evaluations, benchmarks."""
    found = []
    for path in sorted([*root.glob("*.json"), *root.glob("*/*.json")]):
        if path.name in (MANIFEST, SUMMARY, STUDY):
            continue
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(value, dict) and wanted <= set(value):
            found.append((path, value))
    return found


def _folders(root: Path) -> Iterator[Path]:
    """Folders from the root downwards, not into runs and studies, nor through links; those without a right last."""
    denied: list[Path] = []

    def note(error: OSError) -> None:
        if isinstance(error, PermissionError):
            denied.append(Path(error.filename))

    for count, (folder, inside, files) in enumerate(os.walk(root, onerror=note)):
        path = Path(folder)
        deep = len(path.relative_to(root).parts)
        yield path
        whole = MANIFEST in files or STUDY in files or any(name.startswith("seed-") for name in inside)
        if whole or deep >= DEPTH_MAX or count >= FOLDERS_MAX:
            inside.clear()
        inside.sort()
    yield from denied


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _seeds(folder: Path) -> list[Path]:
    return [folder / it.name for it in _entries(folder) if it.name.startswith("seed-") and it.is_dir()]


def _runs(folder: Path, candidates: list[Path]) -> Shelf:
    """The runs of one command. What is known comes from its summary, else from the first run that can be read."""
    readable: list[Path] = []
    problems: list[str] = []
    manifest: dict[str, Any] = {}
    for path in candidates:
        try:
            record = open_run(path)
        except RunUnreadable as error:
            problems.append(" ".join(str(error).split()))
            continue
        readable.append(path)
        manifest = manifest or record.manifest
    summary, problem = _document(folder / SUMMARY, {"scenario", "verdict", "figures", "expectations", "invariants"})
    if folder in candidates:
        summary, problem = {}, ""
    elif not (folder / SUMMARY).exists():
        problem = f"{folder} has no {SUMMARY}: the runs go on, or were broken off"
    if problem:
        problems.append(problem)
    if not candidates:
        problems.append(f"{folder} has no runs; run the scenario again")
    elif not readable:
        problems.append(f"none of its {len(candidates)} runs can be read")
    scenario = manifest.get("scenario")
    scenario = scenario if isinstance(scenario, dict) else {}
    policy = scenario.get("policy")
    return Shelf(
        folder=folder,
        kind="runs",
        scenario=str(summary.get("scenario") or scenario.get("name") or ""),
        world=str(summary.get("world") or manifest.get("world") or ""),
        policy=str(summary.get("policy") or (policy.get("preset") if isinstance(policy, dict) else "") or ""),
        digest=str(summary.get("digest") or manifest.get("digest") or ""),
        started=str(manifest.get("started") or ""),
        verdict=str(summary.get("verdict") or ""),
        runs=tuple(readable),
        problem="; ".join(problems),
        summary=summary,
    )


def _study(folder: Path) -> Shelf:
    study, problem = _document(folder / STUDY, STUDY_KEYS)
    kind: Kind = "compare" if study.get("kind") == "compare" else "sweep"
    if study and not study["complete"]:
        problem = f"{folder} is not complete: {study.get('stopped') or 'it goes on'}; --resume {folder} goes on with it"
    verdicts = [point.get("verdict") for point in study.get("points", ())]
    verdict = "fail" if "fail" in verdicts else "unknown" if "unknown" in verdicts or not verdicts else "pass"
    return Shelf(
        folder=folder,
        kind=kind,
        scenario=str(study.get("scenario") or ""),
        world="twin",
        digest=str(study.get("digest") or ""),
        started=_time_of(folder / STUDY),
        verdict=verdict if study else "",
        runs=tuple(_study_runs(folder)),
        problem=problem,
        summary=study,
    )


def _study_runs(folder: Path) -> Iterator[Path]:
    """Runs that a study kept."""
    for path in sorted(folder.glob("point-*/seed-*")):
        if (path / MANIFEST).is_file():
            yield path


def _time_of(path: Path) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return ""


def _document(path: Path, keys: set[str]) -> tuple[dict[str, Any], str]:
    """A JSON object with these keys, or nothing and what is wrong."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, f"{path}: {error.strerror}"
    except ValueError:
        return {}, f"{path} is damaged; make it again"
    if not isinstance(value, dict) or not keys <= set(value):
        return {}, f"{path} is not of this version; make it again"
    return value, ""
