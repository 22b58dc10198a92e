"""A sick observer trusts itself less."""

from __future__ import annotations

import math

import pytest

from tests.policy.test_phi_accrual import ONLY_LIVENESS, Network
from twin.policy.observer import LATE_S, Observer
from twin.policy.vocabulary import NEVER_S, Probe, ProbeResult


def test_a_delay_widens_limits_and_fades() -> None:
    it = Observer()
    it.called(5.0, 8.0)
    assert it.widened(1.0) == 7.0
    for _ in range(10):
        it.called(9.0, 9.0)
    assert it.widened(1.0) == 1.0


@pytest.mark.parametrize("due_s", [0.0, NEVER_S])
def test_the_first_call_and_one_that_nobody_asked_for_are_not_late(due_s: float) -> None:
    it = Observer()
    it.called(due_s, 100.0)
    assert it.lag_s == 0.0


def test_what_timers_and_busy_machines_do_is_no_sickness() -> None:
    it = Observer()
    assert not it.was_late(LATE_S)
    assert it.widened(1.0) == 1.0


def answered_late(network: Network, by_s: float, times: int) -> None:
    """The limit of a probe passes; its result comes `by_s` later than that, as after a pause of the whole process."""
    policy = network.policy
    for _ in range(times):
        network.now = max(network.now, policy.next_wakeup())
        for command in policy.decide(network.now):
            if isinstance(command, Probe):
                took_s = command.timeout_s + by_s
                network.now += took_s
                policy.observe(
                    network.now,
                    ProbeResult(
                        command.probe_id, command.node, command.kind, command.model, False, took_s, "unreachable"
                    ),
                )


def test_limits_that_passed_while_the_observer_slept_say_nothing_of_the_nodes() -> None:
    asleep = Network(lambda _: 0.01, **ONLY_LIVENESS)
    answered_late(asleep, 3.0, 3)
    assert {node.health for node in asleep.policy.view.nodes.values()} == {"serving"}
    assert asleep.policy.detection.observer.times_late > 0
    awake = Network(lambda _: 0.01, **ONLY_LIVENESS)
    answered_late(awake, 0.0, 3)
    assert {node.health for node in awake.policy.view.nodes.values()} != {"serving"}


def test_who_is_called_late_gives_probes_more_time_and_in_the_end_notices_all_the_same() -> None:
    network = Network(lambda second: math.inf if second >= 50.0 else 1.4, **ONLY_LIVENESS, probes__timeout_s=1.0)
    network.late_s = 1.0
    network.run_until(49.0)
    assert network.suspected_s == []  # answers after 1.4 s are in time for who is a second late himself
    network.run_until(75.0)
    assert network.suspected_s
