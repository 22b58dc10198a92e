"""A policy that does what another one does: the base of those that watch it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twin.policy.forecast import Forecast
from twin.policy.vocabulary import (
    Command,
    Incident,
    Observation,
    Policy,
    PolicyState,
    RequestId,
    RequestSpec,
    Route,
)


class ForwardingPolicy(Policy):
    """Hands every call on to `policy`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def waiting(self) -> int:
        """How many requests the policy keeps."""
        return self.policy.waiting

    @property
    def incidents(self) -> Sequence[Incident]:
        """What the policy took for failures so far."""
        return self.policy.incidents

    def settled(self, now: float) -> Sequence[Incident]:
        """The incidents that the policy keeps no longer."""
        return self.policy.settled(now)

    @property
    def reads_telemetry(self) -> bool:
        """Whether the policy does."""
        return self.policy.reads_telemetry

    @property
    def telemetry_period_s(self) -> float:
        """How often the policy wants a sample."""
        return self.policy.telemetry_period_s

    def warnings(self) -> Sequence[tuple[float, Forecast]]:
        """What the policy foretold with confidence."""
        return self.policy.warnings()

    def health_of(self, node: str) -> str:
        """What the policy takes a node for."""
        return self.policy.health_of(node)

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        """The policy's route."""
        return self.policy.route(now, request, attempt)

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        """What the policy releases."""
        return self.policy.released(now)

    def observe(self, now: float, observation: Observation) -> None:
        """Let the policy take it in."""
        self.policy.observe(now, observation)

    def decide(self, now: float) -> Sequence[Command]:
        """The policy's commands."""
        return self.policy.decide(now)

    def next_wakeup(self) -> float:
        """When the policy wants to be called next."""
        return self.policy.next_wakeup()

    def snapshot(self) -> PolicyState:
        """What must outlive the policy."""
        return self.policy.snapshot()

    def restore(self, now: float, state: PolicyState) -> None:
        """Let the policy go on from there."""
        self.policy.restore(now, state)

    def learn(self, now: float, parts: dict[str, Any]) -> None:
        """Let the policy take over what another had learnt."""
        self.policy.learn(now, parts)

    def adopt(self, now: float, request: RequestSpec, node: str) -> Route:
        """Let the policy take the request over."""
        return self.policy.adopt(now, request, node)
