"""A gate: figures of many runs held against a committed baseline, which fails for a reason and not for noise.

A figure got *worse* where two things hold at once: the interval of its change lies wholly on the worse side, and the mean
change is at least the threshold of practical meaning that the gate file gives. The intervals have together the gate's
level (Bonferroni: each has 1 - (1 - level) / their number), so one gate in a hundred may err by chance, however many
figures it holds. On the same seeds the change is paired, else Welch's. A figure that is *not shown* may have got worse by
more than its threshold and the runs are too few to tell: that is said, and fails nothing.

What the gate takes for a figure of one replication is the figure of `compute_figures`, but for the times of recovery:
what was not observed to its end counts with what it took at least, and a fault that made nothing fail was mitigated at
once. So a policy that recovers no more cannot look fast.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from twin.experiment.bench import bench_scenario, plain_loop
from twin.experiment.engines import Engine
from twin.experiment.gate_file import DIRECTIONS, Cost, GateFile, Item, Threshold, machine
from twin.experiment.points import DURATIONS
from twin.experiment.replication import Task, perform, this_version
from twin.experiment.statistics import difference
from twin.experiment.study import Line
from twin.experiment.twin_world import TwinWorld
from twin.experiment.verdict import look_up
from twin.experiment.world import scenario_document
from twin.record.schema import RECORD_VERSION

Change: TypeAlias = Literal["worse", "better", "same", "not shown"]
COST = "cost"
COST_FIGURE = "times_plain_loop"


@dataclass(frozen=True, slots=True)
class Held:
    """A figure against its baseline. Numbers are in the figure's unit; `change` is now - baseline."""

    scenario: str
    figure: str
    before: float | None
    now: float | None
    change: float | None
    interval: list[float] | None
    threshold: float
    paired: bool
    n: int
    verdict: Change
    reason: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What a gate has measured: the lines of each scenario, and the cost ratios."""

    lines: dict[str, list[Line]]
    costs: list[float] | None
    complete: bool


def measure(
    gate: GateFile,
    items: Sequence[Item],
    engine: Engine,
    on_result: Callable[[int, int], None] = lambda done, wanted: None,
    first_seed: int | None = None,
) -> Measured:
    """Run everything. Ctrl-C ends it early; scenarios of which a run is missing then are left out."""
    tasks = [
        Task(scenario_document(item.scenario), {"gate": place}, seed, None, this_version())
        for place, item in enumerate(items)
        for seed in seeds_of(item, first_seed)
    ]
    found: list[list[Line]] = [[] for _ in items]
    done, complete, costs = 0, True, None
    on_result(0, len(tasks))
    results = engine.results(perform, tasks)
    try:
        for line in results:
            found[line["settings"]["gate"]].append(line)
            done += 1
            on_result(done, len(tasks))
        if gate.cost is not None:
            costs = cost_ratios(gate.cost)
    except KeyboardInterrupt:
        complete = False
    finally:
        results.close()  # type: ignore[attr-defined]  # engines are generators
    lines = {
        item.name: sorted(of_item, key=lambda line: int(line["seed"]))
        for item, of_item in zip(items, found, strict=True)
        if len(of_item) == item.asked.replications
    }
    return Measured(lines, costs, complete)


def seeds_of(item: Item, first_seed: int | None = None) -> range:
    """The seeds of its replications."""
    first = item.asked.seed if first_seed is None else first_seed
    return range(first, first + item.asked.replications)


def cost_ratios(cost: Cost) -> list[float]:
    """Processor time of a simulated request over that of a plain loop's, interleaved so that both meet the same noise."""
    scenario = bench_scenario(cost.nodes, cost.requests, journal=False)
    ratios = []
    for repeat in range(cost.repeats + 1):
        started_s = time.process_time()
        plain = plain_loop(scenario, repeat + 1)
        between_s = time.process_time()
        record = TwinWorld().run(scenario, repeat + 1, None, lambda line: None)
        ended_s = time.process_time()
        served = int(record.manifest["rows"]["requests"])
        ratios.append(((ended_s - between_s) / served) / ((between_s - started_s) / plain))
    return ratios[1:]  # the first warms up


def value_of(line: Line, name: str) -> float | None:
    """The figure of one replication, as the module's text says."""
    if name not in DURATIONS:
        return look_up(line["figures"], name)
    times = [it[name] for it in line["recoveries"]]
    values = [
        it["value_s"] if it["value_s"] is not None else it["at_least_s"] if it["censored"] else 0.0
        for it in times
        if it["value_s"] is not None or it["censored"] or name == "ttm_s"
    ]
    return sum(value or 0.0 for value in values) / len(values) if values else None


def baseline_of(items: Sequence[Item], measured: Measured) -> dict[str, Any]:
    """What a baseline says of what was measured."""
    return {
        "gate": 1,
        "version": this_version(),
        "record_version": RECORD_VERSION,
        "costs": {"ratios": [round(it, 4) for it in measured.costs], "machine": machine()} if measured.costs else None,
        "scenarios": {
            item.name: {
                "digest": item.digest,
                "seed": measured.lines[item.name][0]["seed"],
                "figures": {
                    name: [_rounded(value_of(line, name)) for line in measured.lines[item.name]]
                    for name in item.asked.figures
                },
            }
            for item in items
            if item.name in measured.lines
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.9g}")


def compare(gate: GateFile, items: Sequence[Item], measured: Measured, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The object that `gate --json` prints: `verdict`, `figures` (as `Held`), `invariants`, `not_compared`."""
    not_compared: list[str] = []
    wanted: list[tuple[str, str, Threshold, list[float | None], list[float | None], bool]] = []
    for item in items:
        before = baseline["scenarios"].get(item.name)
        problem = _problem(item, before, measured)
        if problem:
            not_compared.append(f"{item.name}: {problem}")
            continue
        lines = measured.lines[item.name]
        paired = before["seed"] == lines[0]["seed"] and item.asked.replications == _count(before)
        for name, threshold in item.asked.figures.items():
            if name not in before["figures"]:
                not_compared.append(f"{item.name}: {name} is not in the baseline; --update writes it")
                continue
            now = [_rounded(value_of(line, name)) for line in lines]
            wanted.append((item.name, name, threshold, before["figures"][name], now, paired))
    if gate.cost is not None:
        problem = _cost_problem(baseline, measured)
        if problem:
            not_compared.append(f"{COST}: {problem}")
        else:
            ratios: list[float | None] = list(measured.costs or [])
            threshold = Threshold(worse_by=gate.cost.worse_by)
            wanted.append((COST, COST_FIGURE, threshold, list(baseline["costs"]["ratios"]), ratios, False))
    level = 1.0 - (1.0 - gate.level) / max(1, len(wanted))
    held = [_hold(*each, level) for each in wanted]
    broken = broken_invariants(items, measured)
    worse = [it for it in held if it.verdict == "worse"]
    # That another machine's processor time is not compared leaves nothing open that this machine could tell.
    open_questions = [line for line in not_compared if not line.startswith(f"{COST}: another machine")]
    verdict = "fail" if worse or broken else "unknown" if open_questions or not held else "pass"
    return {
        "verdict": verdict,
        "worse": len(worse),
        "level": gate.level,
        "figures": [asdict(it) for it in held],
        "invariants": broken,
        "not_compared": not_compared,
        "complete": measured.complete,
        "version": this_version(),
        "baseline_version": baseline.get("version"),
    }


def _count(before: Mapping[str, Any]) -> int:
    return max((len(values) for values in before["figures"].values()), default=0)


def _problem(item: Item, before: Mapping[str, Any] | None, measured: Measured) -> str:
    if item.name not in measured.lines:
        return "interrupted before its runs were finished"
    if before is None:
        return "it is not in the baseline; --update writes it"
    if before["digest"] != item.digest:
        return f"the baseline is of another scenario ({before['digest']}, now {item.digest}); --update writes it anew"
    return ""


def _cost_problem(baseline: Mapping[str, Any], measured: Measured) -> str:
    if measured.costs is None:
        return "interrupted before it was measured"
    before = baseline.get("costs")
    if not before:
        return "it is not in the baseline; --update writes it"
    here = machine()
    other = [
        f"{key} {before['machine'].get(key)}, here {here[key]}"
        for key in here
        if before["machine"].get(key) != here[key]
    ]
    return f"another machine made the baseline ({'; '.join(other)})" if other else ""


def broken_invariants(items: Sequence[Item], measured: Measured) -> list[dict[str, Any]]:
    """Invariants that were violated: no statistics there."""
    return [
        {
            "scenario": item.name,
            "invariant": name,
            "violations": count,
            "seed": line["seed"],
            "first": line["first_violations"].get(name, ""),
        }
        for item in items
        for line in measured.lines.get(item.name, [])
        for name, count in line["invariants"].items()
        if count
    ]


def _hold(
    scenario: str,
    figure: str,
    threshold: Threshold,
    before: Sequence[float | None],
    now: Sequence[float | None],
    paired: bool,
    level: float,
) -> Held:
    seen = [it for it in before if it is not None], [it for it in now if it is not None]
    means = [statistics.fmean(it) if it else None for it in seen]
    limit = threshold.of(means[0]) if means[0] is not None else 0.0

    def held(change: float | None, ends: list[float] | None, n: int, verdict: Change, reason: str) -> Held:
        return Held(scenario, figure, means[0], means[1], change, ends, limit, paired, n, verdict, reason)

    if not seen[0] and not seen[1]:
        return held(None, None, 0, "same", "not observed, then or now")
    if 2 * len(seen[1]) < len(seen[0]):
        return held(
            None, None, len(seen[1]), "worse", f"observed in {len(seen[1])} replications, before in {len(seen[0])}"
        )
    if not seen[0]:
        return held(None, None, len(seen[1]), "not shown", "observed now, and not before")
    if paired:
        both = [(one, two) for one, two in zip(before, now, strict=True) if one is not None and two is not None]
        seen = [one for one, _ in both], [two for _, two in both]
    n = min(len(seen[0]), len(seen[1]))
    if n < 2:
        return held(None, None, n, "not shown", "seen together in fewer than two replications")
    change, ends = difference(seen[0], seen[1], paired, level)
    assert ends is not None
    sign = 1.0 if DIRECTIONS.get(figure, "lower") == "lower" else -1.0
    worsening = sign * change
    low, high = sorted((sign * ends[0], sign * ends[1]))
    if low > 0.0 and worsening >= limit:
        return held(change, ends, n, "worse", "beyond chance, and at least the threshold")
    if high < 0.0 and -worsening >= limit:
        return held(change, ends, n, "better", "beyond chance, and at least the threshold; --update keeps it")
    if high <= limit:
        return held(change, ends, n, "same", "worse by less than the threshold, if at all")
    return held(change, ends, n, "not shown", f"may be worse by up to {high:.3g}: more replications would tell")
