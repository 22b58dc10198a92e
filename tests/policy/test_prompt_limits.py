"""A node whose runner dies of long prompts gets short ones only, and keeps serving."""

from __future__ import annotations

import math

import pytest

from tests.policy.bench import cluster
from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.prompt_limits import CHANCE_MAX, KEPT_S
from twin.policy.vocabulary import AttemptEnded, RequestSpec, Route


class Served:
    """Three nodes; requests end as they are told, one after the other."""

    def __init__(self, **overrides: object) -> None:
        named = {f"router.{name}": value for name, value in overrides.items()}
        settings = {"probes.enabled": False, "predictor.enabled": False, **named}
        self.policy = ClusterPolicy(cluster(3, 4, 3), preset("default", settings))
        self.now = 0.0
        self.count = 0

    def spec(self, tokens: int) -> RequestSpec:
        self.count += 1
        self.now += 1.0
        return RequestSpec(self.count, "m", tokens, True, self.now, self.now + 60.0)

    def ends(self, route: Route, tokens: int, error: str = "") -> None:
        first_s = math.nan if error else self.now
        outcome = "failed" if error else "succeeded"
        self.policy.observe(
            self.now,
            AttemptEnded(self.count, 0, route.node, "m", outcome, error, self.now, first_s, 0 if error else tokens),  # type: ignore[arg-type]
        )

    def asks(self, tokens: int, deadly_from: int = 400, node: str = "node-0") -> str:
        """One request, which kills the runner of that node where it is so long; where it went."""
        route = self.policy.route(self.now, self.spec(tokens), 0)
        self.ends(route, 20, "server_error" if route.node == node and tokens >= deadly_from else "")
        return route.node

    def limits(self) -> dict[int, int]:
        return self.policy.view.pools["m"].prompt_limits


def learnt() -> Served:
    it = Served()
    for number in range(200):
        it.asks(100 if number % 4 else 500)
        if it.limits():
            break
    return it


def test_after_two_deaths_long_prompts_go_to_other_nodes_and_short_ones_everywhere() -> None:
    it = learnt()
    assert it.limits() == {1: 500}
    assert {it.asks(600) for _ in range(12)} == {"node-1", "node-2"}
    assert {it.asks(100) for _ in range(12)} == {"node-0", "node-1", "node-2"}


def test_few_survivors_prove_nothing() -> None:
    it = Served()
    for _ in range(6):
        it.asks(500)
    assert it.limits() == {}, "nobody was asked for anything short"
    assert math.comb(13 + 2, 2) * CHANCE_MAX >= 1.0, "two deaths and thirteen survivors do"
    assert math.comb(12 + 2, 2) * CHANCE_MAX < 1.0


def test_deaths_that_have_nothing_to_do_with_length_set_no_limit() -> None:
    it = Served()
    for number in range(300):
        route = it.policy.route(it.now, it.spec(100 + 37 * number % 400), 0)
        it.ends(route, 20, "server_error" if route.node == "node-0" and number % 7 == 0 else "")
        assert it.limits() == {}


def test_a_long_prompt_that_is_survived_lifts_the_limit() -> None:
    it = learnt()
    for name in ("node-1", "node-2"):
        it.policy.view.happened(it.policy.view.nodes[name], "drain", it.now)
    assert it.asks(600, deadly_from=10_000) == "node-0", "nobody else is there, so it is tried"
    assert it.limits() == {}


def test_a_long_prompt_waits_for_a_node_that_survives_it() -> None:
    it = learnt()
    kept = []
    for _ in range(8):  # the two others are full
        spec = it.spec(600)
        kept.append(it.policy.route(it.now, spec, 0))
    assert {route.node for route in kept} == {"node-1", "node-2"}
    waiting = it.spec(600)
    assert it.policy.route(it.now, waiting, 0).kind == "wait"
    assert it.policy.released(it.now + 5.0) == [], "node-0 has room, and would die of it"
    number = it.count
    it.count = number - 1
    it.ends(kept[-1], 20)
    ((released, route),) = it.policy.released(it.now + 6.0)
    assert (released, route.node) == (number, kept[-1].node)


def test_after_an_hour_it_is_tried_again_and_switched_off_it_learns_nothing() -> None:
    it = learnt()
    it.policy.prompts.look(it.now + KEPT_S - 1.0)
    assert it.limits()
    it.policy.prompts.look(it.now + KEPT_S)
    assert it.limits() == {}
    off = Served(prompt_limits=False)
    for number in range(200):
        off.asks(100 if number % 4 else 500)
    assert off.limits() == {}


def test_a_heir_of_its_snapshot_keeps_the_limit() -> None:
    it = learnt()
    it.policy.decide(it.now)
    heir = Served()
    heir.policy.learn(0.0, it.policy.snapshot().parts)
    assert heir.limits() == {1: 500}
    assert {heir.asks(600) for _ in range(6)} == {"node-1", "node-2"}


@pytest.mark.parametrize("on", [True, False])
def test_in_the_twin_a_marginal_gpu_kills_a_few_times_instead_of_always(on: bool) -> None:
    document = scenario(
        cluster__nodes=4,
        cluster__models={"llama3.1:8b": {"replicas": 4}},
        workload__arrivals={"kind": "poisson", "rate_rps": 2.0},
        workload__prompt_tokens={"kind": "lognormal", "mean": 200, "cv": 1.0},
        workload__duration_s=600,
        policy={"overrides": {"router.prompt_limits": on, "predictor.enabled": False}},
        faults=[{"kind": "long_prompt_crash", "at_s": 30, "target": "node-0", "tokens": 300}],
    )
    _, record = simulate(document)
    broken = record.table("attempts").to_pylist()
    deaths = {round(row["end_s"], 1) for row in broken if row["node"] == "node-0" and row["error"] == "server_error"}
    assert (len(deaths) <= 8) is on, "each that comes nearer to the limit tells where it is"
    assert bool(record.table("incidents").num_rows) is not on
