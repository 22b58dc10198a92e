"""The tables of a run folder. Both worlds write them; pandas, DuckDB or anything that reads Parquet opens them.

Times are seconds on the run's clock (0 = start of the run); a time that did not come is null. A run folder is

    manifest.json          scenario, digest, seed, version, world, machine, wall time
    <table>.parquet        one for each table below
"""

from __future__ import annotations

import pyarrow as pa

from twin.record.telemetry_columns import TELEMETRY_NAMES

RECORD_VERSION = 4
"""Version of this schema, in every manifest; a reader refuses any other."""

TEXT = pa.dictionary(pa.int32(), pa.string())
"""Text of few distinct values."""

REQUESTS = pa.schema(
    [
        ("request_id", pa.int64()),
        ("model", TEXT),
        ("arrival_s", pa.float64()),
        ("deadline_s", pa.float64()),  # the time by which it must have ended
        ("stream", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),  # as wanted by the workload; 0: an embedding
        ("admitted", pa.bool_()),
        ("outcome", TEXT),  # succeeded | failed | deadline | rejected | cancelled
        ("error", TEXT),  # of the last attempt, or why it was shed; empty when succeeded
        ("node", TEXT),  # of the last attempt
        ("attempts", pa.int16()),
        ("dispatched_s", pa.float64()),  # of the first attempt: arrival to this is the wait at the gateway
        ("first_token_s", pa.float64()),  # as the client saw it
        ("end_s", pa.float64()),
        ("tokens_received", pa.int32()),
        ("load_duration_s", pa.float64()),  # Ollama's timings of the last attempt
        ("prompt_eval_duration_s", pa.float64()),
        ("eval_duration_s", pa.float64()),
        ("total_duration_s", pa.float64()),
        ("prompt_eval_count", pa.int32()),  # as the node reported it; 0 where it reported none
        ("answer", TEXT),  # in truth: right | gibberish | truncated_prompt | runaway; null where the world cannot know
        ("gateway", TEXT),  # where it was offered
        ("session", pa.int64()),  # of which conversation it is a turn; 0: none
        ("retry_of", pa.int64()),  # the client's first try, where this is a further one
    ]
)
"""One row for each request that was offered, written when it ended."""

ATTEMPTS = pa.schema(
    [
        ("request_id", pa.int64()),
        ("attempt", pa.int16()),
        ("node", TEXT),
        ("started_s", pa.float64()),
        ("first_token_s", pa.float64()),
        ("end_s", pa.float64()),
        ("error", TEXT),
        ("tokens", pa.int32()),
    ]
)
"""One row for each attempt that failed. (The attempt that ended a request well is the request's own row.)"""

TELEMETRY = pa.schema(
    [
        ("time_s", pa.float64()),
        ("node", TEXT),
        ("in_flight", pa.int32()),  # attempts at the node, counted at the gateway
        ("waiting", pa.int32()),  # requests that the policy keeps, of all nodes
        ("resident_models", pa.int16()),
        ("health", TEXT),  # what the policy takes the node for
        *((name, pa.float64()) for name in TELEMETRY_NAMES),  # what an agent reads there; null where none could
    ]
)
"""One row for each node and sampling period."""

OBSERVATIONS = pa.schema(
    [
        ("sequence", pa.int64()),
        ("time_s", pa.float64()),
        ("call", TEXT),  # route | released | observe | decide
        ("kind", TEXT),  # what was observed
        ("node", TEXT),
        ("request_id", pa.int64()),
        ("payload", pa.string()),  # JSON: the arguments of the call
        ("decision", pa.string()),  # JSON: what the policy answered
        ("gateway", TEXT),  # whose policy it is
    ]
)
"""Every call of the policy with its arguments and its answer, in order: what `replay` feeds to today's policy."""

ACTIONS = pa.schema(
    [
        ("action_id", pa.int64()),
        ("time_s", pa.float64()),
        ("kind", TEXT),
        ("node", TEXT),
        ("model", TEXT),
        ("reason", pa.string()),
        ("expected_benefit", pa.float64()),
        ("deadline_s", pa.float64()),
        ("status", TEXT),  # done | failed | timed_out | unknown | advised | no_hand | no_lease
        ("result_s", pa.float64()),
        ("detail", pa.string()),
        ("gateway", TEXT),  # that ordered it; action_id is its own count
    ]
)

FAULTS = pa.schema(
    [
        ("fault_id", pa.int32()),  # its place in the scenario's list; several rows where it has several targets
        ("kind", TEXT),
        ("node", TEXT),
        ("injected_s", pa.float64()),  # when it was really done
        ("planned_end_s", pa.float64()),  # when the outside world would end it; null: never
        ("ended_s", pa.float64()),  # when it really ended (by itself, or because an action removed it)
        ("ended_by", TEXT),  # schedule | action | teardown
        ("detail", pa.string()),  # what was really done
        ("struck", TEXT),  # the node, or the rack, zone or gateway whose uplink is broken
    ]
)

SIGNS = pa.schema(
    [
        ("fault_id", pa.int32()),  # as in `faults`
        ("kind", TEXT),
        ("node", TEXT),
        ("began_s", pa.float64()),
        ("due_s", pa.float64()),  # when the failure was to come; null: never, it was a look-alike
        ("ended_s", pa.float64()),  # when they passed into the failure, were averted, or came to nothing
        ("outcome", TEXT),  # failed | averted | nothing | teardown
    ]
)
"""One row for each time that a fault showed beforehand. A look-alike has a row here and none in `faults`."""

INCIDENTS = pa.schema(
    [
        ("incident_id", pa.int32()),
        ("node", TEXT),
        ("diagnosis", TEXT),
        ("evidence", pa.string()),
        ("opened_s", pa.float64()),
        ("state", TEXT),
        ("verified_s", pa.float64()),
        ("closed_s", pa.float64()),
        ("actions", pa.int16()),
        ("gateway", TEXT),  # whose policy opened it; incident_id is its own count
    ]
)

FORECASTS = pa.schema(
    [
        ("time_s", pa.float64()),
        ("node", TEXT),
        ("failure", TEXT),  # a class of `twin.policy.forecast`
        ("probability", pa.float64()),  # that it fails so within the horizon
        ("horizon_s", pa.float64()),
        ("lead_s", pa.float64()),  # expected time until then, if it comes; infinite where the warning ended
        ("reasons", pa.string()),  # in words, the weightiest first, with "; " between
        ("gateway", TEXT),  # whose policy said so
    ]
)
"""Warnings of the predictor: a row where the probability of a node's likeliest failure reached the threshold of
confidence, where its class changed, and where it fell to half of the threshold (the warning has ended)."""

PROBES = pa.schema(
    [
        ("time_s", pa.float64()),  # when the answer came, or its time was over
        ("node", TEXT),
        ("kind", TEXT),
        ("model", TEXT),
        ("ok", pa.bool_()),
        ("latency_s", pa.float64()),
        ("error", TEXT),
        ("gateway", TEXT),  # that asked
    ]
)
"""One row for each answered probe of kind generation or load_path, and for each probe that failed. (Liveness and
residency probes that passed are only counted, in the manifest.)"""

TABLES: dict[str, pa.Schema] = {
    "requests": REQUESTS,
    "attempts": ATTEMPTS,
    "telemetry": TELEMETRY,
    "observations": OBSERVATIONS,
    "actions": ACTIONS,
    "faults": FAULTS,
    "signs": SIGNS,
    "incidents": INCIDENTS,
    "forecasts": FORECASTS,
    "probes": PROBES,
}
