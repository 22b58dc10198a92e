"""A policy that forwards hands on all that a policy can be asked."""

from __future__ import annotations

from twin.policy.vocabulary import Policy
from twin.record.forwarding import ForwardingPolicy


def test_nothing_that_a_policy_can_be_asked_is_answered_by_the_base_class() -> None:
    asked = {name for name in vars(Policy) if not name.startswith("_")}
    assert {"route", "health_of", "warnings", "telemetry_period_s"} <= asked
    assert {name for name in asked if name not in vars(ForwardingPolicy)} == set()
