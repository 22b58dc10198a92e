"""The journal: every call of a policy with its arguments and its answer, so that the run can be replayed.

In the table `observations` a call is one row. `payload` is a JSON object of the call's arguments without the time, each
dataclass an object of all its fields; `decision` is the answer in the same form. Both are null where there is nothing
to say: a `released` or `decide` with an empty answer is still a row, since the call may have changed the policy.
Numbers that JSON cannot say are the texts "inf", "-inf" and "nan".
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, TypeAlias, cast, get_type_hints

import pyarrow as pa

from twin.policy.vocabulary import (
    Action,
    ActionResult,
    AttemptEnded,
    Command,
    Incident,
    Observation,
    Policy,
    PolicyState,
    Probe,
    ProbeResult,
    RequestId,
    RequestSpec,
    RequestWithdrawn,
    Route,
    TelemetrySample,
)
from twin.record.writer import Recorder, Row

Call: TypeAlias = Literal["route", "released", "observe", "decide"]
Answer: TypeAlias = Route | Sequence[tuple[RequestId, Route]] | Sequence[Command] | None

OBSERVATION_KINDS: dict[str, type[Any]] = {
    "attempt_ended": AttemptEnded,
    "request_withdrawn": RequestWithdrawn,
    "probe_result": ProbeResult,
    "telemetry_sample": TelemetrySample,
    "action_result": ActionResult,
}
COMMAND_KINDS: dict[str, type[Any]] = {"probe": Probe, "action": Action}
_KIND_OF = {kind: name for name, kind in (OBSERVATION_KINDS | COMMAND_KINDS).items()}
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=lambda number: number.item())


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of the journal. `arguments` are those after the time; `answer` is what the policy said."""

    sequence: int
    time_s: float
    call: Call
    arguments: tuple[Any, ...]
    answer: Answer


class JournalingPolicy:
    """A policy that does what another one does, and records each call of it in the recorder's table `observations`.

    A call costs one tuple of references; they are written out when the table is flushed. So what is handed over or
    answered must not be altered afterwards.
    """

    def __init__(self, policy: Policy, recorder: Recorder) -> None:
        recorder.observations.convert_with(self._rows)
        self.policy = policy
        self._add = recorder.observations.add
        self._sequence = 0

    @property
    def waiting(self) -> int:
        """How many requests the policy keeps."""
        return self.policy.waiting

    @property
    def incidents(self) -> Sequence[Incident]:
        """What the policy took for failures so far."""
        return self.policy.incidents

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        """The policy's route."""
        answer = self.policy.route(now, request, attempt)
        self._add(("route", now, request, attempt, answer))
        return answer

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        """What the policy releases."""
        answer = self.policy.released(now)
        self._add(("released", now, None, None, answer))
        return answer

    def observe(self, now: float, observation: Observation) -> None:
        """Let the policy take it in."""
        self.policy.observe(now, observation)
        self._add(("observe", now, observation, None, None))

    def decide(self, now: float) -> Sequence[Command]:
        """The policy's commands."""
        answer = self.policy.decide(now)
        self._add(("decide", now, None, None, answer))
        return answer

    def next_wakeup(self) -> float:
        """When the policy wants to be called next. Not recorded: it changes nothing."""
        return self.policy.next_wakeup()

    def snapshot(self) -> PolicyState:
        """What must outlive the policy. Not recorded: it changes nothing."""
        return self.policy.snapshot()

    def _rows(self, added: Sequence[Row]) -> list[Row]:
        rows = []
        for call, time_s, argument, attempt, answer in added:
            kind = node = request_id = payload = None
            if call == "route":
                node, request_id = answer.node, argument.request_id
                payload = _encoder.encode({"request": _plain(argument), "attempt": attempt})
            elif call == "observe":
                kind = _KIND_OF[type(argument)]
                node = getattr(argument, "node", None)
                request_id = getattr(argument, "request_id", None)
                payload = _encoder.encode(_plain(argument))
            rows.append((self._sequence, time_s, call, kind, node, request_id, payload, encode_answer(answer)))
            self._sequence += 1
        return rows


def encode_answer(answer: Answer) -> str | None:
    """An answer as the journal writes it: null where it is empty. The same answer always gives the same text."""
    if not answer:
        return None
    if isinstance(answer, Route):
        return _encoder.encode(_plain(answer))
    said: list[Any] = []
    for each in answer:
        if isinstance(each, tuple):
            said.append([each[0], _plain(each[1])])
        else:
            said.append({_KIND_OF[type(each)]: _plain(each)})
    return _encoder.encode(said)


def decode(observations: pa.Table) -> Iterator[RecordedCall]:
    """The calls of a table `observations`, in order, with arguments and answers as the policy's own types."""
    for batch in observations.to_batches(max_chunksize=8192):
        for row in batch.to_pylist():
            payload = json.loads(row["payload"]) if row["payload"] is not None else None
            answer = json.loads(row["decision"]) if row["decision"] is not None else None
            yield RecordedCall(
                row["sequence"],
                row["time_s"],
                row["call"],
                _arguments(row["call"], row["kind"], payload),
                _answer(row["call"], answer),
            )


def _arguments(call: str, kind: str | None, payload: Any) -> tuple[Any, ...]:
    if call == "route":
        return _made(RequestSpec, payload["request"]), payload["attempt"]
    if call == "observe":
        assert kind is not None
        return (_made(OBSERVATION_KINDS[kind], payload),)
    return ()


def _answer(call: str, answer: Any) -> Answer:
    if call == "route":
        return cast(Route, _made(Route, answer))
    if call == "observe":
        return None
    if call == "released":
        return [(request_id, _made(Route, route)) for request_id, route in answer or ()]
    return [_made(COMMAND_KINDS[kind], said) for each in answer or () for kind, said in each.items()]


def _plain(instance: Any) -> dict[str, Any]:
    """A dataclass as an object that JSON can say."""
    names, values_of, floats, mappings = _SHAPES[type(instance)]
    plain = dict(zip(names, values_of(instance), strict=True))
    for name in floats:
        value = plain[name]
        if not math.isfinite(value):
            plain[name] = str(float(value))
    for name in mappings:
        plain[name] = {key: value if math.isfinite(value) else str(float(value)) for key, value in plain[name].items()}
    return plain


def _shape(kind: type[Any]) -> tuple[list[str], Callable[[Any], tuple[Any, ...]], list[str], list[str]]:
    """Of a dataclass: its fields, what reads them all, the fields of floats, and the fields of floats by name."""
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    read = attrgetter(*names)
    values_of = read if len(names) > 1 else lambda instance: (read(instance),)
    return (
        names,
        values_of,
        [name for name in names if hints[name] is float],
        [name for name in names if hints[name] == dict[str, float]],
    )


_SHAPES = {kind: _shape(kind) for kind in (RequestSpec, Route, *_KIND_OF)}


def _made(kind: type[Any], plain: dict[str, Any]) -> Any:
    """The dataclass that `_plain` turned into an object."""
    names, _, floats, mappings = _SHAPES[kind]
    values = dict(plain)
    for name in floats:
        values[name] = float(values[name])
    for name in mappings:
        values[name] = {key: float(value) for key, value in values[name].items()}
    for name in names:
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    return kind(**values)
