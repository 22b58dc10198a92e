"""The names of the figures, with unit and meaning: what `expect` may limit and `catalogue metrics` prints."""

from __future__ import annotations

from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["lower", "higher"]

FIGURES: dict[str, tuple[str, str]] = {
    "requests_offered": ("requests", "arrived in the measured time (after the warm-up)"),
    "requests_admitted": ("requests", "of those, accepted: dispatched or queued, not turned away"),
    "requests_rejected": ("requests", "of those offered, turned away at once (503 and Retry-After)"),
    "requests_succeeded": ("requests", "admitted, and ended with a terminal record within their deadline, once"),
    "requests_lost": ("requests", "admitted, and neither succeeded nor cancelled by their client"),
    "answers_wrong": (
        "requests",
        "of those succeeded, answered with gibberish or to a prompt whose front was cut off; null in the live world",
    ),
    "requests_cancelled": ("requests", "admitted, and given up by their client: neither succeeded nor lost"),
    "success_ratio": ("", "succeeded / (admitted - cancelled)"),
    "ttd_s": ("s", "time to detection: first incident opened on the faulted node - injection; mean over the faults"),
    "ttm_s": (
        "s",
        "time to mitigation: end of the last attempt that failed because of the fault - injection; mean over the faults",
    ),
    "ttr_s": (
        "s",
        "time to recovery: steady state regained and held, with every faulted node generating again - injection",
    ),
    "ttft_s": ("s", "arrival to first token, of the streams that succeeded (who does not stream sees no first token)"),
    "e2e_s": ("s", "arrival to end, of the requests that succeeded"),
    "queue_wait_s": ("s", "arrival to a sequence slot: the wait at the gateway and at the node"),
    "tokens_generated": ("tokens", "received by clients"),
    "attempts_per_request": ("", "attempts at nodes / requests admitted"),
    "actions": ("actions", "by kind"),
    "incidents": ("incidents", "opened by the policy"),
    "incidents_healed": ("incidents", "verified, held, and earlier than if nothing had been done"),
    "false_actions": (
        "actions",
        "disruptive actions on a node that no fault held, but at most one of the network, which no restart mends",
    ),
    "faults_foretold": (
        "faults",
        "of those that showed beforehand, warned of 30 s or more before they came or were to come; null where none showed",
    ),
    "false_warnings": (
        "warnings",
        "of a node where nothing was wrong, and nothing failed or began to show within the horizon",
    ),
    "simulated_s": ("s", "length of the run on its own clock"),
    "events": ("events", "of the simulator; null in the live world"),
    "events_per_request": ("", "events / requests offered in the whole run"),
    "wall_s": ("s", "time that the run took on the wall clock"),
}

SUMMARIES = ("ttft_s", "e2e_s", "queue_wait_s")
"""Figures that are an object of mean, p50, p95 and p99."""

SUMMARY_KEYS = ("mean", "p50", "p95", "p99")

EXPECTABLE: frozenset[str] = frozenset(
    {name for name in FIGURES if name not in (*SUMMARIES, "actions")}
    | {f"{name}.{key}" for name in SUMMARIES for key in SUMMARY_KEYS}
)
"""Figures that are one number, and so may have a limit."""

BETTER: dict[str, Direction] = {
    "requests_lost": "lower",
    "requests_rejected": "lower",
    "success_ratio": "higher",
    "ttd_s": "lower",
    "ttm_s": "lower",
    "ttr_s": "lower",
    **{f"{name}.{key}": "lower" for name in SUMMARIES for key in SUMMARY_KEYS},
    "attempts_per_request": "lower",
    "incidents_healed": "higher",
    "false_actions": "lower",
    "faults_foretold": "higher",
    "false_warnings": "lower",
}
"""Figures of which it is clear which way is better: what a comparison compares."""

TROUBLES: dict[str, str] = {
    "lost": "lost",
    "rejected": "turned away",
    "cancelled": "cancelled by their client",
    "saved": "saved by another attempt",
}
"""What can become of a request that does not just succeed, in words; the keys are those of a run's `story`."""
