"""Faults that are drawn: by their closed forms, within their bounds, and always the same for a seed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from tests.scenario.documents import document, scenario
from tests.sim.worlds import simulate
from twin.errors import OperatorError
from twin.experiment.twin_world import TwinWorld
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import Fault
from twin.scenario.generators import expanded, expected_load
from twin.scenario.loader import as_document, load
from twin.scenario.schema import Scenario

CRASH = {"kind": "server_crash"}


def constant(mean_s: float) -> dict[str, Any]:
    return {"kind": "constant", "mean_s": mean_s}


def exponential(mean_s: float) -> dict[str, Any]:
    return {"kind": "exponential", "mean_s": mean_s}


def with_generators(*generators: dict[str, Any], nodes: int = 4, **changes: Any) -> Scenario:
    return scenario(
        **{
            "cluster__nodes": nodes,
            "cluster__models": {"llama3.1:8b": {"replicas": nodes}},
            "workload__warmup_s": 10,
            "workload__duration_s": 10_000,
            "fault_generators": list(generators),
        }
        | changes
    )


def drawn(*generators: dict[str, Any], seed: int = 1, **changes: Any) -> list[Fault]:
    return list(expanded(with_generators(*generators, **changes), seed).faults)


PARTS = 2
"""Of what is no node and can be struck, too: the gateway, the clients."""

RENEWAL = {"kind": "renewal", "fault": CRASH, "time_between_failures": exponential(200), "repair": exponential(50)}
CLUSTER = {**RENEWAL, "clock": "cluster"}
CASCADE = {
    "kind": "cascade",
    "fault": CRASH,
    "at_s": 100,
    "victims": 3,
    "delay": exponential(5),
    "repair": constant(60),
}
CORRELATED = {"kind": "correlated", "fault": CRASH, "at_s": 500, "target": "random(3)", "spread_s": 4.0}
SWIZZLE = {
    "kind": "swizzle",
    "fault": CRASH,
    "at_s": 100,
    "target": "all",
    "stop_gap": exponential(10),
    "hold": constant(30),
    "return_gap": exponential(10),
}
SWARM = {"kind": "swarm", "faults": {"min": 5, "max": 20}, "duration": exponential(60), "at_most_down": 2}
ALL = [RENEWAL, CLUSTER, CASCADE, CORRELATED, SWIZZLE, SWARM]


@pytest.mark.parametrize("generator", ALL, ids=lambda it: it["kind"] + it.get("clock", ""))
def test_a_seed_always_draws_the_same_faults_and_another_seed_others(generator: dict[str, Any]) -> None:
    one = drawn(generator, seed=3)
    assert one
    assert one == drawn(generator, seed=3)
    assert any(one != drawn(generator, seed=seed) for seed in range(4, 8))
    assert [fault.at_s for fault in one] == sorted(fault.at_s for fault in one)
    assert all(10.0 <= fault.at_s < 10_010.0 and round(fault.at_s, 3) == fault.at_s for fault in one)


def test_generators_do_not_shift_each_other_nor_the_listed_faults() -> None:
    alone = drawn(RENEWAL)
    both = drawn(RENEWAL, SWIZZLE)
    assert [fault for fault in both if fault in alone] == alone
    listed = [{"kind": "runner_hang", "at_s": 50, "target": "random", "duration_s": 5}]
    whole = expanded(with_generators(RENEWAL, faults=listed), 1)
    assert whole.faults[0].about.kind == "runner_hang", "listed faults keep their places, and so their draws"
    assert list(whole.faults[1:]) == alone


def test_more_nodes_do_not_move_the_clocks_of_those_that_were_there() -> None:
    few = drawn(RENEWAL, nodes=2)
    many = [fault for fault in drawn(RENEWAL, nodes=5) if fault.target in ("node-0", "node-1")]
    assert few == many


def test_a_scenario_without_generators_is_itself() -> None:
    plain = scenario()
    assert expanded(plain, 1) is plain


# -- renewal -------------------------------------------------------------------------------------------------------


def test_a_node_works_and_is_repaired_for_as_long_as_the_distributions_say() -> None:
    faults = drawn(RENEWAL, nodes=20)
    works, repairs = [], []
    for node in {str(fault.target) for fault in faults}:
        own = [fault for fault in faults if fault.target == node]
        repairs += [fault.duration_s or 0.0 for fault in own]
        works += [b.at_s - a.at_s - (a.duration_s or 0.0) for a, b in itertools.pairwise(own)]
    assert min(works) >= 0.0
    # What the end of the run cuts off are the long ones: over 50 cycles that is a few in a hundred.
    assert np.mean(works) == pytest.approx(200, abs=4 * 200 / math.sqrt(len(works)) + 6)
    assert np.mean(repairs) == pytest.approx(50, abs=4 * 50 / math.sqrt(len(repairs)))
    assert len(faults) == pytest.approx(20 * 10_000 / 250, rel=0.12)


def test_weibull_times_between_failures_have_their_mean_and_spread() -> None:
    weibull = {"kind": "weibull", "shape": 2.0, "scale_s": 50.0}
    faults = drawn({**CLUSTER, "time_between_failures": weibull, "repair": constant(0.1)}, workload__duration_s=100_000)
    gaps = np.diff([fault.at_s for fault in faults])
    mean_s = 50.0 * math.gamma(1.5)
    cv = math.sqrt(math.gamma(2.0) / math.gamma(1.5) ** 2 - 1.0)
    assert gaps.mean() == pytest.approx(mean_s, abs=4 * cv * mean_s / math.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)


def test_one_clock_for_the_cluster_strikes_all_nodes_equally_and_never_one_that_is_down() -> None:
    faults = drawn({**CLUSTER, "time_between_failures": exponential(20)}, workload__duration_s=40_000)
    counts = [sum(fault.target == f"node-{n}" for fault in faults) for n in range(4)]
    assert max(counts) - min(counts) < 8 * math.sqrt(len(faults) * 3 / 16)
    down_until: dict[str, float] = {}
    for fault in faults:
        assert fault.at_s >= down_until.get(str(fault.target), 0.0)
        down_until[str(fault.target)] = fault.at_s + (fault.duration_s or math.inf)


def test_no_more_are_down_at_once_than_allowed() -> None:
    def most(faults: list[Fault]) -> int:
        return max(
            sum(it.at_s <= fault.at_s < it.at_s + (it.duration_s or math.inf) for it in faults) for fault in faults
        )

    often = {**RENEWAL, "time_between_failures": exponential(60)}
    assert most(drawn(often, nodes=8)) > 3
    assert most(drawn({**often, "at_most_down": 3}, nodes=8)) == 3


def test_without_repair_a_node_fails_once() -> None:
    faults = drawn({"kind": "renewal", "fault": CRASH, "time_between_failures": exponential(100)})
    assert sorted(str(fault.target) for fault in faults) == [f"node-{n}" for n in range(4)]
    assert {fault.duration_s for fault in faults} == {None}


# -- cascade -------------------------------------------------------------------------------------------------------


def test_in_a_cascade_the_next_is_who_took_over_most() -> None:
    """a is on node 0, 2, 4; b on 1, 3, 5. As long as b stands, a's load has fewer and fewer nodes to go to."""
    models = {
        "a": {"replicas": 3, "size_gib": 10, "kv_mib_per_1k_tokens": 0},
        "b": {"replicas": 3, "size_gib": 10, "kv_mib_per_1k_tokens": 0},
    }
    it = with_generators(
        {**CASCADE, "target": "node-0", "victims": 3},
        nodes=6,
        cluster__models=models,
        cluster__hardware={"decode_ms": [10], "prefill_tokens_per_s": None, "vram_gib": 12, "load_gib_per_s": 2},
    )
    placement = it.cluster.spec().placement
    holders = {model: {node for node, loaded in placement.items() if model in loaded} for model in models}
    with_a = holders["a"] if "node-0" in holders["a"] else holders["b"]
    assert expected_load(it, ["node-0"])[next(iter(with_a - {"node-0"}))] == 0.5
    for seed in range(10):
        victims = [str(fault.target) for fault in expanded(it, seed).faults]
        assert set(victims) == with_a, "the three that share the first one's model"


def test_a_cascade_is_the_same_for_every_policy_and_spends_its_victims() -> None:
    faults = drawn({**CASCADE, "victims": 99})
    assert sorted(str(fault.target) for fault in faults) == [f"node-{n}" for n in range(4)]
    assert faults == drawn({**CASCADE, "victims": 99}, policy={"preset": "none"})


# -- correlated and swizzle ----------------------------------------------------------------------------------------


def test_one_event_strikes_several_nodes_within_the_spread() -> None:
    faults = drawn(CORRELATED)
    assert len({fault.target for fault in faults}) == 3
    assert all(500 <= fault.at_s <= 504 for fault in faults)
    assert len({fault.at_s for fault in faults}) == 3


def test_events_that_come_again_strike_other_nodes() -> None:
    again = {key: value for key, value in CORRELATED.items() if key != "at_s"}
    faults = drawn({**again, "time_between_events": exponential(500), "repair": constant(20)})
    assert len(faults) == pytest.approx(3 * 20, abs=4 * 3 * math.sqrt(20))
    assert {str(fault.target) for fault in faults} == {f"node-{n}" for n in range(4)}


def test_a_swizzle_stops_one_by_one_and_brings_all_back_in_another_order() -> None:
    orders = set()
    for seed in range(20):
        faults = drawn(SWIZZLE, seed=seed, nodes=4)
        stops = [fault.at_s for fault in faults]
        returns = {str(fault.target): fault.at_s + (fault.duration_s or math.inf) for fault in faults}
        assert len(faults) == 4
        assert stops[0] == 100.0
        assert min(returns.values()) >= max(stops) + 30.0 - 0.002
        orders.add((tuple(str(f.target) for f in faults), tuple(sorted(returns, key=lambda node: returns[node]))))
    assert len({stop for stop, _ in orders}) > 10
    assert len({back for _, back in orders}) > 10
    assert sum(stop == back for stop, back in orders) < 5, "the orders have nothing to do with each other"


# -- swarm ---------------------------------------------------------------------------------------------------------


def test_a_swarm_keeps_its_bounds_and_turns_on_other_kinds_for_each_seed() -> None:
    settle_s = 30.0
    kinds: dict[str, int] = dict.fromkeys(FAULT_KINDS, 0)
    for seed in range(200):
        faults = drawn({**SWARM, "until_s": 9000}, seed=seed, nodes=5)
        assert len(faults) <= 20
        on = {fault.about.kind for fault in faults}
        for kind in on:
            kinds[kind] += 1
        assert "rack_failure" not in on, "there are no racks"
        held = [(it.at_s, it.at_s + (it.duration_s or math.inf) + settle_s, it.target) for it in faults]
        for begin_s, _, target in held:
            assert 10.0 <= begin_s < 9000.0
            present = [who for start_s, end_s, who in held if start_s <= begin_s < end_s]
            assert len(present) <= 2 + PARTS
            assert present.count(target) == 1 or target == "random", "one fault a node"
    # Each kind is on with chance one half, and then among the five to twenty faults of a run with some twenty kinds.
    share = {kind: count / 200 for kind, count in kinds.items() if kind != "rack_failure"}
    assert all(0.08 < value < 0.45 for value in share.values()), share


def test_a_swarm_of_few_kinds_draws_only_those_with_parameters_about_their_defaults() -> None:
    found = [fault for seed in range(50) for fault in drawn({**SWARM, "kinds": ["runner_crash_loop"]}, seed=seed)]
    assert {fault.about.kind for fault in found} == {"runner_crash_loop"}
    periods = [fault.model_dump()["period_s"] for fault in found]
    assert 0.5 <= min(periods) < 0.6
    assert 1.8 < max(periods) <= 2.0


@pytest.mark.parametrize("kind", list(FAULT_KINDS))
def test_a_swarm_can_draw_every_kind_of_the_catalogue(kind: str) -> None:
    found = [
        fault
        for seed in range(5)
        for fault in drawn(
            {**SWARM, "kinds": [kind], "faults": {"min": 3, "max": 3}}, seed=seed, cluster__network={"racks": 4}
        )
    ]
    assert len(found) == 15
    assert {fault.about.kind for fault in found} == {kind}


def test_only_a_swarm_strikes_what_is_no_node() -> None:
    other = next(kind for kind, fault in FAULT_KINDS.items() if fault.about.part != "node")
    with pytest.raises(ValueError, match=rf"{other} is a fault of the \w+; list it in faults"):
        with_generators({**RENEWAL, "fault": {"kind": other}})


def test_each_kind_of_a_swarm_is_on_with_chance_one_half() -> None:
    kinds = ["server_crash", "runner_hang", "partition", "slow_decay", "runner_crash", "slow_network"]
    many = {**SWARM, "kinds": kinds, "faults": {"min": 30, "max": 30}, "at_most_down": 4, "settle_s": 0}
    on = [{fault.about.kind for fault in drawn(many, seed=seed)} for seed in range(200)]
    for kind in kinds:
        assert sum(kind in each for each in on) == pytest.approx(100, abs=4 * math.sqrt(50)), kind
    assert len({tuple(sorted(each)) for each in on}) > 30


SIGNS = {"signs_share": 0.5, "look_alike_share": 0.25, "lead": {"kind": "uniform", "min_s": 20, "max_s": 40}}


def test_a_swarm_lets_kinds_that_can_show_beforehand_do_so_now_and_then() -> None:
    kinds = ["slow_decay", "server_crash"]
    faults = [f for seed in range(100) for f in drawn({**SWARM, **SIGNS, "kinds": kinds, "from_s": 50}, seed=seed)]
    decays = [fault for fault in faults if fault.about.kind == "slow_decay"]
    shown = [fault for fault in decays if fault.lead_s]
    assert all(not fault.lead_s for fault in faults if fault.about.kind == "server_crash"), "it has no signs"
    assert len(shown) / len(decays) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(decays)))
    assert all(20.0 <= fault.lead_s <= 40.0 for fault in shown)
    nothing = sum(fault.comes_to_nothing for fault in shown) / len(shown)
    assert nothing == pytest.approx(0.25, abs=4 * 0.43 / math.sqrt(len(shown)))


def test_signs_shift_none_of_the_other_draws_of_a_swarm() -> None:
    def plain(fault: Fault) -> dict[str, Any]:
        return fault.model_dump(exclude={"lead_s", "comes_to_nothing"})

    for seed in range(10):
        sudden = drawn({**SWARM, "signs_share": 0}, seed=seed)
        showing = drawn({**SWARM, "signs_share": 1}, seed=seed)
        assert [plain(fault) for fault in sudden] == [plain(fault) for fault in showing]
        assert not any(fault.lead_s for fault in sudden)


# -- in a run ------------------------------------------------------------------------------------------------------


def test_what_was_drawn_is_done_and_stands_in_the_manifest() -> None:
    it = with_generators({**RENEWAL, "time_between_failures": exponential(60)}, workload__duration_s=120)
    record = TwinWorld().run(it, 2, None, lambda line: None)
    drawn_then = record.manifest["faults_drawn"]
    done = record.table("faults").to_pylist()
    assert len(done) == len(drawn_then) == 3
    for fault, row in zip(drawn_then, sorted(done, key=lambda row: row["fault_id"]), strict=True):
        assert (row["kind"], row["node"], row["injected_s"]) == (fault["kind"], fault["target"], fault["at_s"])
    assert record.manifest["scenario"]["faults"] == []
    assert Scenario.model_validate(record.manifest["scenario"]) == it


def test_the_expanded_scenario_is_a_plain_file_that_runs_the_same() -> None:
    it = with_generators(SWARM, workload__duration_s=300)
    whole = expanded(it, 5)
    plain = as_document(whole)
    assert "fault_generators" not in plain
    again = Scenario.model_validate(plain)
    assert again.faults == whole.faults
    _, one = simulate(it, 5)
    _, other = simulate(again, 5)
    assert one.table("requests").equals(other.table("requests"))


@pytest.mark.parametrize(
    ("generator", "words"),
    [
        ({**RENEWAL, "fault": {"kind": "earthquake"}}, "unknown kind earthquake; there are"),
        ({**RENEWAL, "fault": {**CRASH, "at_s": 3}}, "at_s is drawn by the generator; take it out"),
        ({**RENEWAL, "fault": {"kind": "slow_network", "factor": 2}}, r"fault: .*[Ee]xtra"),
        ({**RENEWAL, "target": "node-9"}, r"fault_generators\[0\]: target 'node-9' is no node"),
        ({**CORRELATED, "target": "random(9)"}, r"fault_generators\[0\]: target random\(9\) of a cluster of 4"),
        ({**CASCADE, "at_s": 99_999}, r"fault_generators\[0\]: at_s 99999 is after the load's end"),
        ({**CORRELATED, "time_between_events": constant(5)}, "give either at_s or time_between_events"),
        ({**SWARM, "kinds": ["earthquake"]}, "unknown kind earthquake"),
        ({**SWARM, "faults": {"min": 5, "max": 1}}, "min 5 is above max 1"),
        (
            {**SWARM, "policy": {"retry.atempts_max": [1]}},
            "policy: unknown policy parameter retry.atempts_max; did you mean",
        ),
        (
            {**SWARM, "policy": {"retry.attempts_max": [1, 99]}},
            "policy: retry.attempts_max takes 0 to 10 attempts, not 99",
        ),
    ],
)
def test_a_generator_that_cannot_be_is_refused(generator: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_generators(generator)


def test_the_line_of_a_wrong_generator_is_named(tmp_path: Any) -> None:
    import yaml

    path = tmp_path / "small.yaml"
    text = yaml.safe_dump(document(fault_generators=[{**RENEWAL, "target": "node-9"}]), sort_keys=False)
    path.write_text(text)
    line = next(n for n, line in enumerate(text.splitlines(), start=1) if line.startswith("- kind: renewal"))
    with pytest.raises(OperatorError, match=rf"small.yaml:{line}: fault_generators\[0\]: target 'node-9'"):
        load(path)


def test_too_many_faults_are_a_mistake_that_is_said() -> None:
    it = with_generators({**RENEWAL, "time_between_failures": constant(0.01), "repair": constant(0.001)}, nodes=20)
    with pytest.raises(OperatorError, match="more than 100000 faults; make failures rarer or the run shorter"):
        expanded(it, 1)
