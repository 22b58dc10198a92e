"""The table of drills: every scenario of `scenarios/drills`, several times each, on four nodes of this machine.

    python -m live.rig.drill_table [--nodes real|emulated] [--runs 5] [--row NAME]... [--out FOLDER] [--json]
                                   [--markdown FILE]

Each run is a line of `FOLDER/results.jsonl` as soon as it is finished, and what is there is not run again: so a table that
was broken off goes on where it was. The row `quiet` has no fault; it runs with fault tolerance and without
(`policy.preset=none` with the router of `default`: another one would hide what tolerance costs, or be taken for it), in
turn, on the same arrivals, and says what tolerance costs, with its interval: `--row quiet --runs 20` is the measurement of
that alone. The row `gateway-restarted` has no file of its own, see `live.rig.gateway_restart`. Exit status 0, 1 where an
aim was missed, 2 for bad input, 3 where something could not be observed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from live.rig.cluster import NodeKind
from live.rig.drill_page import as_markdown, as_table, cell, said_of
from live.rig.gateway_restart import restart_once
from live.rig.injection import check_possible
from live.rig.ledger import Ledger
from live.rig.live_world import LiveWorld
from live.rig.random_drills import held
from twin.errors import OperatorError
from twin.experiment.run import run_scenario
from twin.experiment.statistics import interval
from twin.experiment.verdict import Replication
from twin.record.reader import RunRecord
from twin.scenario.loader import load

FOLDER = Path(__file__).parents[2] / "scenarios" / "drills"
QUIET = "quiet"
RESTART = "gateway-restarted"
WITHOUT = "none, same router"
COST_MAX = 0.02
"""What fault tolerance may add to the mean latency."""
P95_RATIO_MAX = 2.0
"""What a fault may make of the p95 of latency, against the row `quiet` on the same arrivals, in the median of the runs."""
RESULTS = "results.jsonl"
AFTER_S = 10.0
"""How long after a fault without duration its window lasts."""

LINE = frozenset(
    (
        *(
            "row",
            "nodes",
            "seed",
            "preset",
            "offered",
            "admitted",
            "rejected",
            "lost",
            "failed_attempts",
            "ttd_s",
            "ttm_s",
        ),
        *("attempts_per_request", "mean_s", "p95_quiet_s", "p95_fault_s", "missed", "unobserved", "broken_invariants"),
        "left_behind",
    )
)
"""What a line of the results has."""

Row = dict[str, Any]


def rows_of(folder: Path, chosen: Sequence[str]) -> dict[str, Path]:
    """The scenario files of the rows. Raises `OperatorError` for a name that is none."""
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    files[RESTART] = files[QUIET]
    for name in chosen:
        if name not in files:
            raise OperatorError(f"--row {name}: there is no such drill; there are {', '.join(files)}")
    return {name: files[name] for name in chosen} if chosen else files


def variants(row: str, number: int) -> Iterable[str]:
    """The policies that a run of this row has; in turn, so that a machine that warms up favours neither."""
    if row != QUIET:
        return ("default",)
    return ("default", WITHOUT) if number % 2 == 0 else (WITHOUT, "default")


def run_once(file: Path, nodes: NodeKind, seed: int, preset: str, changes: Sequence[str] = ()) -> Row:
    """One run, as a line of the results."""
    policy = (
        ["policy.preset=none", "policy.router.kind=loaded_first"] if preset == WITHOUT else [f"policy.preset={preset}"]
    )
    scenario = load(file, [f"seed={seed}", "replications=1", *policy, *changes])
    check_possible(scenario, nodes)
    result = run_scenario(LiveWorld(nodes), scenario, None, lambda line: None)
    if not result.replications:
        raise KeyboardInterrupt
    [run] = result.replications
    unknown = [it["name"] for it in result.summary["expectations"] if it["verdict"] == "unknown"]
    # Where no attempt failed after a fault there was nothing to mitigate: that is no question left open.
    still_failed = any(it.ttm.censored for it in run.recoveries)
    return {
        **seen(run),
        "missed": [it["name"] for it in result.summary["expectations"] if it["verdict"] == "fail"],
        "unobserved": [name for name in unknown if name != "ttm_s" or still_failed],
        "broken_invariants": [name for name, count in result.summary["invariants"].items() if count],
    }


def seen(run: Replication) -> Row:
    """The figures of a run that the table has."""
    figures = run.figures
    quiet_s, faulty_s = latencies_s(run.record)
    return {
        "offered": figures["requests_offered"],
        "admitted": figures["requests_admitted"],
        "rejected": figures["requests_rejected"],
        "lost": figures["requests_lost"],
        "failed_attempts": run.record.table("attempts").num_rows,
        "ttd_s": figures["ttd_s"],
        "ttm_s": figures["ttm_s"],
        "attempts_per_request": figures["attempts_per_request"],
        "mean_s": float(np.mean(quiet_s + faulty_s)) if quiet_s or faulty_s else None,
        "p95_quiet_s": float(np.percentile(quiet_s, 95)) if quiet_s else None,
        "p95_fault_s": float(np.percentile(faulty_s, 95)) if faulty_s else None,
    }


def latencies_s(record: RunRecord) -> tuple[list[float], list[float]]:
    """How long the requests took that came after the warm-up, outside of every fault's window and within one."""
    warm_s = record.number("scenario.workload.warmup_s")
    faults = record.table("faults").to_pylist()
    windows = [
        (row["injected_s"], max(row["ended_s"] if row["ended_s"] is not None else 0.0, row["injected_s"] + AFTER_S))
        for row in faults
        if row["injected_s"] is not None
    ]
    quiet_s: list[float] = []
    faulty_s: list[float] = []
    for row in record.table("requests", ["arrival_s", "end_s", "outcome"]).to_pylist():
        if row["outcome"] == "succeeded" and row["arrival_s"] >= warm_s:
            within = any(begin <= row["arrival_s"] <= end for begin, end in windows)
            (faulty_s if within else quiet_s).append(row["end_s"] - row["arrival_s"])
    return quiet_s, faulty_s


def summary(lines: Sequence[Row], names: Collection[str] | None = None) -> list[Row]:
    """One row of the table for each drill (all, or these): medians with the worst beside them.

    The lines of `quiet` are what the others are measured by, whether it is asked for or not.
    """
    rows: list[Row] = []
    quiet_s = {
        line["seed"]: line["p95_quiet_s"] for line in lines if line["row"] == QUIET and line["preset"] == "default"
    }
    for name in dict.fromkeys(line["row"] for line in lines if names is None or line["row"] in names):
        mine = [line for line in lines if line["row"] == name]
        with_it = [line for line in mine if line["preset"] == "default"]
        missed = sorted({what for line in with_it for what in line["missed"] + line["broken_invariants"]})
        unobserved = sorted({what for line in with_it for what in line["unobserved"]})
        slower = _spread([_ratio(line["p95_fault_s"], quiet_s.get(line["seed"])) for line in with_it])
        if slower is not None and slower["median"] > P95_RATIO_MAX:
            missed.append("p95_fault_to_quiet")
        row: Row = {
            "drill": name,
            "runs": len(with_it),
            "admitted": sum(line["admitted"] for line in with_it),
            "rejected": sum(line["rejected"] for line in with_it),
            "failed_attempts": _sum(line["failed_attempts"] for line in with_it),
            "lost": _spread([line["lost"] for line in with_it]),
            "ttm_s": _spread([line["ttm_s"] for line in with_it]),
            "p95_fault_to_quiet": slower,
            "left_behind": sorted({what for line in with_it for what in line["left_behind"]}),
            "verdict": "fail" if missed else "unknown" if unobserved else "pass",
            "missed": missed,
        }
        if name == QUIET:
            row["tolerance_costs"] = _cost(_paired(mine))
        rows.append(row)
    return rows


def _paired(lines: Sequence[Row]) -> list[float]:
    """For each seed: by what share the mean latency is longer with fault tolerance than without."""
    by_seed: dict[int, dict[str, float]] = {}
    for line in lines:
        by_seed.setdefault(line["seed"], {})[line["preset"]] = line["mean_s"]
    return [it["default"] / it[WITHOUT] - 1.0 for it in by_seed.values() if len(it) == 2]


def _cost(shares: Sequence[float]) -> Row | None:
    """Mean and interval of what tolerance costs. It is kept within its limit where the interval's end is, too."""
    if not shares:
        return None
    mean, ci95 = interval(shares)
    verdict = "unknown" if ci95 is None or ci95[0] < COST_MAX <= ci95[1] else "fail" if mean >= COST_MAX else "pass"
    return {"mean": mean, "ci95": ci95, "runs": len(shares), "max": COST_MAX, "verdict": verdict}


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _spread(values: Sequence[float | None]) -> Row | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "worst": max(known), "runs": len(known)}


def results(folder: Path | None) -> list[Row]:
    """The lines that are there already. Raises `OperatorError`."""
    file = folder / RESULTS if folder is not None else None
    if file is None or not file.is_file():
        return []
    lines: list[Row] = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise OperatorError(f"{file}:{number}: no result of a drill: {error}; remove the line") from error
        if not isinstance(line, dict) or not line.keys() >= LINE:
            raise OperatorError(f"{file}:{number}: a result of another version; give another folder")
        lines.append(line)
    return lines


def run_all(
    given: argparse.Namespace, console: Console, drills: Path = FOLDER, changes: Sequence[str] = ()
) -> list[Row]:
    """All runs that are wanted and not there yet; all lines. Raises `OperatorError`, and KeyboardInterrupt when asked."""
    lines = [line for line in results(given.out) if line["nodes"] == given.nodes]
    done = {(line["row"], line["seed"], line["preset"]) for line in lines}
    files = rows_of(drills, given.row)
    wanted = [
        (row, given.seed + number, preset)
        for number in range(given.runs)
        for row in files
        for preset in variants(row, number)
    ]
    missing = [each for each in wanted if each not in done]
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    for count, (row, seed, preset) in enumerate(missing, 1):
        console.print(f"{count} of {len(missing)}: {row}, seed {seed}, policy {preset}")
        before = held()
        run = restart_once if row == RESTART else run_once
        line = {
            "row": row,
            "nodes": given.nodes,
            "seed": seed,
            "preset": preset,
            **run(files[row], given.nodes, seed, preset, changes),
            "left_behind": [what for what in held().left_since(before) if what.startswith(("folder", "cgroup"))],
        }
        lines.append(line)
        if given.out is not None:
            with open(given.out / RESULTS, "a", encoding="utf-8") as kept:
                kept.write(json.dumps(line) + "\n")
        console.print(f"  {line['admitted']} admitted, {line['lost']} lost, mitigated after {cell(line['ttm_s'])} s")
    return lines


def _has_cost(row: Row) -> bool:
    return bool(row.get("tolerance_costs")) and row["tolerance_costs"]["runs"] > 1


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m live.rig.drill_table", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", choices=("real", "emulated"), default="real")
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (default 5)")
    parser.add_argument("--row", action="append", default=[], metavar="NAME", help="only this row; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the others follow (default 1)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keeps each run; what is there is not run again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="writes the table as a page, too")
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs takes 1 or more")
    console = Console(stderr=True)
    try:
        Ledger().close()  # what cannot be written is said before the first run
        lines = run_all(given, console)
        rows = summary(lines, rows_of(FOLDER, given.row))
        if given.markdown is not None:
            command = "python -m live.rig.drill_table " + " ".join(sys.argv[1:])
            page = as_markdown(rows, given.nodes, rows_of(FOLDER, []), command.strip(), P95_RATIO_MAX)
            given.markdown.write_text(page, encoding="utf-8")
    except KeyboardInterrupt:
        where = f"; the finished runs lie in {given.out}, the same command goes on" if given.out is not None else ""
        print(f"ollamamax: interrupted; everything has been put back{where}", file=sys.stderr)  # noqa: T201
        return 130
    except (OperatorError, OSError) as error:
        print(f"ollamamax: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if given.json:
        print(json.dumps({"nodes": given.nodes, "runs": given.runs, "drills": rows}))  # noqa: T201
    else:
        Console(width=150).print(as_table(rows, given.nodes))
        for row in rows:
            if row.get("tolerance_costs"):
                print(said_of(row["tolerance_costs"]))  # noqa: T201
    verdicts = {row["verdict"] for row in rows} | {row["tolerance_costs"]["verdict"] for row in rows if _has_cost(row)}
    return 1 if "fail" in verdicts else 3 if "unknown" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
