"""Detection, mitigation and recovery of each fault: TTD, TTM and TTR, computed from the record.

All three are seconds counted from the fault's injection, one set for each row of the table `faults` (fault and node).
A fault is watched until the next injection on the same node, else until the run's end. What did not come in that time is
*censored*: the run only says that it would have taken longer than a lower bound.

- **TTD**: the first incident that the policy opened on the faulted node.
- **TTM**: the end of the last attempt that failed because of the fault. A request that was lost counts as a failure at
  its end; an attempt whose client went away does not. Several faults may be going on: a failure is put down to the
  fault that struck its node last, if that has not been over for more than `hold_s`; if there is none, as where others
  have too much to do, to the fault that was injected last, on whichever node (to all that were injected together). Not
  observed where nothing failed. Censored where such failures still went on within the last `hold_s` of the time watched.
- **TTR**: the earliest time t at which the system is well again, and stays so for `steady_state.hold_s`:
  (a) the success ratio is at least `min` at t and at every end of a request up to t + hold_s. It is taken over the
  requests that ended in the trailing `window_s`, the time before the injection included, as a monitor would show it;
  requests that their client cancelled are left out, and requests that were turned away count as not succeeded: a
  cluster that sheds is not well. A window in which nothing ended breaks nothing.
  (b) the faulted node generates: a request that was sent to it after the injection has succeeded by t, or a generation
  probe begun after the injection has passed; and since then, up to t + hold_s, no attempt and no probe of generation
  or of the load path has failed on it. A load path that was seen to fail counts as failing until a probe of it passes
  or the fault is over.
  (c) the fault is over, by an action or by itself: a node that gets slower, or is cut off, is not whole while that
  lasts, however well the others stand in for it. Successes before that do not count in (b).
  (d) t + hold_s lies within the time watched; else it is censored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twin.record.reader import RunRecord

Times: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Places: TypeAlias = NDArray[np.intp]
CANDIDATES_AT_ONCE = 4096
SOON_S = 30.0


@dataclass(frozen=True, slots=True)
class Duration:
    """A time since the injection. `value_s` is None where it was not observed; if it is `censored`, it is longer than
    `at_least_s`; if it is not, there was nothing to observe."""

    value_s: float | None
    censored: bool = False
    at_least_s: float | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of one fault on one node."""

    fault_id: int
    kind: str
    node: str
    injected_s: float
    ttd: Duration
    ttm: Duration
    ttr: Duration


@dataclass(frozen=True, slots=True)
class _Events:
    """What bears on recovery, as sorted times."""

    ended: Times  # ends of requests that were not cancelled
    unsuccessful: Times  # of those, the ones that did not succeed
    succeeded_before: NDArray[np.int64]  # n + 1 sums: succeeded among the first i of them
    unsteady_before: NDArray[np.int64]  # n + 1 sums: of the first i ends, those at which the ratio was too low
    window_s: float
    minimum: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of one node, in the order of time, so that each fault looks only at its own share of it."""

    began: Times  # of what succeeded there: when it was begun, at the earliest
    succeeded: Times  # and when it was over
    failed: Times  # ends of failed attempts and of probes that did not pass
    load_path: Times  # probes of it
    load_path_passed: Flags  # whether they passed
    opened: Times  # incidents
    injections: Times  # of faults


def recoveries(record: RunRecord) -> list[Recovery]:
    """TTD, TTM and TTR of each row of `faults`, in the rows' order. The module's text defines them."""
    faults = record.table("faults").to_pylist()
    if not faults:
        return []
    end_s, hold_s = record.number("simulated_s"), record.number("scenario.steady_state.hold_s")
    requests = record.table(
        "requests", ["request_id", "admitted", "outcome", "node", "attempts", "dispatched_s", "end_s", "deadline_s"]
    )
    attempts = record.table("attempts", ["request_id", "node", "end_s", "error"])
    attempts = attempts.filter(~equals(attempts, "error", ""))
    probes = record.table("probes", ["time_s", "node", "kind", "ok", "latency_s"])
    incidents = record.table("incidents", ["node", "opened_s"])
    ok, lost, counted = outcomes(requests)
    events = _events(record, numbers(requests, "end_s"), ok, counted)
    injected = np.array([fault["injected_s"] for fault in faults], dtype=np.float64)
    nodes = sorted({fault["node"] for fault in faults})
    seen = _seen(nodes, faults, requests, ok, attempts, probes, incidents)
    failed = _failures_of(nodes, faults, injected, attempts, requests.filter(lost), hold_s)
    found: list[Recovery] = []
    for place, fault in enumerate(faults):
        node, injected_s = fault["node"], float(injected[place])
        here = seen[node]
        until_s = _next(here.injections, injected_s, end_s)
        found.append(
            Recovery(
                fault["fault_id"],
                fault["kind"],
                node,
                injected_s,
                _detection(here.opened, injected_s, until_s),
                _mitigation(failed[place], injected_s, until_s, hold_s),
                _recovery(
                    events,
                    _successes(here, injected_s, until_s),
                    _within(here.failed, injected_s, until_s),
                    _stuck_load_path(here, injected_s, until_s, fault["ended_s"]),
                    (injected_s, _over_s(fault), until_s, hold_s),
                ),
            )
        )
    return found


def success_ratios(record: RunRecord, at: Times) -> Times:
    """The ratio of condition (a) at each time of `at` (seconds): nan where nothing ended in the trailing window."""
    requests = record.table("requests", ["admitted", "outcome", "end_s", "deadline_s"])
    ok, _, counted = outcomes(requests)
    ended, succeeded = _by_end(numbers(requests, "end_s"), ok, counted)
    succeeded_before = np.concatenate(([0], np.cumsum(succeeded)))
    window_s = record.number("scenario.steady_state.success_ratio.window_s")
    last, first = (np.searchsorted(ended, at - back_s, side="right") for back_s in (0.0, window_s))
    count = (last - first).astype(np.float64)
    count[count == 0] = np.nan
    ratios: Times = (succeeded_before[last] - succeeded_before[first]) / count
    return ratios


def outcomes(requests: pa.Table) -> tuple[Flags, Flags, Flags]:
    """For each request: it succeeded; it was lost; it counts in a ratio of success (it was not cancelled)."""
    admitted = flags(requests, "admitted")
    deadline_s = numbers(requests, "deadline_s")
    in_time = ~(numbers(requests, "end_s") > deadline_s)  # a deadline that is null never passes
    succeeded = admitted & equals(requests, "outcome", "succeeded") & in_time
    cancelled = admitted & equals(requests, "outcome", "cancelled")
    return succeeded, admitted & ~succeeded & ~cancelled, ~cancelled


def numbers(table: pa.Table, name: str) -> Times:
    """A column as floats, null as nan."""
    values: Times = table[name].to_numpy().astype(np.float64, copy=False)
    return values


def flags(table: pa.Table, name: str) -> Flags:
    """A column of truth values, null as false."""
    column = table[name]
    values: Flags = column.to_numpy() == True if column.null_count else column.to_numpy()  # noqa: E712  # None is not
    return values


def equals(table: pa.Table, name: str, text: str) -> Flags:
    """Where a column of text is this text; null is no text. The column has a dictionary, whose codes are compared."""
    found = [np.zeros(0, dtype=np.bool_)]
    for chunk in table[name].chunks:
        texts = chunk.dictionary.to_pylist()
        code = texts.index(text) if text in texts else np.nan
        found.append(chunk.indices.to_numpy(zero_copy_only=False) == code)
    return np.concatenate(found)


def rows_by_node(table: pa.Table, nodes: Sequence[str]) -> list[Places]:
    """The rows of each of the nodes, in the table's order. One sort, however many nodes there are."""
    places = {node: place for place, node in enumerate(nodes)}
    found = [np.zeros(0, dtype=np.int32)]
    for chunk in table["node"].chunks:
        # The last entry is for null, whose code is -1, as for every node that is not asked for.
        known = np.array([*(places.get(text, -1) for text in chunk.dictionary.to_pylist()), -1], dtype=np.int32)
        found.append(known[chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)])
    return _grouped(np.concatenate(found), len(nodes))


def _grouped(of: NDArray[np.integer[Any]], count: int) -> list[Places]:
    """The places at which `of` is 0, 1, ... count - 1, each in order."""
    order = np.argsort(of, kind="stable")
    bounds = np.searchsorted(of[order], np.arange(count + 1))
    return [order[first:last] for first, last in pairwise(bounds)]


def _next(injections: Times, after_s: float, end_s: float) -> float:
    later = np.searchsorted(injections, after_s, side="right")
    return float(injections[later]) if later < injections.size else end_s


def _events(record: RunRecord, ends: Times, ok: Flags, counted: Flags) -> _Events:
    window_s = record.number("scenario.steady_state.success_ratio.window_s")
    minimum = record.number("scenario.steady_state.success_ratio.min")
    ended, succeeded = _by_end(ends, ok, counted)
    succeeded_before = np.concatenate(([0], np.cumsum(succeeded)))
    steady = _steady(ended, ended, succeeded_before, window_s, minimum)
    unsteady_before = np.concatenate(([0], np.cumsum(~steady)))
    return _Events(ended, ended[~succeeded], succeeded_before, unsteady_before, window_s, minimum)


def _failures_of(
    nodes: list[str],
    faults: list[dict[str, Any]],
    injected: Times,
    attempts: pa.Table,
    lost: pa.Table,
    hold_s: float,
) -> list[Times]:
    """The times of the failures that are put down to each fault, in order: those of attempts and of lost requests."""
    times = np.concatenate((numbers(attempts, "end_s"), numbers(lost, "end_s")))
    owner = np.full(len(times), -1)  # of the faults of its node, one: the last that struck it
    of_node: dict[str, list[int]] = {node: [] for node in nodes}
    for place in np.argsort(injected, kind="stable").tolist():
        of_node[faults[place]["node"]].append(place)
    of_attempts, of_lost = rows_by_node(attempts, nodes), rows_by_node(lost, nodes)
    for node, failed, gone in zip(nodes, of_attempts, of_lost, strict=True):
        here = np.concatenate((failed, gone + attempts.num_rows))
        own = np.array(of_node[node])
        over = np.array([np.inf if (ended_s := faults[place]["ended_s"]) is None else ended_s for place in own])
        last = np.searchsorted(injected[own], times[here], side="right") - 1
        struck = (last >= 0) & (times[here] <= over[last] + hold_s)
        owner[here[struck]] = own[last[struck]]
    known, which = np.unique(injected, return_inverse=True)
    latest = np.searchsorted(known, times, side="right") - 1  # of all injections; -1: before the first
    latest[owner >= 0] = -1
    owned, shared = _grouped(owner, len(faults)), _grouped(latest, len(known))
    return [np.sort(times[np.concatenate((owned[place], shared[which[place]]))]) for place in range(len(faults))]


def _by_end(ends: Times, ok: Flags, counted: Flags) -> tuple[Times, Flags]:
    """The ends of the counted requests in order, and whether each of them succeeded."""
    ended, succeeded = ends[counted], ok[counted]
    order = np.argsort(ended, kind="stable")
    return ended[order], succeeded[order]


ROUNDING_S = 1e-9
"""(e + w) - w may be a little less than e: what ended exactly a window ago has left it."""


def _steady(at: Times, ended: Times, succeeded_before: NDArray[np.int64], window_s: float, minimum: float) -> Flags:
    """Whether the ratio over the requests that ended in (t - window_s, t] is high enough, for each t of `at`."""
    last = np.searchsorted(ended, at, side="right")
    first = np.searchsorted(ended, at - window_s + ROUNDING_S, side="right")
    steady: Flags = succeeded_before[last] - succeeded_before[first] >= minimum * (last - first)
    return steady


def _started(requests: pa.Table, attempts: pa.Table) -> Times:
    """When the last attempt of each request began, at the earliest: its dispatch, or the end of its last failed one."""
    started = numbers(requests, "dispatched_s").copy()
    retried = np.flatnonzero(numbers(requests, "attempts") > 1)
    if retried.size and attempts.num_rows:
        ids, ends = attempts["request_id"].to_numpy(), numbers(attempts, "end_s")
        order = np.lexsort((ends, ids))
        ids, ends = ids[order], ends[order]
        wanted = requests["request_id"].to_numpy()[retried]
        place = np.searchsorted(ids, wanted, side="right") - 1
        known = (place >= 0) & (ids[place] == wanted)
        started[retried[known]] = np.fmax(started[retried[known]], ends[place[known]])
    return started


def _seen(
    nodes: list[str],
    faults: list[dict[str, Any]],
    requests: pa.Table,
    ok: Flags,
    attempts: pa.Table,
    probes: pa.Table,
    incidents: pa.Table,
) -> dict[str, _Seen]:
    """What was seen of each node; `ok` are the requests that succeeded, `attempts` those that failed."""
    started, ended = _started(requests, attempts), numbers(requests, "end_s")
    failed, opened = numbers(attempts, "end_s"), numbers(incidents, "opened_s")
    time_s, passed = numbers(probes, "time_s"), flags(probes, "ok")
    begun = time_s - numbers(probes, "latency_s")
    generation, load_path = equals(probes, "kind", "generation"), equals(probes, "kind", "load_path")
    answered, refuted = passed & generation, ~passed & (generation | load_path)
    injected: dict[str, list[float]] = {node: [] for node in nodes}
    for fault in faults:
        injected[fault["node"]].append(fault["injected_s"])
    found: dict[str, _Seen] = {}
    rows = (rows_by_node(table, nodes) for table in (requests, attempts, probes, incidents))
    for node, of_requests, of_attempts, of_probes, of_incidents in zip(nodes, *rows, strict=True):
        served = of_requests[ok[of_requests]]
        asked, loads = of_probes[answered[of_probes]], of_probes[load_path[of_probes]]
        succeeded = np.concatenate((ended[served], time_s[asked]))
        order = np.argsort(succeeded, kind="stable")
        loads = loads[np.lexsort((passed[loads], time_s[loads]))]
        found[node] = _Seen(
            np.concatenate((started[served], begun[asked]))[order],
            succeeded[order],
            np.sort(np.concatenate((failed[of_attempts], time_s[of_probes[refuted[of_probes]]]))),
            time_s[loads],
            passed[loads],
            np.sort(opened[of_incidents]),
            np.sort(np.array(injected[node], dtype=np.float64)),
        )
    return found


def _within(times: Times, from_s: float, to_s: float) -> Times:
    """Those of the sorted times that lie between the two, both included."""
    return times[np.searchsorted(times, from_s) : np.searchsorted(times, to_s, side="right")]


def _successes(seen: _Seen, injected_s: float, until_s: float) -> Times:
    """When the node was seen to generate something that was begun after the injection, in the time watched."""
    first, last = np.searchsorted(seen.succeeded, injected_s), np.searchsorted(seen.succeeded, until_s, side="right")
    return seen.succeeded[first:last][seen.began[first:last] >= injected_s]


def _stuck_load_path(
    seen: _Seen, injected_s: float, until_s: float, ended_s: float | None
) -> list[tuple[float, float]]:
    """Spans of the time watched in which the load path is known to fail: from a failed probe of it to a passed one, or
    the fault's end."""
    stuck: list[tuple[float, float]] = []
    since: float | None = None
    first = np.searchsorted(seen.load_path, injected_s)
    last = np.searchsorted(seen.load_path, until_s, side="right")
    for time_s, ok in zip(seen.load_path[first:last].tolist(), seen.load_path_passed[first:last].tolist(), strict=True):
        if ok and since is not None:
            stuck.append((since, time_s))
            since = None
        elif not ok and since is None:
            since = time_s
    if since is not None:
        stuck.append((since, np.inf))
    if ended_s is None:
        return stuck
    return [(from_s, min(to_s, ended_s) if from_s <= ended_s else to_s) for from_s, to_s in stuck]


def _over_s(fault: dict[str, Any]) -> float:
    """When the fault was really over; infinity where it held to the end of the run."""
    return float(fault["ended_s"]) if fault["ended_by"] in ("schedule", "action") else math.inf


def _detection(opened: Times, injected_s: float, until_s: float) -> Duration:
    first = np.searchsorted(opened, injected_s)
    if first < opened.size and opened[first] < until_s:
        return Duration(float(opened[first]) - injected_s)
    return Duration(None, True, max(0.0, until_s - injected_s))


def _mitigation(failed: Times, injected_s: float, until_s: float, hold_s: float) -> Duration:
    first, last = np.searchsorted(failed, [injected_s, until_s])
    if first == last:
        return Duration(None)
    took_s = float(failed[last - 1]) - injected_s
    return Duration(None, True, took_s) if injected_s + took_s > until_s - hold_s else Duration(took_s)


def _recovery(
    events: _Events,
    successes: Times,
    failures: Times,
    stuck: list[tuple[float, float]],
    watched: tuple[float, float, float, float],
) -> Duration:
    injected_s, over_s, until_s, hold_s = watched
    latest_s = until_s - hold_s
    successes = successes[successes >= over_s]
    censored = Duration(None, True, max(0.0, latest_s - injected_s))
    # The earliest t is the fault's end or a time at which the conditions may turn for the better: a request ends,
    # one that did not succeed leaves the window, the node succeeds, its load path is freed.
    freed = np.array([end_s for _, end_s in stuck], dtype=np.float64)
    left = events.unsuccessful + events.window_s
    for soon_s in (min(latest_s, over_s + SOON_S), latest_s):  # most recover soon, and a run may be long
        inside = [
            it[slice(*(np.searchsorted(it, over_s), np.searchsorted(it, soon_s, side="right")))]
            for it in (events.ended, left, successes)
        ]
        candidates = np.concatenate(([over_s], *inside, freed))
        candidates = np.unique(candidates[(candidates >= over_s) & (candidates <= soon_s)])
        for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
            at = candidates[start : start + CANDIDATES_AT_ONCE]
            well = _traffic_holds(events, at, hold_s) & _node_generates(successes, failures, at, hold_s)
            for from_s, to_s in stuck:
                well &= (at + hold_s < from_s) | (at >= to_s)
            if well.any():
                return Duration(float(at[well.argmax()]) - injected_s)
    return censored


def _traffic_holds(events: _Events, at: Times, hold_s: float) -> Flags:
    """Condition (a) for each time of `at`."""
    first = np.searchsorted(events.ended, at, side="left")
    last = np.searchsorted(events.ended, at + hold_s, side="right")
    now = _steady(at, events.ended, events.succeeded_before, events.window_s, events.minimum)
    holds: Flags = now & (events.unsteady_before[last] == events.unsteady_before[first])
    return holds


def _node_generates(successes: Times, failures: Times, at: Times, hold_s: float) -> Flags:
    """Condition (b) for each time of `at`: the last success by then is later than the last failure by t + hold_s."""
    succeeded_s = _last(successes, at)
    failed_s = _last(failures, at + hold_s)
    generates: Flags = succeeded_s > failed_s
    return generates & np.isfinite(succeeded_s)


def _last(times: Times, by: Times) -> Times:
    """The latest of `times` up to each of `by`; minus infinity where there is none."""
    padded: Any = np.concatenate(([-np.inf], times))
    last: Times = padded[np.searchsorted(times, by, side="right")]
    return last
