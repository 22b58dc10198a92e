"""A soak: one scenario with many seeds, whose invariants are looked at, whatever its claim says.

Safety: the checkers beside every run. Liveness: the run goes on after its load with every fault ended (`settle_s`), and
then all must be well again. What breaks an invariant is shrunk to a small scenario that still does (`shrink.py`).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from twin.experiment.engines import Engine, EngineLost
from twin.experiment.reached import RARITIES, reached
from twin.experiment.replication import this_version
from twin.experiment.run import REPLAY_INVARIANT, replayed
from twin.experiment.twin_world import TwinWorld
from twin.experiment.world import scenario_digest, scenario_document
from twin.scenario.generators import expanded
from twin.scenario.schema import Scenario
from twin.sim.checkers import all_checkers

Mode: TypeAlias = Literal["safety", "liveness", "both"]

RUNS_TO_ITS_END = "runs_to_its_end"
"""The invariant that the simulator itself does not fail."""

SETTLE_S = 180.0
"""For a scenario that does not say how long it settles: more than a restart, a load and the proof of both, twice."""


@dataclass(frozen=True, slots=True)
class Seed:
    """One seed of a soak as a piece of work. `scenario` is a document; `world` is this one but in tests."""

    scenario: dict[str, Any]
    seed: int
    mode: Mode
    world: TwinWorld


def for_mode(scenario: Scenario, mode: Mode) -> Scenario:
    """The scenario with or without a settle phase, as the mode needs it."""
    if mode == "safety":
        return scenario.model_copy(update={"settle_s": 0.0})
    return scenario.model_copy(update={"settle_s": scenario.settle_s or SETTLE_S})


def judged(mode: Mode, name: str) -> bool:
    """Whether an invariant counts in that mode. That the simulator does not fail always does."""
    liveness = {checker.name for checker in all_checkers() if checker.needs_settling}
    return mode == "both" or name == RUNS_TO_ITS_END or (name in liveness) == (mode == "liveness")


def look(task: Seed) -> dict[str, Any]:
    """Run one seed; what was broken, and what was reached."""
    scenario = expanded(Scenario.model_validate(task.scenario), task.seed)
    found = examine(scenario, task.seed, task.mode, task.world)
    return {"seed": task.seed, **found}


def examine(scenario: Scenario, seed: int, mode: Mode, world: TwinWorld) -> dict[str, Any]:
    """The broken invariants of a run (name to count, and the first of each in words), and what it reached."""
    started_s = time.perf_counter()
    try:
        record = world.run(scenario, seed, None, lambda line: None)
        replay = replayed(record, scenario, world.policy)
    except (KeyboardInterrupt, MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding: the simulator must run to its end
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return {
            "violations": {RUNS_TO_ITS_END: 1},
            "first": {RUNS_TO_ITS_END: words},
            "reached": [],
            "faults": len(scenario.faults),
            "requests": 0,
            "simulated_s": 0.0,
            "wall_s": time.perf_counter() - started_s,
        }
    counts: dict[str, int] = dict(record.manifest["invariants"])
    first: dict[str, str] = dict(record.manifest["first_violations"])
    if replay is not None:
        counts[REPLAY_INVARIANT] = replay.differing
        first.update((REPLAY_INVARIANT, str(it)) for it in replay.differences[:1])
    violations = {name: count for name, count in counts.items() if count and judged(mode, name)}
    return {
        "violations": violations,
        "first": {name: first.get(name, "") for name in violations},
        "reached": reached(record),
        "faults": record.table("faults", ["fault_id"]).num_rows,
        "requests": record.table("requests", ["request_id"]).num_rows,
        "simulated_s": record.manifest["simulated_s"],
        "wall_s": time.perf_counter() - started_s,
    }


@dataclass(slots=True)
class Soak:
    """What a soak found: a row for each finished seed, in order of the seeds; and why it stopped early, or nothing."""

    rows: list[dict[str, Any]]
    wall_s: float
    stopped: str = ""

    @property
    def broken(self) -> dict[str, list[int]]:
        """Each broken invariant with the seeds that broke it."""
        found: dict[str, list[int]] = {}
        for row in self.rows:
            for name in row["violations"]:
                found.setdefault(name, []).append(row["seed"])
        return found


def soak(
    scenario: Scenario,
    seeds: Sequence[int],
    mode: Mode,
    engine: Engine,
    on_result: Callable[[int, int], None] = lambda done, wanted: None,
    world: TwinWorld | None = None,
    known: Sequence[dict[str, Any]] = (),
    keep: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Soak:
    """Run every seed but those that are `known`; `keep` gets each as it finishes. Ctrl-C and an engine that is lost end it
    early."""
    started_s = time.perf_counter()
    document = scenario_document(for_mode(scenario, mode))
    rows = [row for row in known if row["seed"] in seeds]
    done = {row["seed"] for row in rows}
    tasks = [Seed(document, seed, mode, world or TwinWorld()) for seed in seeds if seed not in done]
    on_result(len(rows), len(seeds))
    stopped = ""
    finished = engine.results(look, tasks)
    try:
        for row in finished:
            keep(row)
            rows.append(row)
            on_result(len(rows), len(seeds))
    except KeyboardInterrupt:
        stopped = f"interrupted after {len(rows)} of {len(seeds)} seeds"
    except EngineLost as error:
        stopped = f"{error} ({len(rows)} of {len(seeds)} seeds are finished)"
    finally:
        finished.close()  # type: ignore[attr-defined]  # engines are generators
    rows.sort(key=lambda row: int(row["seed"]))
    return Soak(rows, time.perf_counter() - started_s, stopped)


def summarise_soak(scenario: Scenario, found: Soak, seeds: Sequence[int], mode: Mode) -> dict[str, Any]:
    """What `soak --json` prints, but for the scenarios that were shrunk."""
    rows = found.rows
    met = {rarity.name: sum(rarity.name in row["reached"] for row in rows) for rarity in RARITIES}
    invariants = [checker.name for checker in all_checkers(settled=mode != "safety")]
    invariants += [REPLAY_INVARIANT] if scenario.record.journal else []
    invariants += [RUNS_TO_ITS_END]
    broken = found.broken
    finished = {row["seed"] for row in rows}
    return {
        "scenario": scenario.name,
        "digest": scenario_digest(scenario),
        "version": this_version(),
        "mode": mode,
        "seeds_wanted": len(seeds),
        "seeds": len(rows),
        "stopped": found.stopped,
        "first_unfinished": next((seed for seed in seeds if seed not in finished), None),
        "verdict": "fail" if broken else "unknown" if found.stopped else "pass",
        "invariants": {name: len(broken.get(name, [])) for name in invariants if judged(mode, name)},
        "broken": [
            {"invariant": name, "seeds": seeds, "first": _row(rows, seeds[0])["first"][name]}
            for name, seeds in broken.items()
        ],
        "reached": [{"name": rarity.name, "what": rarity.what, "seeds": met[rarity.name]} for rarity in RARITIES],
        "never_reached": [rarity.name for rarity in RARITIES if not met[rarity.name]],
        "runs": {
            "faults": sum(row["faults"] for row in rows),
            "requests": sum(row["requests"] for row in rows),
            "simulated_h": sum(row["simulated_s"] for row in rows) / 3600.0,
        },
        "wall_s": round(found.wall_s, 3),
        "wall_s_for_10000": round(found.wall_s / len(rows) * 10_000, 1) if rows else None,
    }


def _row(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    return next(row for row in rows if row["seed"] == seed)
