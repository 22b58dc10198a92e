"""A runner that hangs after as many requests each time is replaced before the next time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.policy.bench import cluster
from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.policy.parameters import preset
from twin.policy.views import ClusterView, Replica
from twin.policy.vocabulary import Incident
from twin.policy.wear import HORIZON_S, MARGIN, Wear


def wear(**overrides: object) -> Wear:
    return Wear(ClusterView(cluster(2, 4, 2), preset("default", overrides)))


def replica(it: Wear) -> Replica:
    return it.view.nodes["node-0"].replicas["m"]


def hangs_after(it: Wear, *counts: int) -> None:
    incidents = []
    for number, taken in enumerate(counts):
        one = replica(it)
        one.taken, one.failures_in_row = taken, 2
        incidents.append(Incident(number, "node-0", "runner_hung", "it is silent", 100.0 * number))
        it.look(incidents)
        assert one.taken == 0, "its next runner is counted anew"


def takes(it: Wear, until: int, rate_rps: float = 1.0) -> list[Any]:
    found: list[Any] = []
    for second in range(0, int(until / rate_rps) + 1, 10):
        replica(it).taken = int(second * rate_rps)
        found = it.forecasts(1000.0 + second)
    return found


def test_after_two_failures_alike_the_third_is_foretold_with_its_reason() -> None:
    it = wear()
    hangs_after(it, 500, 520)
    (said,) = takes(it, 400)
    assert (said.node, said.failure, said.horizon_s) == ("node-0", "runner_failure", HORIZON_S)
    by_chance = (520 / 500 - 1) / (520 / 500 + 1)
    assert said.probability == pytest.approx(0.3 / (0.3 + 0.7 * by_chance))
    assert said.lead_s == pytest.approx(MARGIN * 500 - 400)
    assert said.reasons == ("m failed there after 500, 520 requests, and its runner has taken 400",)


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ((500,), "once is no pattern"),
        ((500, 700), "these have nothing to do with a count"),
        ((3, 3), "they were not worn out"),
        ((500, 500, 900), "it was not the count after all"),
    ],
)
def test_else_nothing_is_foretold(counts: tuple[int, ...], why: str) -> None:
    it = wear()
    hangs_after(it, *counts)
    assert takes(it, 480) == [], why


def test_what_is_far_off_is_not_foretold_yet() -> None:
    it = wear()
    hangs_after(it, 5000, 5000)
    assert takes(it, 4500) == []
    assert takes(it, 4700)


def test_counts_that_agree_better_and_more_often_are_believed_more() -> None:
    believed = []
    for counts in ((500, 545), (500, 501), (500, 501, 502)):
        it = wear()
        hangs_after(it, *counts)
        believed.append(takes(it, 440)[0].probability)
    assert believed == sorted(believed)
    assert 0.85 < believed[0] < believed[1] < 0.99 < believed[2] < 1.0


def test_a_runner_that_outlasts_it_refutes_the_belief() -> None:
    it = wear()
    hangs_after(it, 100, 100)
    assert takes(it, 90)
    assert takes(it, 200) == []
    assert takes(it, 90) == []


def test_it_is_a_part_of_prediction_and_can_be_switched_off() -> None:
    for off in ({"predictor.by_count": False}, {"predictor.enabled": False}):
        it = wear(**off)
        hangs_after(it, 500, 500)
        assert takes(it, 480) == []


def test_what_it_knows_outlives_it() -> None:
    it, heir = wear(), wear()
    hangs_after(it, 500, 505)
    heir.restore(it.snapshot())
    assert takes(heir, 450)


@pytest.mark.parametrize("on", [True, False])
def test_in_the_twin_only_the_first_two_hangs_of_a_leaking_runner_are_met(on: bool) -> None:
    document = scenario(
        cluster__nodes=3,
        cluster__models={"llama3.1:8b": {"replicas": 3}},
        workload__arrivals={"kind": "poisson", "rate_rps": 0.9},
        workload__duration_s=7200,
        policy={"overrides": {"predictor.by_count": on}},
        faults=[{"kind": "hang_after_requests", "at_s": 30, "target": "node-0", "requests": 400}],
        record={"journal": False, "telemetry_period_s": 20},
    )
    _, record = simulate(document)
    hung = [row for row in record.table("incidents").to_pylist() if row["diagnosis"] == "runner_hung"]
    assert (len(hung) == 2) is on
    foreseen = [row for row in record.table("incidents").to_pylist() if row["diagnosis"].startswith("foreseen_")]
    assert bool(foreseen) is on
