"""Replay: the recorded calls through today's policy. The same decisions, or a list of where they differ."""

from __future__ import annotations

from dataclasses import dataclass

from twin.policy.vocabulary import Policy
from twin.record.journal import Answer, RecordedCall, decode, encode_answer
from twin.record.reader import RunRecord, RunUnreadable

DIFFERENCES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """A call that was answered otherwise. `recorded` and `now` are the answers as JSON, "nothing" where empty."""

    sequence: int
    time_s: float
    call: str
    recorded: str
    now: str

    def __str__(self) -> str:
        return f"{self.time_s:.3f} s, call {self.sequence} ({self.call}): was {self.recorded}, is now {self.now}"


@dataclass(frozen=True, slots=True)
class Replay:
    """How a replay went: calls compared, how many of them differed, and the first of these."""

    compared: int
    differing: int
    differences: list[Difference]

    @property
    def same(self) -> bool:
        """Every decision is what it was."""
        return self.differing == 0


def replay(record: RunRecord, *policies: Policy, shown: int = DIFFERENCES_SHOWN) -> Replay:
    """Feed the recorded calls to fresh policies and compare their answers; the first `shown` differences are kept.

    `policies`: one for each gateway of the run, in the order of their names; each is told what its gateway's was told.

    All calls are made, `observe` included; compared are those that have an answer. After a first difference others may
    follow from it, since the policy is told what happened to the recorded decisions and not to its own.
    Raises `RunUnreadable` where the run has no journal, or one of more gateways than policies are given.
    """
    observations = record.table("observations")
    if observations.num_rows == 0:
        raise RunUnreadable(
            f"{record.folder or 'the run'} has no journal, so it cannot be replayed; "
            "run the scenario again with record.journal: true"
        )
    by_gateway: dict[str, Policy] = {f"gateway-{place}": policy for place, policy in enumerate(policies)}
    compared, differing, differences = 0, 0, list[Difference]()
    for call in decode(observations):
        if call.gateway not in by_gateway:
            raise RunUnreadable(f"{record.folder or 'the run'} has calls of {call.gateway}, which its scenario lacks")
        answer = _ask(by_gateway[call.gateway], call)
        if call.call == "observe":
            continue
        compared += 1
        recorded, now = call.decision, encode_answer(answer)
        if recorded != now and encode_answer(call.answer) != now:  # the second: it may be a version that wrote less
            differing += 1
            if len(differences) < shown:
                words = (recorded or "nothing", now or "nothing")
                differences.append(Difference(call.sequence, call.time_s, _name(call), *words))
    return Replay(compared, differing, differences)


def _ask(policy: Policy, call: RecordedCall) -> Answer:
    if call.call == "route":
        return policy.route(call.time_s, *call.arguments)
    if call.call == "released":
        return policy.released(call.time_s)
    if call.call == "decide":
        return policy.decide(call.time_s)
    policy.observe(call.time_s, *call.arguments)
    return None


def _name(call: RecordedCall) -> str:
    if call.call != "route":
        return call.call
    request, attempt = call.arguments
    return f"route of request {request.request_id}, attempt {attempt}"
