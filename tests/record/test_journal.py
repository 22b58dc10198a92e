from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from tests.record.runs import manifest
from twin.policy.vocabulary import (
    Action,
    ActionResult,
    AttemptEnded,
    Command,
    Incident,
    NodeHands,
    NodeInventory,
    Observation,
    PolicyState,
    Probe,
    ProbeResult,
    RequestId,
    RequestSpec,
    RequestWithdrawn,
    Route,
    TelemetrySample,
)
from twin.record.journal import JournalingPolicy, decode
from twin.record.reader import RunRecord, open_run
from twin.record.writer import Recorder

REQUEST = RequestSpec(7, "llama3.1:8b", 120, True, 1.0, math.inf)
ATTEMPT = AttemptEnded(7, 0, "node-1", "llama3.1:8b", "failed", "reset", 1.0, math.nan, 0)
PROBE = Probe(1, "node-1", "generation", "llama3.1:8b", 5.0)
ACTION = Action(2, "restart", "node-1", "", "3 resets in 4 s", 30.0, -math.inf)
OBSERVATIONS: tuple[Observation, ...] = (
    RequestWithdrawn(8),
    ProbeResult(1, "node-1", "residency", "", True, 0.1, models=("a", "b")),
    TelemetrySample("node-2", {"gpu_temperature_c": 71.5, "power_w": math.nan}),
    ActionResult(2, "node-1", "restart", "done", "pid 5"),
    NodeHands("node-1", ("load", "restart")),
    NodeInventory("node-1", {"m": 5.0, "n": 2.0}, 2, ("m n",)),
)


class Scripted:
    """A policy that answers by a script."""

    def __init__(self) -> None:
        self.waiting = 3
        self.incidents: list[Incident] = []

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        return Route("dispatch", f"node-{attempt}", first_token_deadline_s=4.0)

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        return [(9, Route("shed", reason="full"))] if now == 2.5 else ()

    def observe(self, now: float, observation: Observation) -> None:
        if isinstance(observation, AttemptEnded):
            self.waiting += 1

    def decide(self, now: float) -> Sequence[Command]:
        return [PROBE, ACTION] if now == 2.5 else []

    def next_wakeup(self) -> float:
        return 5.0

    def snapshot(self) -> PolicyState:
        return PolicyState(0.0, {})


def journal(folder: Path | None) -> RunRecord:
    recorder = Recorder(folder)
    policy = JournalingPolicy(Scripted(), recorder)
    assert policy.route(1.0, REQUEST, 0).node == "node-0"
    policy.observe(2.0, ATTEMPT)
    assert (policy.waiting, policy.incidents, policy.next_wakeup()) == (4, [], 5.0)
    policy.released(2.0)
    policy.decide(2.0)
    assert policy.released(2.5) == [(9, Route("shed", reason="full"))]
    assert policy.decide(2.5) == [PROBE, ACTION]
    for observation in OBSERVATIONS:
        policy.observe(3.0, observation)
    return recorder.close(manifest())


def test_each_call_comes_back_with_its_arguments_and_its_answer(tmp_path: Path) -> None:
    journal(tmp_path)
    calls = list(decode(open_run(tmp_path).table("observations")))
    assert [(call.sequence, call.time_s, call.call) for call in calls[:6]] == [
        (0, 1.0, "route"),
        (1, 2.0, "observe"),
        (2, 2.0, "released"),
        (3, 2.0, "decide"),
        (4, 2.5, "released"),
        (5, 2.5, "decide"),
    ]
    assert calls[0].arguments == (REQUEST, 0)
    assert calls[0].answer == Route("dispatch", "node-0", first_token_deadline_s=4.0)
    (attempt,) = calls[1].arguments
    assert math.isnan(attempt.first_token_s)
    attempt.first_token_s = 0.0  # nan is not equal to another nan
    assert attempt == dataclasses.replace(ATTEMPT, first_token_s=0.0)
    assert [call.answer for call in calls[2:6]] == [[], [], [(9, Route("shed", reason="full"))], [PROBE, ACTION]]
    assert [call.arguments[0] for call in calls[6:8]] == list(OBSERVATIONS[:2])
    assert calls[8].arguments[0].values["gpu_temperature_c"] == 71.5
    assert math.isnan(calls[8].arguments[0].values["power_w"])
    assert [call.arguments for call in calls[9:]] == [(each,) for each in OBSERVATIONS[3:]]


def test_a_call_without_arguments_or_answer_takes_no_text() -> None:
    rows = journal(None).table("observations").to_pylist()
    assert [(row["payload"], row["decision"]) for row in rows[2:4]] == [(None, None), (None, None)]


def test_columns_say_what_was_observed_where_and_of_which_request() -> None:
    rows = journal(None).table("observations", ["kind", "node", "request_id"]).to_pylist()
    assert [tuple(row.values()) for row in (*rows[:2], *rows[6:])] == [
        (None, "node-0", 7),
        ("attempt_ended", "node-1", 7),
        ("request_withdrawn", None, 8),
        ("probe_result", "node-1", None),
        ("telemetry_sample", "node-2", None),
        ("action_result", "node-1", None),
        ("node_hands", "node-1", None),
        ("node_inventory", "node-1", None),
    ]


def test_what_is_written_is_strict_json_with_infinities_and_nan_as_text() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    rows = journal(None).table("observations").to_pylist()
    payloads = [json.loads(row["payload"], parse_constant=refuse) for row in rows if row["payload"]]
    decisions = [json.loads(row["decision"], parse_constant=refuse) for row in rows if row["decision"]]
    assert payloads[0]["request"]["deadline_s"] == "Infinity"
    assert payloads[1]["first_token_s"] == "NaN"
    assert decisions[-1][1]["action"]["expected_benefit"] == "-Infinity"
