"""Why a request went where it went: the policy's answers from the journal, and what was known of the nodes then."""

from __future__ import annotations

import json
from typing import Any

from twin.record.query import Query, Row


def route_calls(ask: Query, request_id: int) -> list[Row]:
    """Every decision about one request: {at, attempt, node, said}; none where the run has no journal.

    `said` is the answer in words, with the limits that were set and the reason, where the policy gave one.
    """
    calls = ask.rows(
        "SELECT time_s AS at, payload, decision FROM observations WHERE request_id = $request_id AND call = 'route' "
        "ORDER BY sequence",
        request_id=request_id,
    )
    found = []
    for call in calls:
        attempt = int(json.loads(call["payload"]).get("attempt", 0)) if call["payload"] else 0
        answer: dict[str, Any] = json.loads(call["decision"]) if call["decision"] else {}
        found.append({"at": call["at"], "attempt": attempt, "node": answer.get("node", ""), "said": _said(answer)})
    return found


def nodes_at(ask: Query, time_s: float) -> list[Row]:
    """Each node as the last sample at or before that time saw it: {node, health, in flight, models, sampled_s}."""
    return ask.rows(
        'SELECT node, arg_max(CAST(health AS VARCHAR), time_s) AS health, arg_max(in_flight, time_s) AS "in flight", '
        'arg_max(resident_models, time_s) AS "models loaded", max(time_s) AS "sampled at (s)" FROM telemetry '
        "WHERE time_s <= $time_s AND time_s > $time_s - 120 GROUP BY node ORDER BY length(node), node",
        time_s=time_s,
    )


def _said(answer: dict[str, Any]) -> str:
    kind = answer.get("kind")
    reason = f" ({answer['reason']})" if answer.get("reason") else ""
    if kind == "dispatch":
        loads = ", which must load the model first" if answer.get("loads") else ""
        first = _limit("its first token within", "its first token", answer["first_token_deadline_s"])
        silence = _limit("no silence longer than", "its silence", answer["stall_timeout_s"])
        return f"sent to {answer['node']}{loads}; {first}, {silence}{reason}"
    if kind == "wait":
        return f"kept waiting at the gateway{reason}"
    if kind == "shed":
        return f"turned away, to come again after {float(answer.get('retry_after_s') or 0.0):g} s{reason}"
    return "no answer"


def _limit(what: str, short: str, value: Any) -> str:
    """A limit in words; one that is never reached says so."""
    return f"no limit on {short}" if value in ("Infinity", None) else f"{what} {float(value):g} s"
