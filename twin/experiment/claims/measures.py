"""What is measured of each promise: rows with a value, n, an interval, and a verdict where there is a limit.

A limit is kept only where the interval's end keeps it, too: a value beyond it fails, a value within whose interval reaches
beyond is unknown (more runs would tell). Times are judged by their 95th percentile over all faults (distribution-free
interval), one that was not seen to its end counting as endless; proportions by Wilson's interval; means by Student's.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from twin.errors import OperatorError
from twin.experiment.claims import promises as table
from twin.experiment.points import values_of
from twin.experiment.statistics import interval, proportion_interval, quantile
from twin.experiment.study import Line
from twin.experiment.verdict import Verdict

Row: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["promised", "own", "shown"]
Lines: TypeAlias = Mapping[tuple[str, str], Sequence[Line]]
"""Lines by (part, policy)."""

POLICIES = ("default", "reactive", "none", "none, same router")
TAIL = 0.95
ENDLESS = "∞: so many were not seen to their end"


def row(
    what: str,
    policy: str,
    kind: Kind,
    value: float | None,
    ends: Sequence[float] | None,
    n: int,
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
) -> Row:
    """One row; `most` and `least` are the limit."""
    finite = None if value is None or not math.isfinite(value) else value
    shown = None if ends is None else [end if math.isfinite(end) else None for end in ends]
    limit = {key: it for key, it in (("max", most), ("min", least)) if it is not None}
    return {
        "what": what,
        "policy": policy,
        "kind": kind,
        "value": finite,
        "interval": shown,
        "n": n,
        "unit": unit,
        "limit": limit or None,
        "verdict": _verdict(value, ends, n, most, least) if limit else None,
        "note": ENDLESS if value is not None and not math.isfinite(value) else "",
    }


def _verdict(
    value: float | None, ends: Sequence[float] | None, n: int, most: float | None, least: float | None
) -> Verdict:
    if value is None or not n:
        return "unknown"
    if (most is not None and value > most) or (least is not None and value < least):
        return "fail"
    if ends is None or (most is not None and ends[1] > most) or (least is not None and ends[0] < least):
        return "unknown"
    return "pass"


def _judged(policy: str, kind: Kind) -> Kind:
    """The baselines are shown beside, and keep no promise."""
    return kind if policy == "default" else "shown"


def _times(lines: Sequence[Line], name: str) -> list[float]:
    """A time for each fault: endless where it was not seen to its end; 0 where nothing failed that had to be mitigated."""
    found = []
    for line in lines:
        for recovery in line["recoveries"]:
            it = recovery[name]
            if it["value_s"] is not None:
                found.append(it["value_s"])
            elif it["censored"]:
                found.append(math.inf)
            elif name == "ttm_s":
                found.append(0.0)
    return found


def _tail_row(what: str, policy: str, kind: Kind, times: Sequence[float], most: float) -> Row:
    limit = most if policy == "default" else None
    if not times:
        return row(what, policy, kind, None, None, 0, "s", most=limit)
    seen = sorted(times)
    value, ends = quantile([min(it, 1e9) for it in seen], TAIL)
    endless = [math.inf if end >= 1e9 else end for end in ends] if ends is not None else None
    value = seen[-1] if math.isinf(seen[-1]) and value > 1e6 else value
    return row(what, policy, kind, value, endless, len(times), "s", most=limit)


def of_promise(number: int, lines: Lines, reload_s: float, evaluation: Path | None) -> list[Row]:
    """The rows of a promise from its parts' lines."""
    makers: dict[int, Callable[[], list[Row]]] = {
        1: lambda: _admitted_succeed(lines),
        2: lambda: _single(lines, reload_s),
        3: lambda: _cascades(lines),
        4: lambda: _prediction(evaluation),
        5: lambda: _healing(lines),
        6: lambda: _overhead(lines),
        7: lambda: _scaling(lines),
    }
    return makers[number]()


def _of(lines: Lines, part: str) -> list[tuple[str, Sequence[Line]]]:
    return [(policy, lines[part, policy]) for policy in POLICIES if lines.get((part, policy))]


def _admitted_succeed(lines: Lines) -> list[Row]:
    rows = []
    words = {"half": "half of 12 nodes fail", "beyond": "10 of 12 are cut off, capacity is exceeded"}
    for part, said in words.items():
        for policy, of_part in _of(lines, part):
            lost = sum(line["figures"]["requests_lost"] for line in of_part)
            admitted = sum(line["figures"]["requests_admitted"] for line in of_part)
            most = 0.0 if policy == "default" else None
            made = row(
                f"{said}: share of admitted requests lost",
                policy,
                _judged(policy, "promised"),
                lost / admitted if admitted else None,
                proportion_interval(lost, admitted) if admitted else None,
                admitted,
                "",
                most=most,
            )
            if most is not None and admitted:
                made["verdict"] = "fail" if lost else "pass"  # no number of runs can show that it never happens
            rows.append(made)
        shed = [float(line["figures"]["requests_rejected"]) for line in lines.get((part, "default"), ())]
        if shed and part == "beyond":
            mean, ends = interval(shed)
            rows.append(
                row(f"{said}: turned away in a run", "default", "own", mean, ends, len(shed), "requests", least=1)
            )
    return rows


def _single(lines: Lines, reload_s: float) -> list[Row]:
    rows = []
    for part, said in (("crash", "crash"), ("hang", "hang"), ("grey", "3 s longer way")):
        for policy, of_part in _of(lines, part):
            if part != "grey":  # a network is mended by others: what counts there is that traffic does not suffer
                times = _times(of_part, "ttr_s")
                rows.append(
                    _tail_row(f"{said}: p95 of TTR", policy, _judged(policy, "promised"), times, table.TTR_SINGLE_S)
                )
                if policy == "default":
                    most = table.OWN_TTR_SINGLE_S + reload_s
                    rows.append(_tail_row(f"{said}: p95 of TTR, 10 s plus a reload", policy, "own", times, most))
            ttm = _times(of_part, "ttm_s")
            rows.append(_tail_row(f"{said}: p95 of TTM", policy, _judged(policy, "own"), ttm, table.OWN_TTM_S[part]))
    return rows


def _cascades(lines: Lines) -> list[Row]:
    rows = []
    for policy, of_part in _of(lines, "cascade"):
        ends = []
        for line in of_part:
            found = line["recoveries"]
            if found:
                first_s = min(it["injected_s"] for it in found)
                whole = [
                    math.inf if it["ttr_s"]["value_s"] is None else it["injected_s"] + it["ttr_s"]["value_s"] - first_s
                    for it in found
                ]
                ends.append(max(whole))
        what = "first failure to the last node's recovery, p95 over cascades"
        rows.append(_tail_row(what, policy, _judged(policy, "promised"), ends, table.TTR_CASCADE_S))
        if policy == "default":
            rows.append(_tail_row(f"{what}, own aim", policy, "own", ends, table.OWN_TTR_CASCADE_S))
    return rows


def _prediction(evaluation: Path | None) -> list[Row]:
    """From what `evaluate --json` printed: `methods`, each with `method`, `failures`, `recall`, `recall_ci95`,
    `false_a_node_day`, `false_a_node_day_ci95`. The method `predictor` is what the promise is judged by."""
    what = "foreseeable failures foretold in time for an action, at the allowed false alarms"
    if evaluation is None:
        missing = row(what, "default", "promised", None, None, 0, "", least=table.RECALL)
        return [missing | {"note": "no evaluation file; make one: ollamamax evaluate --json > evaluation.json"}]
    try:
        document = json.loads(evaluation.read_text(encoding="utf-8"))
        rows = []
        for it in document["methods"]:
            ours = it["method"] == "predictor"
            policy = "default" if ours else str(it["method"])
            failures, days = int(it["failures"]), round(it["node_days"])
            least = table.RECALL if ours else None
            kind: Kind = "promised" if ours else "shown"
            recall, ends = _with_ends(it["recall"], it["recall_ci95"], 1.0)
            rows.append(row(what, policy, kind, recall, ends, failures, "", least=least))
            most = table.FALSE_A_NODE_DAY if ours else None
            false_rate, ends = _with_ends(it["false_a_node_day"], it["false_a_node_day_ci95"], math.inf)
            said = "false alarms a node-day (n: node-days)"
            rows.append(row(said, policy, kind, false_rate, ends, days, "", most=most))
    except OSError as error:
        raise OperatorError(
            f"--evaluation {evaluation}: {error.strerror}; `ollamamax evaluate --json` writes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(
            f"--evaluation {evaluation}: not what `ollamamax evaluate --json` of this version prints; make it anew"
        ) from error
    if not any(it["policy"] == "default" for it in rows):
        raise OperatorError(f"--evaluation {evaluation}: it has no method `predictor`; make it anew")
    return rows


def _with_ends(value: Any, ends: Any, most: float) -> tuple[float | None, list[float] | None]:
    """A measured value with its interval, between 0 and `most`. Raises ValueError where it is none."""
    if value is None:
        return None, None
    low, high = ends
    if not (0.0 <= low <= high <= most and 0.0 <= value <= most):
        raise ValueError(f"{value} from {low} to {high}")
    return float(value), [float(low), float(high)]


def _healing(lines: Lines) -> list[Row]:
    rows = []
    for policy, of_part in _of(lines, "hours"):
        judged = sum(line["healing"]["judged"] for line in of_part)
        healed = sum(line["healing"]["healed"] for line in of_part)
        ends = proportion_interval(healed, judged) if judged else None
        value = healed / judged if judged else None
        what = "incidents healed, verified, not relapsed within 30 min"
        least = table.HEALED_SHARE if policy == "default" else None
        rows.append(row(what, policy, _judged(policy, "promised"), value, ends, judged, "", least=least))
        if policy == "default":
            rows.append(row(f"{what}, own aim", policy, "own", value, ends, judged, "", least=table.OWN_HEALED_SHARE))
        times = _times(of_part, "ttr_s")
        soon = sum(it <= table.SOON_S for it in times)
        if times:
            share = proportion_interval(soon, len(times))
            rows.append(
                row("faults recovered from within 60 s", policy, "shown", soon / len(times), share, len(times), "")
            )
    return rows


def _relative(before: Sequence[Line], after: Sequence[Line], name: str) -> tuple[float, list[float] | None, int] | None:
    """Mean relative change on the same seeds."""
    of_seed = {line["seed"]: line for line in before}
    pairs = [
        (values_of([of_seed[line["seed"]]], name)[0], values_of([line], name)[0])
        for line in after
        if line["seed"] in of_seed
    ]
    ratios = [two / one - 1.0 for one, two in pairs if one and two is not None]
    if not ratios:
        return None
    mean, ends = interval(ratios)
    return mean, ends, len(ratios)


def _overhead(lines: Lines) -> list[Row]:
    """Tolerance on beside off on the same trace. Off is a plain proxy with the same router: a better one hides no cost."""
    rows = []
    words = {"e2e_s.mean": "mean latency", "e2e_s.p95": "p95 of latency", "ttft_s.mean": "mean time to first token"}
    for off, kind in (("none, same router", "promised"), ("none", "shown")):
        plain = lines.get(("quiet", off), ())
        for policy in ("default", "reactive"):
            for name, said in words.items():
                found = _relative(plain, lines.get(("quiet", policy), ()), name)
                if found is None and kind == "shown":
                    continue
                value, ends, n = found if found is not None else (None, None, 0)
                this: Kind = (
                    "own"
                    if kind == "promised" and name != "e2e_s.mean"
                    else "promised"
                    if kind == "promised"
                    else "shown"
                )
                this = _judged(policy, this)
                most = table.OVERHEAD_SHARE if this != "shown" else None
                what = f"{said}, more than with the preset {off} on the same trace"
                rows.append(row(what, policy, this, value, ends, n, "", most=most))
    for policy, of_part in _of(lines, "quiet"):
        costs = [_cost(line)["per_request_ms"] for line in of_part if line["policy_cost"]]
        if costs:
            mean, ends = interval(costs)
            rows.append(row("policy's processor time for a request", policy, "shown", mean, ends, len(costs), "ms"))
    return rows


def _cost(line: Line) -> dict[str, float]:
    cost = line["policy_cost"]
    requests = max(1, line["figures"]["requests_offered"])
    return {
        "per_request_ms": (cost["route_s"] + cost["care_s"]) / requests * 1000.0,
        "per_probe_ms": cost["care_s"] / max(1, cost["probes"]) * 1000.0,
    }


def _scaling(lines: Lines) -> list[Row]:
    """Served share of the offered load per node, and latency, beside those of the smallest cluster."""
    rows = []
    counts = [nodes for nodes in table.NODE_COUNTS if lines.get((f"scale-{nodes}", "default"))]
    if not counts:
        return [row("throughput per node", "default", "promised", None, None, 0, "", least=table.LINEAR_SHARE)]
    for nodes in counts:
        for policy, of_part in _of(lines, f"scale-{nodes}"):
            served = [
                line["figures"]["requests_succeeded"] / line["figures"]["requests_offered"]
                for line in of_part
                if line["figures"]["requests_offered"]
            ]
            if not served:
                continue
            mean, ends = interval(served)
            least = table.LINEAR_SHARE if policy == "default" else None
            kind = _judged(policy, "promised")
            what = f"{nodes} nodes at the same load each: share of the offered load served"
            rows.append(row(what, policy, kind, mean, ends, len(served), "", least=least))
            latencies = [it for it in values_of(of_part, "e2e_s.p95") if it is not None]
            if latencies:
                mean, ends = interval(latencies)
                rows.append(
                    row(
                        f"{nodes} nodes: p95 of latency",
                        policy,
                        "shown",
                        mean,
                        ends,
                        len(latencies),
                        "s",
                    )
                )
            costs = [
                _cost(line)["per_probe_ms"] for line in of_part if line["policy_cost"] and line["policy_cost"]["probes"]
            ]
            if costs and policy == "default":
                mean, ends = statistics.fmean(costs), interval(costs)[1]
                what = f"{nodes} nodes: policy's processor time for a health check, its results and decisions included"
                rows.append(row(what, policy, "promised", mean, ends, len(costs), "ms", most=table.HEALTH_CHECK_MS))
    return rows
