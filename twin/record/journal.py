"""The journal: every call of a policy with its arguments and its answer, so that the run can be replayed.

In the table `observations` a call is one row. `payload` is a JSON object of the call's arguments without the time, each
dataclass an object of all its fields; `decision` is the answer in the same form. Both are null where there is nothing
to say: a `released` or `decide` with an empty answer is still a row, since the call may have changed the policy.
Numbers that JSON cannot say are the texts "Infinity", "-Infinity" and "NaN".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_origin, get_type_hints

import pyarrow as pa
from pydantic_core import from_json, to_json

from twin.policy.vocabulary import (
    Action,
    ActionResult,
    Advice,
    AttemptEnded,
    Command,
    NodeHands,
    NodeInventory,
    Observation,
    OperatorOrder,
    Policy,
    PolicyState,
    Probe,
    ProbeResult,
    Question,
    RequestId,
    RequestSpec,
    RequestWithdrawn,
    Route,
    SettingsChanged,
    TelemetrySample,
)
from twin.record.forwarding import ForwardingPolicy
from twin.record.rows import FIRST_GATEWAY
from twin.record.writer import Recorder, Row

Call: TypeAlias = Literal["route", "released", "observe", "decide"]
Answer: TypeAlias = Route | Sequence[tuple[RequestId, Route]] | Sequence[Command] | None

OBSERVATION_KINDS: dict[str, type[Any]] = {
    "attempt_ended": AttemptEnded,
    "request_withdrawn": RequestWithdrawn,
    "probe_result": ProbeResult,
    "telemetry_sample": TelemetrySample,
    "action_result": ActionResult,
    "operator_order": OperatorOrder,
    "node_inventory": NodeInventory,
    "node_hands": NodeHands,
    "advice": Advice,
    "settings_changed": SettingsChanged,
}
COMMAND_KINDS: dict[str, type[Any]] = {"probe": Probe, "action": Action, "question": Question}
_KIND_OF = {kind: name for name, kind in (OBSERVATION_KINDS | COMMAND_KINDS).items()}
_READ = ("gateway", "sequence", "time_s", "call", "kind", "payload", "decision")


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of the journal. `arguments` are those after the time; `decision` is the answer as it was written."""

    gateway: str
    sequence: int
    time_s: float
    call: Call
    arguments: tuple[Any, ...]
    decision: str | None

    @property
    def answer(self) -> Answer:
        """The answer in the policy's own types."""
        return _answer(self.call, from_json(self.decision) if self.decision is not None else None)


class JournalingPolicy(ForwardingPolicy):
    """A policy that does what another one does, and records each call of it in the recorder's table `observations`.

    Several gateways write into one table, in the order of the calls; `gateway` says whose policy it is.

    A call costs one tuple of references; they are written out when the table is flushed. So what is handed over or
    answered must not be altered afterwards.
    """

    def __init__(self, policy: Policy, recorder: Recorder, gateway: str = FIRST_GATEWAY) -> None:
        if not isinstance(recorder.observations.converter, JournalRows):
            recorder.observations.convert_with(JournalRows())
        super().__init__(policy)
        self.gateway = gateway
        self._add = recorder.observations.add

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        """The policy's route."""
        answer = self.policy.route(now, request, attempt)
        self._add(("route", now, request, attempt, answer, self.gateway))
        return answer

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        """What the policy releases."""
        answer = self.policy.released(now)
        self._add(("released", now, None, None, answer, self.gateway))
        return answer

    def observe(self, now: float, observation: Observation) -> None:
        """Let the policy take it in."""
        self.policy.observe(now, observation)
        self._add(("observe", now, observation, None, None, self.gateway))

    def decide(self, now: float) -> Sequence[Command]:
        """The policy's commands."""
        answer = self.policy.decide(now)
        self._add(("decide", now, None, None, answer, self.gateway))
        return answer

    def restore(self, now: float, state: PolicyState) -> None:
        """Refused: a journal begins with a policy that knows nothing, or its replay would differ."""
        raise NotImplementedError("a run that is journaled starts from nothing")

    def learn(self, now: float, parts: dict[str, Any]) -> None:
        """Refused, as `restore` is."""
        raise NotImplementedError("a run that is journaled starts from nothing")

    def adopt(self, now: float, request: RequestSpec, node: str) -> Route:
        """Refused, as `restore` is."""
        raise NotImplementedError("a run that is journaled starts from nothing")


class JournalRows:
    """Turns the calls of all policies that write into one table into its rows, and counts them."""

    def __init__(self) -> None:
        self._sequence = 0

    def __call__(self, added: Sequence[Row]) -> list[Row]:
        """Rows of the table `observations`."""
        rows = []
        for call, time_s, argument, attempt, answer, gateway in added:
            kind = node = request_id = payload = None
            if call == "route":
                node, request_id = answer.node, argument.request_id
                payload = _encode({"request": argument, "attempt": attempt})
            elif call == "observe":
                kind = _KIND_OF[type(argument)]
                node = getattr(argument, "node", None)
                request_id = getattr(argument, "request_id", None)
                payload = _encode(argument)
            decision = encode_answer(answer)
            rows.append((self._sequence, time_s, call, kind, node, request_id, payload, decision, gateway))
            self._sequence += 1
        return rows


def encode_answer(answer: Answer) -> str | None:
    """An answer as the journal writes it: null where it is empty. The same answer always gives the same text."""
    if not answer:
        return None
    if isinstance(answer, Route):
        return _encode(answer)
    return _encode([each if isinstance(each, tuple) else {_KIND_OF[type(each)]: each} for each in answer])


def decode(observations: pa.Table) -> Iterator[RecordedCall]:
    """The calls of a table `observations`, in order, with arguments and answers as the policy's own types."""
    for batch in observations.to_batches(max_chunksize=8192):
        columns = (batch[name].to_pylist() for name in _READ)
        for gateway, sequence, time_s, call, kind, payload, decision in zip(*columns, strict=True):
            said = from_json(payload) if payload is not None else None
            yield RecordedCall(gateway, sequence, time_s, call, _arguments(call, kind, said), decision)


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


def _encode(value: Any) -> str:
    """JSON of dataclasses, lists and numbers (numpy's included)."""
    return to_json(value, inf_nan_mode="strings", fallback=lambda number: number.item()).decode()


def _made(kind: type[Any], said: dict[str, Any]) -> Any:
    """The dataclass that was written as this object; where JSON has no such type, the value is turned back."""
    floats, mappings, tuples = _TURNED_BACK[kind]
    for name in floats:
        said[name] = float(said[name])
    for name in mappings:
        said[name] = {key: float(value) for key, value in said[name].items()}
    for name in tuples:
        said[name] = tuple(said[name])
    return kind(**said)


def _turned_back(kind: type[Any]) -> tuple[list[str], list[str], list[str]]:
    """The fields of a dataclass that hold floats, floats by name, and tuples.

    A compiled class says `tuple` where its source says `tuple[str, ...]`, so only what stands before the bracket counts.
    """
    hints = get_type_hints(kind)
    plain = {field.name: get_origin(hints[field.name]) or hints[field.name] for field in dataclasses.fields(kind)}
    floats, mappings, tuples = ([name for name in plain if plain[name] is what] for what in (float, dict, tuple))
    return floats, mappings, tuples


_TURNED_BACK = {kind: _turned_back(kind) for kind in (RequestSpec, Route, *_KIND_OF)}
