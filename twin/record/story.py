"""What a run has to tell, computed once: everything that a page of it shows, small however long the run was.

All of it is plain data, so that it can be kept as JSON (`cached`). Times are seconds on the run's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from twin.record import over_time
from twin.record.figures import compute_figures
from twin.record.health import health_intervals
from twin.record.query import CANCELLED, LOST, REJECTED, SUCCEEDED, Query, Row, query
from twin.record.reader import RunRecord
from twin.record.recovery import Duration, Recovery, flags, numbers, outcomes, recoveries

NODES_MAX = 12
ROWS_MAX = 500
SPANS_MAX = 3000
TROUBLED_MAX = 200
FAULTS_MAX = 100
SLACK_S = 1.0  # more than what adding times up can round off
LATENCY_STEPS_MAX = over_time.STEPS_MAX // 2


@dataclass(frozen=True, slots=True)
class Story:
    """What a run has to tell. Lists of rows are in the order of time unless they say otherwise."""

    manifest: dict[str, Any]
    figures: dict[str, Any]  # of `names.FIGURES`
    recoveries: list[Row]  # `Recovery` as plain data, each with `ended_s` and `ended_by` of its fault
    step_s: float
    success: list[Row]  # `over_time.success_over_time`
    requests: list[Row]  # `over_time.requests_over_time`
    latency_step_s: float
    latency: list[Row]  # `over_time.latency_over_time`
    in_system: list[Row]  # `over_time.in_system_over_time`
    nodes: list[str]  # those that are told of one by one: where something happened first, in their natural order
    nodes_in_all: int
    at_nodes: list[Row]  # `over_time.at_nodes_over_time`
    states: list[Row]  # {node, from, to, state}: a state is one of `health.NODE_STATES`
    loads: list[Row]  # {node, model, from, to, status}: models that were loaded on the policy's order
    incidents: list[Row]  # as the table
    actions: list[Row]  # as the table
    decisions: list[Row]  # {number, at, node, what, why, result}: incidents and actions; `number` is their order
    decisions_in_all: int
    failed_attempts: list[Row]  # {node, at, error}
    troubles: Row  # counts: lost, rejected, cancelled, retried, saved, and {errors: {error: attempts that failed}}
    troubled: list[Row]  # requests: the lost first, then those turned away, then those that another attempt saved
    troubled_in_all: int
    blast: list[Row]  # for each fault: whom it touched until it was recovered from
    probes: Row  # `probe_traffic`
    load: Row  # {requests_per_s, prompt_tokens, output_tokens}: what arrived after the warm-up, the last two as means


def tell(record: RunRecord) -> Story:
    """Compute it. Raises `RunUnreadable` where a file of the record is damaged."""
    found = recoveries(record)
    steps = over_time.steps_of(record)
    latency_steps = over_time.steps_of(record, LATENCY_STEPS_MAX)
    with query(record) as ask:
        faults = ask.rows("SELECT ended_s, ended_by, detail, struck FROM faults")
        names = _node_names(ask)
        nodes = _eventful(ask, names)[:NODES_MAX]
        nodes = [name for name in names if name in nodes]
        incidents = ask.rows(f"SELECT * FROM incidents ORDER BY opened_s LIMIT {ROWS_MAX}")
        actions = ask.rows(f"SELECT * FROM actions ORDER BY time_s LIMIT {ROWS_MAX}")
        decisions = _decisions(incidents, actions)
        in_all = ask.rows("SELECT (SELECT count(*) FROM incidents) + (SELECT count(*) FROM actions) AS n")[0]["n"]
        troubles = _troubles(ask)
        return Story(
            manifest=record.manifest,
            figures=compute_figures(record, found),
            recoveries=[_plain(each) | fault for each, fault in zip(found, faults, strict=True)],
            step_s=steps.width_s,
            success=over_time.success_over_time(ask, steps),
            requests=over_time.requests_over_time(ask, steps),
            latency_step_s=latency_steps.width_s,
            latency=over_time.latency_over_time(ask, latency_steps),
            in_system=over_time.in_system_over_time(ask, steps),
            nodes=nodes,
            nodes_in_all=len(names),
            at_nodes=over_time.at_nodes_over_time(ask, steps, nodes),
            states=node_states(record, nodes),
            loads=ask.rows(
                'SELECT node, model, time_s AS "from", result_s AS "to", status FROM actions '
                f"WHERE kind = 'load' AND result_s IS NOT NULL ORDER BY time_s LIMIT {ROWS_MAX}"
            ),
            incidents=incidents,
            actions=actions,
            decisions=decisions,
            decisions_in_all=in_all,
            failed_attempts=ask.rows(
                f"SELECT node, end_s AS at, error FROM attempts WHERE error <> '' ORDER BY end_s LIMIT {SPANS_MAX}"
            ),
            troubles=troubles,
            troubled=_troubled(ask),
            troubled_in_all=troubles["lost"] + troubles["rejected"] + troubles["saved"],
            blast=_blast(ask, found),
            probes=probe_traffic(record, ask),
            load=ask.rows(
                "SELECT count(*) / $duration_s AS requests_per_s, avg(prompt_tokens) AS prompt_tokens, "
                "avg(output_tokens) AS output_tokens FROM requests WHERE arrival_s >= $warmup_s",
                duration_s=record.number("scenario.workload.duration_s"),
                warmup_s=record.number("scenario.workload.warmup_s"),
            )[0],
        )


def _plain(recovery: Recovery) -> Row:
    """As plain data. Written out: `asdict` copies value by value, which of very many faults takes longest of all."""
    plain: Row = {name: getattr(recovery, name) for name in ("fault_id", "kind", "node", "injected_s")}
    for name in ("ttd", "ttm", "ttr"):
        of: Duration = getattr(recovery, name)
        plain[name] = {"value_s": of.value_s, "censored": of.censored, "at_least_s": of.at_least_s}
    return plain


def node_states(record: RunRecord, nodes: list[str]) -> list[Row]:
    """Spans {node, from, to, state} of what each of the nodes was, exactly (`health`). Where there are too many, the
    shortest are left out: they could not be seen anyway."""
    spans: list[Row] = [
        {"node": each.node, "from": each.from_s, "to": each.to_s, "state": each.state}
        for each in health_intervals(record)
        if each.node in nodes
    ]
    kept = sorted(range(len(spans)), key=lambda place: spans[place]["from"] - spans[place]["to"])[:SPANS_MAX]
    return [spans[place] for place in sorted(kept)]


def probe_traffic(record: RunRecord, ask: Query) -> Row:
    """What watching costs: probes by kind, per node and minute, and the share of them that ask for a generation."""
    counters = record.manifest.get("counters") or {}
    counts = {
        name.removeprefix("probes_passed_"): int(count)
        for name, count in counters.items()
        if name.startswith("probes_passed_")
    }
    # The table has the failed ones of all kinds; those of passed generations and load paths are in both.
    for row in ask.rows(
        "SELECT kind, count(*) FILTER (NOT ok) AS failed, count(*) FILTER (ok) AS ok FROM probes GROUP BY 1"
    ):
        counts[row["kind"]] = max(counts.get(row["kind"], 0), row["ok"]) + row["failed"]
    nodes = ask.rows("SELECT count(DISTINCT node) AS n FROM telemetry")[0]["n"]
    minutes = record.number("simulated_s") / 60.0
    probes = sum(counts.values())
    requests = ask.rows("SELECT count(*) AS n FROM requests")[0]["n"]
    return {
        "by_kind": dict(sorted(counts.items())),
        "probes": probes,
        "per_node_minute": probes / nodes / minutes if nodes and minutes else None,
        "generations_per_request": counts.get("generation", 0) / requests if requests else None,
    }


def _node_names(ask: Query) -> list[str]:
    rows = ask.rows(
        "SELECT DISTINCT node FROM (SELECT node FROM telemetry UNION ALL SELECT node FROM faults "
        "UNION ALL SELECT node FROM incidents UNION ALL SELECT node FROM requests) WHERE node <> ''"
    )
    return sorted((row["node"] for row in rows), key=lambda name: (len(name), name))


def _eventful(ask: Query, names: list[str]) -> list[str]:
    """The nodes, those where something happened first."""
    rows = ask.rows(
        "SELECT DISTINCT node FROM (SELECT node FROM faults UNION ALL SELECT node FROM incidents "
        "UNION ALL SELECT node FROM actions)"
    )
    eventful = {row["node"] for row in rows}
    return [name for name in names if name in eventful] + [name for name in names if name not in eventful]


def _decisions(incidents: list[Row], actions: list[Row]) -> list[Row]:
    """What the policy took for a failure and what it did about it, numbered in the order of time."""
    found: list[Row] = []
    for row in incidents:
        closed = row["closed_s"]
        result = row["state"]
        if closed is not None:
            result = f"closed at {closed:,.2f} s"
            result += ": a generation passed, and it held" if row["verified_s"] is not None else ""
        found.append(
            {
                "at": row["opened_s"],
                "node": row["node"],
                "what": f"incident: {row['diagnosis']}",
                "why": row["evidence"] or "",
                "result": result,
            }
        )
    for row in actions:
        result = " ".join(str(each) for each in (row["status"], row["detail"]) if each) or "no result"
        if row["result_s"] is not None:
            result += f" after {row['result_s'] - row['time_s']:.3g} s"
        what = f"{row['kind']} {row['model']}" if row["model"] else row["kind"]
        why = row["reason"] or ""
        found.append({"at": row["time_s"], "node": row["node"], "what": what, "why": why, "result": result})
    found.sort(key=lambda row: row["at"])
    return [{"number": place, **row} for place, row in enumerate(found[:ROWS_MAX], start=1)]


def _troubles(ask: Query) -> Row:
    counts = ask.rows(
        f"SELECT count(*) FILTER ({LOST}) AS lost, count(*) FILTER ({REJECTED}) AS rejected, "
        f"count(*) FILTER ({CANCELLED}) AS cancelled, count(*) FILTER (attempts > 1) AS retried, "
        f"count(*) FILTER (attempts > 1 AND {SUCCEEDED}) AS saved FROM requests"
    )[0]
    errors = ask.rows("SELECT error, count(*) AS n FROM attempts WHERE error <> '' GROUP BY 1 ORDER BY 2 DESC, 1")
    return {**counts, "errors": {row["error"]: row["n"] for row in errors}}


def _troubled(ask: Query) -> list[Row]:
    rows = ask.rows(
        f"SELECT request_id, model, arrival_s, end_s, outcome, error, node, attempts, tokens_received, stream, "
        f"CASE WHEN {LOST} THEN 'lost' WHEN {REJECTED} THEN 'turned away' ELSE 'saved' END AS fate FROM requests "
        f"WHERE {LOST} OR {REJECTED} OR (attempts > 1 AND {SUCCEEDED}) "
        f"ORDER BY CASE WHEN {LOST} THEN 0 WHEN {REJECTED} THEN 1 ELSE 2 END, arrival_s LIMIT {TROUBLED_MAX}"
    )
    failed = ask.rows(
        "SELECT request_id, node, end_s, error, tokens FROM attempts WHERE error <> '' AND "
        "request_id IN (SELECT unnest($ids)) ORDER BY end_s",
        ids=[row["request_id"] for row in rows],
    )
    of_request: dict[int, list[Row]] = {row["request_id"]: [] for row in rows}
    for each in failed:
        of_request[each.pop("request_id")].append(each)
    for row in rows:
        row["failed_attempts"] = of_request[row["request_id"]]
    return rows


def _blast(ask: Query, found: list[Recovery]) -> list[Row]:
    """For each fault until it was recovered from (or the run ended): requests in the system meanwhile, and their fate."""
    end_s = ask.record.number("simulated_s")
    spans: list[tuple[float, float]] = []
    for each in found[:FAULTS_MAX]:
        took_s = each.ttr.value_s if each.ttr.value_s is not None else (each.ttr.at_least_s or 0.0)
        until_s = each.injected_s + took_s if each.ttr.value_s is not None else end_s
        spans.append((each.injected_s, until_s))
    if not spans:
        return []
    touched = _touched(ask.record, spans)
    reached = ask.rows(
        "WITH spans AS (SELECT unnest($places) AS place, unnest($begins) AS from_s, unnest($ends) AS to_s) "
        "SELECT place, count(*) AS attempts, count(DISTINCT node) AS nodes FROM spans JOIN attempts "
        "ON end_s BETWEEN from_s AND to_s WHERE error <> '' GROUP BY place",
        places=list(range(len(spans))),
        begins=[span[0] for span in spans],
        ends=[span[1] for span in spans],
    )
    failed = {row["place"]: row for row in reached}
    return [
        {
            "kind": each.kind,
            "node": each.node,
            "from": spans[place][0],
            "to": spans[place][1],
            **touched[place],
            "attempts_failed": failed.get(place, {}).get("attempts", 0),
            "nodes_with_failures": failed.get(place, {}).get("nodes", 0),
        }
        for place, each in enumerate(found[:FAULTS_MAX])
    ]


def _touched(record: RunRecord, spans: list[tuple[float, float]]) -> list[Row]:
    """What became of the requests that were in the system in each span."""
    names = ["admitted", "outcome", "attempts", "arrival_s", "end_s", "deadline_s"]
    requests = record.table("requests", names)
    arrival_s, end_s = numbers(requests, "arrival_s"), numbers(requests, "end_s")
    succeeded, lost, _ = outcomes(requests)
    rejected, saved = ~flags(requests, "admitted"), succeeded & (numbers(requests, "attempts") > 1)
    order = np.argsort(arrival_s, kind="stable")
    arrivals_s = arrival_s[order]
    longest_s = float(np.fmax.reduce(end_s - arrival_s, initial=0.0))  # who arrived longer ago than that has gone
    found = []
    for from_s, to_s in spans:
        first = np.searchsorted(arrivals_s, from_s - longest_s - SLACK_S)
        last = np.searchsorted(arrivals_s, to_s, side="right")
        near = order[first:last]
        here = near[end_s[near] >= from_s]
        served = here[succeeded[here]]
        counts = {
            name: int(mask[here].sum()) for name, mask in (("lost", lost), ("rejected", rejected), ("saved", saved))
        }
        p95_s = float(np.quantile(end_s[served] - arrival_s[served], 0.95)) if served.size else None
        found.append({"requests": here.size, **counts, "e2e_p95_s": p95_s})
    return found
