"""The figures of a run, computed from its record: the only place where they are computed.

Counted are the requests that arrived at or after the end of the warm-up; actions, incidents and faults count in the
whole run. A figure that was not observed is None, never 0. `names.FIGURES` has the unit and meaning of each; exactly:

- `requests_admitted` + `requests_rejected` = `requests_offered`.
- `requests_succeeded`: admitted, outcome `succeeded`, and ended by its deadline. `requests_lost`: admitted, neither
  succeeded nor cancelled by the client. `success_ratio`: succeeded / (admitted - cancelled).
- `queue_wait_s`: dispatch - arrival (the wait at the gateway for the first attempt), plus the hidden wait at the node,
  max(0, total - load - prompt evaluation - evaluation) by Ollama's own timings of the last attempt. Succeeded requests.
- `answers_wrong`: of the requests that succeeded, those with another `answer` than `right`: no error says so. None where
  the world cannot know (the live one).
- `ttd_s`, `ttm_s`, `ttr_s`: the mean over the faults for which it was observed (`recovery` defines them, and tells a
  fault that was never recovered from, which is censored, from one that did nothing).
- `incidents_healed`: an incident that was opened while a fault held its node, had at least one action, was verified and
  closed, whose fault was really over by the time it was verified, and that was verified before the fault would have
  ended by itself (its planned end, where it has one).
- `actions`: by kind. What was only advised is counted as `advised`, and nowhere else.
- `faults_foretold`, `false_warnings`: `foretelling` defines them.
- `false_actions`: disruptive actions (restart, kill_runner, unload) that the policy ordered, whatever came of them, on a
  node that no fault held of which such an action could free it; what an operator ordered, and what was not tried
  (`no_hand`, `no_lease`), is left out. A fault holds its node from its injection to its real end, both included; so an
  action that ends a fault is not a false one. A fault of the network holds no node here, whether of its own link, its
  rack's or a gateway's: the node is well, and a restart mends no link.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twin.policy.vocabulary import DISRUPTIVE_ACTIONS, NOT_TRIED, OPERATOR_REASON
from twin.record.foretelling import foretelling
from twin.record.names import SUMMARY_KEYS
from twin.record.reader import RunRecord
from twin.record.recovery import Duration, Flags, Recovery, Times, equals, flags, numbers, outcomes, recoveries
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import NetworkFault

COLUMNS = (
    "admitted",
    "outcome",
    "stream",
    "attempts",
    "arrival_s",
    "deadline_s",
    "dispatched_s",
    "first_token_s",
    "end_s",
    "tokens_received",
    "load_duration_s",
    "prompt_eval_duration_s",
    "eval_duration_s",
    "total_duration_s",
    "answer",
)
OF_THE_NETWORK = frozenset(name for name, kind in FAULT_KINDS.items() if issubclass(kind, NetworkFault))
"""Kinds that leave the node itself alone."""

Fault: TypeAlias = dict[str, Any]
ROUNDING_S = 1e-6  # a hidden wait below this is what is left of adding durations up


def compute_figures(record: RunRecord, found: Sequence[Recovery] | None = None) -> dict[str, Any]:
    """Every figure of `names.FIGURES`, as `run --json` prints them.

    Numbers are int or float in the unit of `names.FIGURES`; latencies are {"mean", "p50", "p95", "p99"}; `actions` maps
    kinds to counts. None: not observed. `found` are the run's `recoveries`, where the caller has them.
    """
    manifest = record.manifest
    requests = record.table("requests", COLUMNS)
    arrival_s = numbers(requests, "arrival_s")
    counted = arrival_s >= record.number("scenario.workload.warmup_s")
    admitted_flags = flags(requests, "admitted") & counted
    succeeded, lost, not_cancelled = (each & counted for each in outcomes(requests))
    offered, admitted, lost_in_all = (int(each.sum()) for each in (counted, admitted_flags, lost))
    served = np.flatnonzero(succeeded)
    judged = served.size + lost_in_all
    arrived_s = arrival_s[served]
    found = recoveries(record) if found is None else found
    events = manifest.get("events")
    return {
        "requests_offered": offered,
        "requests_admitted": admitted,
        "requests_rejected": offered - admitted,
        "requests_succeeded": served.size,
        "requests_lost": lost_in_all,
        "answers_wrong": _answers_wrong(requests, succeeded),
        "requests_cancelled": offered - int(not_cancelled.sum()),
        "success_ratio": served.size / judged if judged else None,
        "ttd_s": _mean([each.ttd for each in found]),
        "ttm_s": _mean([each.ttm for each in found]),
        "ttr_s": _mean([each.ttr for each in found]),
        "ttft_s": _summary((numbers(requests, "first_token_s")[served] - arrived_s)[flags(requests, "stream")[served]]),
        "e2e_s": _summary(numbers(requests, "end_s")[served] - arrived_s),
        "queue_wait_s": _summary(
            numbers(requests, "dispatched_s")[served] - arrived_s + _hidden_wait_s(requests, served)
        ),
        "tokens_generated": int(np.nansum(numbers(requests, "tokens_received")[counted])),
        "attempts_per_request": (
            float(np.nansum(numbers(requests, "attempts")[admitted_flags])) / admitted if admitted else None
        ),
        **_healing(record),
        **foretelling(record),
        "simulated_s": record.number("simulated_s"),
        "events": events,
        "events_per_request": events / requests.num_rows if events is not None and requests.num_rows else None,
        "wall_s": record.number("wall_s"),
    }


def _answers_wrong(requests: pa.Table, succeeded: Flags) -> int | None:
    """How many of the requests that succeeded were not answered right; None where the world cannot know."""
    known = succeeded & requests["answer"].is_valid().to_numpy()
    return int((known & ~equals(requests, "answer", "right")).sum()) if known.any() else None


def _mean(durations: list[Duration]) -> float | None:
    observed = [each.value_s for each in durations if each.value_s is not None]
    return sum(observed) / len(observed) if observed else None


def _summary(values_s: Times) -> dict[str, float | None]:
    """Mean and quantiles (linear between neighbours) of the values that are known."""
    known = values_s[~np.isnan(values_s)]
    if not known.size:
        return dict.fromkeys(SUMMARY_KEYS)
    p50, p95, p99 = np.quantile(known, [0.5, 0.95, 0.99])
    return {"mean": float(known.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}


def _hidden_wait_s(requests: pa.Table, served: NDArray[np.intp]) -> Times:
    """What Ollama's total has beyond its parts: the wait for a sequence slot. 0 where it gave no timings."""
    parts = ("load_duration_s", "prompt_eval_duration_s", "eval_duration_s")
    spent_s = sum(np.nan_to_num(numbers(requests, part)[served]) for part in parts)
    rest_s: Times = np.nan_to_num(numbers(requests, "total_duration_s")[served]) - spent_s
    return np.where(rest_s < ROUNDING_S, 0.0, rest_s)


def _healing(record: RunRecord) -> dict[str, Any]:
    actions = record.table("actions", ["time_s", "kind", "node", "reason", "status"]).to_pylist()
    incidents = record.table(
        "incidents", ["node", "opened_s", "state", "verified_s", "closed_s", "actions"]
    ).to_pylist()
    faults = record.table("faults", ["kind", "node", "injected_s", "planned_end_s", "ended_s"]).to_pylist()
    disruptive = [
        action
        for action in actions
        if action["status"] != "advised"
        and action["status"] not in NOT_TRIED
        and action["kind"] in DISRUPTIVE_ACTIONS
        and action["reason"] != OPERATOR_REASON
    ]
    curable = [fault for fault in faults if fault["kind"] not in OF_THE_NETWORK]
    held_then = holding(curable, [(action["node"], action["time_s"]) for action in disruptive])
    held_when_opened = holding(faults, [(incident["node"], incident["opened_s"]) for incident in incidents])
    healed = [
        any(_heals(incident, fault) for fault in held)
        for incident, held in zip(incidents, held_when_opened, strict=True)
    ]
    return {
        "actions": dict(sorted(Counter(_kind(action) for action in actions).items())),
        "incidents": len(incidents),
        "incidents_healed": sum(healed),
        "false_actions": sum(not held for held in held_then),
    }


def _kind(action: dict[str, Any]) -> str:
    return "advised" if action["status"] == "advised" else str(action["kind"])


def holding(faults: Iterable[Fault], moments: Sequence[tuple[str, float]]) -> list[list[Fault]]:
    """For each moment, a node and a time, the faults that held the node then; a fault holds from its injection to its
    end, both included. One sweep over the time of each node: a fault is taken up once and put down once."""
    of_node: dict[str, list[Fault]] = {}
    for fault in sorted(faults, key=lambda it: float(it["injected_s"]), reverse=True):
        of_node.setdefault(fault["node"], []).append(fault)  # the next to strike is the last
    held: dict[str, list[tuple[float, int, Fault]]] = {node: [] for node in of_node}  # heaps: the next to end is first
    found: list[list[Fault]] = [[] for _ in moments]
    for place in sorted(range(len(moments)), key=lambda it: moments[it][1]):
        node, time_s = moments[place]
        to_come, now = of_node.get(node, []), held.get(node, [])
        while to_come and to_come[-1]["injected_s"] <= time_s:
            fault = to_come.pop()
            ended_s = math.inf if fault["ended_s"] is None else float(fault["ended_s"])
            heapq.heappush(now, (ended_s, len(to_come), fault))
        while now and now[0][0] < time_s:
            heapq.heappop(now)
        found[place] = [fault for _, _, fault in now]
    return found


def _heals(incident: dict[str, Any], fault: Fault) -> bool:
    verified_s, ended_s, planned_end_s = incident["verified_s"], fault["ended_s"], fault["planned_end_s"]
    return (
        incident["state"] == "closed"
        and incident["actions"] > 0
        and verified_s is not None
        and ended_s is not None
        and ended_s <= verified_s
        and (planned_end_s is None or verified_s < planned_end_s)
    )
