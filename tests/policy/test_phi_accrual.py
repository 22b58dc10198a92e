"""φ of a silence, and what it spares: nodes behind a network that loses an answer now and then."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import pytest

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.phi_accrual import INTERVALS_MIN, WINDOW, PhiAccrual
from twin.policy.vocabulary import Action, ClusterSpec, ModelSpec, NodeSpec, Probe, ProbeResult


def heard_at(*times_s: float) -> PhiAccrual:
    it = PhiAccrual()
    for time_s in times_s:
        it.heard(time_s, 0.0)
    return it


def test_phi_is_the_logarithm_of_the_chance_that_it_still_comes() -> None:
    it = heard_at(*[float(second) for second in range(1, 30)])  # deviation: the least, a tenth of the mean
    assert it.phi(1.0) == pytest.approx(-math.log10(0.5))
    assert it.phi(1.2) == pytest.approx(-math.log10(0.02275), rel=1e-3)  # two deviations late
    assert it.phi(5.0) > 300


def test_the_same_silence_means_less_where_answers_come_irregularly() -> None:
    regular = heard_at(*[float(second) for second in range(1, 30)])
    irregular = heard_at(*[second + 0.9 * (second % 3) for second in range(1, 30)])
    assert regular.phi(2.5) > 8 > irregular.phi(2.5) > 0


def test_with_few_intervals_nothing_is_known() -> None:
    assert heard_at(*[float(second) for second in range(1, INTERVALS_MIN)]).phi(0.1) == math.inf


def test_old_intervals_are_forgotten() -> None:
    it = heard_at(*[10.0 * second for second in range(1, WINDOW)])
    start_s = it.last_s
    for second in range(1, WINDOW + 1):
        it.heard(start_s + second, 0.0)
    assert it.phi(1.0) == pytest.approx(-math.log10(0.5))


def test_a_request_that_ended_well_is_a_sign_of_life_and_an_absence_is_no_interval() -> None:
    it = heard_at(*[float(second) for second in range(1, 30)])
    it.heard(60.0, 59.0)
    assert it.phi(2.0) > 8
    it.forget()
    it.heard(1000.0, 999.0)
    assert it.phi(2.0) > 8


LatencyOf = Callable[[float], float]


class Network:
    """Node a works, but its answers take what `latency_s` says; b is beside it."""

    def __init__(self, latency_s: LatencyOf, **overrides: bool | int | float | str) -> None:
        parameters: dict[str, bool | int | float | str] = {key.replace("__", "."): it for key, it in overrides.items()}
        nodes = (NodeSpec("a"), NodeSpec("b"))
        cluster = ClusterSpec(nodes, (ModelSpec("m", 1.0, 2, 1),), {"a": ("m",), "b": ("m",)})
        self.policy = ClusterPolicy(cluster, preset("default", parameters))
        self.latency_s = latency_s
        self.now = 0.0
        self.answers: list[tuple[float, int, ProbeResult]] = []
        self.suspected_s: list[float] = []
        self.late_s = 0.0  # how late the policy is called

    def run_until(self, end_s: float) -> None:
        while True:
            due_s = max(self.now, self.policy.next_wakeup()) + self.late_s
            if self.answers and self.answers[0][0] <= due_s:
                self.now, _, result = heapq.heappop(self.answers)
                self.policy.observe(self.now, result)
            else:
                self.now = due_s
                for command in self.policy.decide(self.now):
                    self.perform(command)
                self.now += 1e-6
            if self.now > end_s:
                return
            suspect = self.policy.view.nodes["a"].health == "suspect"
            if suspect and (not self.suspected_s or self.suspected_s[-1] < self.now - 1.0):
                self.suspected_s.append(self.now)

    def perform(self, command: Probe | Action) -> None:
        if isinstance(command, Probe):
            takes_s = self.latency_s(self.now) if command.node == "a" else 0.001
            ok = takes_s < command.timeout_s
            takes_s = min(takes_s, command.timeout_s)
            result = ProbeResult(
                command.probe_id, command.node, command.kind, command.model, ok, takes_s,
                "" if ok else "unreachable", ("m",),
            )  # fmt: skip
            heapq.heappush(self.answers, (self.now + takes_s, command.probe_id, result))


def loses_answers(second: float) -> float:
    """For two seconds of every eight nothing comes through; and from the 200th on nothing at all."""
    return math.inf if second % 8.0 < 2.0 or second >= 200.0 else 0.01


ONLY_LIVENESS: dict[str, bool | int | float | str] = {"probes__residency": False, "probes__generation_period_s": 600.0}


def test_a_jittery_network_makes_no_suspect_and_a_cut_one_does() -> None:
    network = Network(loses_answers, **ONLY_LIVENESS)
    network.run_until(230.0)
    learnt = [second for second in network.suspected_s if second > 100.0]
    assert 200.0 < learnt[0] < 215.0


def test_without_phi_the_same_network_makes_suspects_all_the_time() -> None:
    network = Network(loses_answers, **ONLY_LIVENESS, probes__phi_threshold=0.0)
    network.run_until(190.0)
    assert sum(second > 100.0 for second in network.suspected_s) > 5


def test_a_regular_network_that_is_cut_is_noticed_as_fast_as_by_counting() -> None:
    noticed: list[float] = []
    for threshold in (0.0, 8.0):
        network = Network(
            lambda second: math.inf if second >= 50.0 else 0.01, **ONLY_LIVENESS, probes__phi_threshold=threshold
        )
        network.run_until(60.0)
        noticed.append(network.suspected_s[0])
    assert noticed[0] == noticed[1] < 54.0
