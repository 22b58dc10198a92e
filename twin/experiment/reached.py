"""Rare things that a soak should have met at least once: each a name, what it means, and how a record tells.

A soak without violations says little if the runs never came near what could go wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from twin.policy.healer import WITHHELD
from twin.record.reader import RunRecord
from twin.record.recovery import equals, numbers


@dataclass(frozen=True, slots=True)
class Rarity:
    """One rare thing; `met` tells whether it is in the record of a run."""

    name: str
    what: str
    met: Callable[[RunRecord], bool]


def _requests(name: str, at_least: float) -> Callable[[RunRecord], bool]:
    return lambda record: bool(np.any(numbers(record.table("requests", [name]), name) >= at_least))


def _text(table: str, column: str, *texts: str) -> Callable[[RunRecord], bool]:
    return lambda record: any(equals(record.table(table, [column]), column, text).any() for text in texts)


def _shed_because(words: str) -> Callable[[RunRecord], bool]:
    """An admitted request was given up for a reason with these words."""

    def met(record: RunRecord) -> bool:
        requests = record.table("requests", ["admitted", "error"])
        reasons = requests.filter(requests["admitted"])["error"].unique().to_pylist()
        return any(words in reason for reason in reasons if reason)

    return met


def _withheld(record: RunRecord) -> bool:
    """A node that still served was not set aside for its repair, as too few others would have been left."""
    return any(WITHHELD in evidence for evidence in record.table("incidents", ["evidence"])["evidence"].to_pylist())


def _retried_twice(record: RunRecord) -> bool:
    return bool(np.any(numbers(record.table("attempts", ["attempt"]), "attempt") >= 1))


def _moved_in_mid_stream(record: RunRecord) -> bool:
    """A failed attempt had its first token, and its request succeeded."""
    attempts = record.table("attempts", ["request_id", "first_token_s"])
    begun = attempts.filter(pc.is_valid(attempts["first_token_s"]))["request_id"]
    requests = record.table("requests", ["request_id", "outcome"])
    return bool((equals(requests, "outcome", "succeeded") & pc.is_in(requests["request_id"], begun).to_numpy()).any())


def _waited(record: RunRecord) -> bool:
    requests = record.table("requests", ["arrival_s", "dispatched_s"])
    return bool(np.any(numbers(requests, "dispatched_s") > numbers(requests, "arrival_s")))


def _shed_after_admission(record: RunRecord) -> bool:
    requests = record.table("requests", ["admitted", "outcome"])
    return bool((equals(requests, "outcome", "failed") & requests["admitted"].to_numpy()).any())


def _two_at_once(record: RunRecord) -> bool:
    """Two faults on different nodes at the same time."""
    faults = record.table("faults", ["node", "injected_s", "ended_s"]).to_pylist()
    return any(
        one["node"] != two["node"] and one["injected_s"] <= two["injected_s"] < (one["ended_s"] or np.inf)
        for one in faults
        for two in faults
        if one is not two
    )


def _two_on_a_node(record: RunRecord) -> bool:
    """Two faults on one node at the same time."""
    faults = record.table("faults", ["node", "injected_s", "ended_s"]).to_pylist()
    return any(
        one["node"] == two["node"] and one["injected_s"] <= two["injected_s"] < (one["ended_s"] or np.inf)
        for place, one in enumerate(faults)
        for two in faults[place + 1 :]
    )


def _all_unwell(record: RunRecord) -> bool:
    """At some sample no node was taken for one that serves."""
    telemetry = record.table("telemetry", ["time_s", "health"])
    if not telemetry.num_rows:
        return False
    times = numbers(telemetry, "time_s")
    serving = equals(telemetry, "health", "serving") | equals(telemetry, "health", "proving")
    known = ~telemetry["health"].is_null().to_numpy()
    return bool(set(times[known].tolist()) - set(times[serving].tolist()))


def _escalated(record: RunRecord) -> bool:
    """An incident that needed a second action."""
    return bool(np.any(numbers(record.table("incidents", ["actions"]), "actions") >= 2))


def _failed_action(record: RunRecord) -> bool:
    return _text("actions", "status", "failed", "timed_out")(record)


RARITIES: tuple[Rarity, ...] = (
    Rarity("request_retried", "a request needed a second attempt", _requests("attempts", 2)),
    Rarity("request_retried_twice", "the second attempt failed, too", _retried_twice),
    Rarity("moved_in_mid_stream", "a stream was begun by one node and ended by another attempt", _moved_in_mid_stream),
    Rarity("waited_at_the_gateway", "a request waited for a free node", _waited),
    Rarity("turned_away", "a request was not admitted", _text("requests", "outcome", "rejected")),
    Rarity("given_up", "an admitted request was given up", _shed_after_admission),
    Rarity("attempts_used_up", "a request failed in all the attempts it may have", _shed_because("attempts failed")),
    Rarity("budget_spent", "a retry was refused: the retry budget was spent", _shed_because("budget is spent")),
    Rarity("deadline_missed", "a request met its own deadline", _text("requests", "outcome", "deadline")),
    Rarity("first_token_timeout", "an attempt stayed silent", _text("attempts", "error", "first_token_timeout")),
    Rarity("stall_timeout", "a stream fell silent", _text("attempts", "error", "stall_timeout")),
    Rarity("refused", "nobody listened", _text("attempts", "error", "refused")),
    Rarity("connections_aborted", "the policy closed its connections", _text("actions", "kind", "abort")),
    Rarity("restarted", "the policy restarted a node", _text("actions", "kind", "restart")),
    Rarity("drained", "the policy drained a node", _text("actions", "kind", "drain")),
    Rarity("withheld_for_the_floor", "a repair waited until enough replicas served elsewhere", _withheld),
    Rarity("replica_loaded", "a replica was loaded elsewhere", _text("actions", "kind", "load")),
    Rarity("action_failed", "an action failed or gave no result", _failed_action),
    Rarity("escalated", "an incident needed a second action", _escalated),
    Rarity("two_nodes_at_once", "faults on two nodes at the same time", _two_at_once),
    Rarity("two_faults_on_a_node", "two faults on one node at the same time", _two_on_a_node),
    Rarity("rack_failed", "a rack or a zone lost its power", _text("faults", "kind", "rack_failure")),
    Rarity("failed_after_signs", "a fault came that had shown beforehand", _text("signs", "outcome", "failed")),
    Rarity("averted", "a restart came between the signs and the failure", _text("signs", "outcome", "averted")),
    Rarity("came_to_nothing", "signs of a fault that never came", _text("signs", "outcome", "nothing")),
    Rarity("nobody_serves", "the policy took no node for one that serves", _all_unwell),
    Rarity("aborted", "abort_when broke the run off", lambda record: bool(record.manifest.get("aborted"))),
)


def reached(record: RunRecord) -> list[str]:
    """The names of what was met in a run."""
    return [rarity.name for rarity in RARITIES if rarity.met(record)]
