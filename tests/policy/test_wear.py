"""A runner that hangs after as many requests each time is replaced before the next time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.policy.bench import cluster
from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.views import ClusterView, Replica
from twin.policy.vocabulary import Action, ActionResult, Incident, RequestSpec
from twin.policy.wear import HORIZON_S, MARGIN, RENEWED_S, Count, Wear


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


@pytest.mark.parametrize(
    ("counts", "taken", "later_s", "worn"),
    [
        ((500,), 374, 0.0, False),
        ((500,), 375, 0.0, True),
        ((500, 900), 375, 0.0, True),
        ((50,), 45, 0.0, False),  # that would be a reload every few minutes
        ((500,), 450, RENEWED_S + 1.0, False),  # after an hour the count is left to show itself
    ],
)
def test_for_an_hour_after_a_hang_a_runner_is_worn_before_it_has_taken_as_many_again(
    counts: tuple[int, ...], taken: int, later_s: float, worn: bool
) -> None:
    it = wear()
    hangs_after(it, *counts)
    replica(it).taken = taken
    found = it.worn(100.0 * (len(counts) - 1) + later_s)
    assert [one for one, _ in found] == [replica(it)] * worn
    if worn:
        said = ", ".join(str(each) for each in counts)
        assert found[0][1] == f"m hung on node-0 after {said} requests, and its runner has taken {taken}"


def test_the_count_holds_for_the_other_models_of_the_node() -> None:
    it = wear()
    hangs_after(it, 500)
    other = it.view.nodes["node-0"].replicas["s"]
    other.taken = 375
    it.view.nodes["node-1"].replicas["m"].taken = 499
    assert it.worn(10.0) == [(other, "m hung on node-0 after 500 requests, and s's runner has taken 375")]


def worn_policy(nodes: int, replicas: int, **overrides: object) -> ClusterPolicy:
    """One whose node-0 hung after 500 requests, and has taken 400 since."""
    it = ClusterPolicy(cluster(nodes, 4, replicas), preset("default", overrides))
    count = it.wear.counts[("node-0", "m")] = Count()
    count.failures, count.hung_s = [500], 0.0
    it.view.nodes["node-0"].replicas["m"].taken = 400
    return it


def orders(it: ClusterPolicy, now: float) -> list[Action]:
    return [one for one in it.decide(now) if isinstance(one, Action)]


def test_a_worn_runner_is_let_go_while_it_is_idle_and_others_serve_and_is_loaded_anew() -> None:
    it = worn_policy(3, 3)
    (order,) = orders(it, 10.0)
    assert (order.kind, order.node, order.model) == ("unload", "node-0", "m")
    assert order.reason.endswith("has taken 400; it is idle, and 2 others serve m while it is loaded anew")
    assert orders(it, 10.2) == [], "once"
    it.observe(10.3, ActionResult(order.action_id, "node-0", "unload", "done"))
    assert it.view.nodes["node-0"].replicas["m"].taken == 0
    (order,) = orders(it, 12.0)
    assert (order.kind, order.node) == ("load", "node-0")


def test_it_is_left_where_that_would_cost_somebody_something_or_may_not_be() -> None:
    busy = worn_policy(2, 2)
    for number in (1, 2):
        assert busy.route(9.0, RequestSpec(number, "m", 10, True, 9.0, 60.0), 0).kind == "dispatch"
    alone = worn_policy(1, 1)
    forbidden = worn_policy(3, 3, **{"healer.reallocation": False})
    handless = worn_policy(3, 3)
    handless.view.nodes["node-0"].hands = frozenset({"load"})
    for it in (busy, alone, forbidden, handless):
        assert orders(it, 10.0) == []


def test_it_is_a_part_of_prediction_and_can_be_switched_off() -> None:
    for off in ({"predictor.by_count": False}, {"predictor.enabled": False}):
        it = wear(**off)
        hangs_after(it, 500, 500)
        assert takes(it, 480) == []


def test_what_it_knows_outlives_it() -> None:
    it, heir = wear(), wear()
    hangs_after(it, 500, 505)
    heir.restore(50.0, it.snapshot(0.0))
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
    renewed = [row for row in record.table("actions").to_pylist() if row["kind"] == "unload"]
    assert bool(renewed) is on
    assert all("llama3.1:8b hung on node-0 after" in row["reason"] for row in renewed)
