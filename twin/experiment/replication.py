"""One replication of a study as a piece of work for any engine, and the line that it leaves in `results.jsonl`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.run import REPLAY_INVARIANT, looked_at
from twin.experiment.twin_world import TwinWorld
from twin.experiment.verdict import Replication, judge_one
from twin.experiment.warmup import warmup_needed_s
from twin.record.recovery import Recovery
from twin.scenario.schema import Scenario


@dataclass(frozen=True, slots=True)
class Task:
    """A scenario (as a document) with its settings and one seed. `folder`: where its record is kept, None: nowhere."""

    document: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    folder: str | None
    version: str


def this_version() -> str:
    """The version of this program."""
    return version("ollamamax")


def perform(task: Task) -> dict[str, Any]:
    """Run it; the line. Raises `OSError` where the record cannot be written, `OperatorError` for another version."""
    if task.version != this_version():
        raise OperatorError(f"a worker has version {this_version()}, this machine {task.version}; install the same")
    started_s = time.perf_counter()
    scenario = Scenario.model_validate(task.document)
    record = TwinWorld().run(scenario, task.seed, Path(task.folder) if task.folder else None, lambda line: None)
    line = line_of(looked_at(record, scenario), scenario, task.settings)
    line["wall_s"] = round(time.perf_counter() - started_s, 3)
    # As it will be read from the file, so that it makes no difference whether it was.
    written: dict[str, Any] = json.loads(json.dumps(line))
    return written


def line_of(replication: Replication, scenario: Scenario, settings: dict[str, Any]) -> dict[str, Any]:
    """What a study keeps of a replication. `figures` has all but `wall_s`, which differs from run to run."""
    manifest = replication.record.manifest
    invariants = dict(manifest.get("invariants", {}))
    first = dict(manifest.get("first_violations", {}))
    if replication.replayed is not None:
        invariants[REPLAY_INVARIANT] = replication.replayed.differing
        for difference in replication.replayed.differences[:1]:
            first[REPLAY_INVARIANT] = str(difference)
    return {
        "settings": settings,
        "seed": manifest["seed"],
        "figures": {name: value for name, value in replication.figures.items() if name != "wall_s"},
        "recoveries": [_recovery(it) for it in replication.recoveries],
        "verdicts": {name: judge_one(name, limit, replication) for name, limit in scenario.expect.items()},
        "invariants": invariants,
        "first_violations": first,
        "warmup_needed_s": warmup_needed_s(replication.record),
        "aborted": replication.aborted,
        "record_digest": replication.digest,
    }


def _recovery(it: Recovery) -> dict[str, Any]:
    """A recovery with its durations as {"value_s", "censored", "at_least_s"}."""
    plain = asdict(it)
    for name in ("ttd", "ttm", "ttr"):
        plain[f"{name}_s"] = plain.pop(name)
    return plain
