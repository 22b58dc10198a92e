"""The tables of the page: faults, decisions, troubled requests, invariants, runs. Long ones are cut, and say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from reports.words import NOT_OBSERVED, figure, number
from twin.record.reader import RunRecord, record_digest
from twin.record.recovery import Duration, outcomes, recoveries

ROWS_MAX = 100
REQUESTS_MAX = 30


@dataclass(frozen=True, slots=True)
class Log:
    """A table of the page. A column whose title ends in " >" stands right-aligned."""

    title: str
    sentence: str
    titles: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    left_out: int = 0

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Title and alignment of each column."""
        return [{"title": title.removesuffix(" >"), "right": title.endswith(" >")} for title in self.titles]


def clock_time(time_s: float) -> str:
    """A time on the run's clock, to the hundredth of a second."""
    return f"{time_s:,.2f}"


def fault_log(record: RunRecord) -> Log:
    """Each fault with its times to detection, mitigation and recovery."""
    found = recoveries(record)
    log = Log(
        "Faults and recovery",
        "Detection: the first incident on the node. Mitigation: the last attempt that failed because of "
        "the fault. Recovery: the steady state is regained and held, and the node generates again. All are counted from the "
        "injection, and watched until the next fault on the node."
        if found
        else "No fault was injected.",
        ("Fault", "Node", "Injected (s) >", "Ended", "Detected after >", "Mitigated after >", "Recovered after >"),
    )
    rows = record.table("faults", ["ended_s", "ended_by"]).to_pylist()
    for each, row in zip(found, rows, strict=True):
        ended = f"{clock_time(row['ended_s'])} s, by {row['ended_by']}" if row["ended_s"] is not None else "never"
        mitigated = _duration(each.ttm, "nothing failed")
        cells = (_duration(each.ttd), mitigated, _duration(each.ttr))
        log.rows.append((each.kind, each.node, clock_time(each.injected_s), ended, *cells))
    return _cut(log)


def _duration(duration: Duration, nothing: str = NOT_OBSERVED) -> str:
    if duration.value_s is not None:
        return f"{number(round(duration.value_s, 3))} s"
    return f"not within {number(round(duration.at_least_s or 0.0, 3))} s" if duration.censored else nothing


def decision_log(record: RunRecord) -> Log:
    """Incidents and actions in the order of time, with their reasons."""
    log = Log(
        "Decisions",
        "What the policy took for a failure, and what it did about it, with its reasons.",
        ("Time (s) >", "Node", "What", "Why", "Result"),
    )
    said: list[tuple[float, tuple[str, ...]]] = []
    for row in record.table("incidents").to_pylist():
        opened = clock_time(row["opened_s"])
        said.append(
            (row["opened_s"], (opened, row["node"], f"incident: {row['diagnosis']}", row["evidence"] or "", ""))
        )
        if row["closed_s"] is not None:
            held = "a generation passed, and it held" if row["verified_s"] is not None else ""
            at = clock_time(row["closed_s"])
            said.append((row["closed_s"], (at, row["node"], f"incident {row['state']}", held, "")))
    for row in record.table("actions").to_pylist():
        what = f"{row['kind']} {row['model']}".strip() if row["model"] else row["kind"]
        result = " ".join(str(each) for each in (row["status"], row["detail"]) if each) or "no result"
        if row["result_s"] is not None:
            result += f" after {number(round(row['result_s'] - row['time_s'], 3))} s"
        at = clock_time(row["time_s"])
        said.append((row["time_s"], (at, row["node"], what, row["reason"] or "", result)))
    said.sort(key=lambda each: each[0])
    log.rows.extend(cells for _, cells in said)
    return _cut(log) if log.rows else Log(log.title, "It opened no incident and did nothing.", log.titles)


def request_log(record: RunRecord) -> Log:
    """Requests that were lost, turned away or saved by another attempt."""
    requests = record.table("requests")
    ok, lost, counted = outcomes(requests)
    retried = pc.fill_null(pc.greater(requests["attempts"], 1), False).to_numpy()
    rejected = ~pc.fill_null(requests["admitted"], False).to_numpy()
    troubled = np.flatnonzero(lost | retried | rejected)
    # The lost ones first, then those turned away, then those that a retry saved.
    troubled = troubled[np.argsort(np.where(lost, 0, np.where(rejected, 1, 2))[troubled], kind="stable")]
    log = Log(
        "Failed and retried requests",
        _count_of_troubles(record, lost, rejected, retried & ok, counted),
        ("Request >", "Arrival (s) >", "Outcome", "Last node", "Attempts >", "Took (s) >", "Tokens >", "Last error"),
        left_out=max(0, len(troubled) - REQUESTS_MAX),
    )
    for row in requests.take(troubled[:REQUESTS_MAX]).to_pylist():
        took = number(round(row["end_s"] - row["arrival_s"], 3)) if row["end_s"] is not None else NOT_OBSERVED
        log.rows.append(
            (
                str(row["request_id"]),
                clock_time(row["arrival_s"]),
                row["outcome"] or "",
                row["node"] or "–",
                str(row["attempts"]),
                took,
                str(row["tokens_received"]),
                row["error"] or "",
            )
        )
    return log


def _count_of_troubles(record: RunRecord, lost: Any, rejected: Any, saved: Any, counted: Any) -> str:
    errors = Counter(error for error in record.table("attempts", ["error"])["error"].to_pylist() if error)
    causes = ", ".join(f"{count} × {error}" for error, count in errors.most_common())
    failed = f" Attempts that failed: {causes}." if causes else " No attempt failed."
    return (
        f"In the whole run, warm-up included: {int(lost.sum())} lost, {int(rejected.sum())} turned away, "
        f"{int((~counted).sum())} cancelled by their client, {int(saved.sum())} saved by another attempt.{failed}"
    )


def invariant_log(summary: Mapping[str, Any]) -> Log:
    """What the checkers found."""
    broken = sum(1 for violations in summary["invariants"].values() if violations)
    log = Log(
        "Invariants",
        f"{broken} of {len(summary['invariants'])} were broken." if broken else "What must hold in every run, and did.",
        ("Invariant", "Violations >"),
    )
    log.rows.extend((name.replace("_", " "), number(count)) for name, count in summary["invariants"].items())
    return log if log.rows else Log(log.title, "None was checked.", log.titles)


def run_log(records: Sequence[RunRecord], figures: Sequence[dict[str, Any]]) -> Log:
    """The runs of several replications beside each other."""
    names = ("requests_lost", "ttd_s", "ttm_s", "ttr_s", "false_actions")
    log = Log(
        "All runs",
        "One row for each replication.",
        ("Seed >", "Lost >", "TTD >", "TTM >", "TTR >", "False actions >", "Digest of the record"),
    )
    for record, of_run in zip(records, figures, strict=True):
        cells = (figure(name, of_run[name]) for name in names)
        log.rows.append((str(record.manifest.get("seed", "–")), *cells, record_digest(record)[:16]))
    return _cut(log)


def _cut(log: Log) -> Log:
    return Log(log.title, log.sentence, log.titles, log.rows[:ROWS_MAX], max(0, len(log.rows) - ROWS_MAX))
