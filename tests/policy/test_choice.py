"""Which remedy is worth its cost, and how often each is believed to help."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.policy.bench import Bench
from twin.policy.choice import explained, weigh
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.detection import BEYOND_REPAIR, Diagnosis
from twin.policy.forecast import FailureClass
from twin.policy.parameters import HealerParameters
from twin.policy.rates import Rates
from twin.policy.remedies import all_remedies
from twin.policy.remedies.base import About, Case, Prior, Remedy

REMEDIES = {remedy.name: remedy for remedy in all_remedies()}


def case(ailment: str, *, certainty: float = 0.9, harm: float = 100.0, tried: dict[str, int] | None = None) -> Case:
    bench = Bench()
    bench.do("cluster nodes 3 slots 2 replicas 3")
    view = bench.policy.view
    return Case(view, view.nodes["node-0"], ailment, certainty, harm, 1.0, 5.0, 4.0, tried or {})


def names(it: Case, rates: Rates | None = None, **parameters: bool) -> list[str]:
    return [
        option.name for option in weigh(it, list(REMEDIES.values()), rates or Rates(), HealerParameters(**parameters))
    ]


def test_the_value_is_what_the_formula_says() -> None:
    it = case("load_path_stuck")
    (option,) = weigh(it, list(REMEDIES.values()), Rates(), HealerParameters())
    right = 0.9 * 0.95
    cost = 0.01 + 1.0 * (4.0 + 5.0)
    assert option.value == pytest.approx(right * 100.0 - cost * (1.0 - right))


def test_what_is_switched_off_or_not_known_to_help_is_no_option() -> None:
    assert names(case("runner_hung")) == ["restart", "kill_runner", "reload"]
    assert names(case("runner_hung"), restart=False, reallocation=False) == ["kill_runner"]
    assert names(case("disk_full")) == []


def test_outcomes_change_the_choice_and_those_of_a_node_most_of_all_its_own() -> None:
    rates = Rates()
    for _ in range(12):
        rates.note("restart", "runner_hung", "node-0", 0.0, 1.0)
        rates.note("kill_runner", "runner_hung", "node-1", 1.0, 0.0)
    assert names(case("runner_hung"), rates)[0] == "kill_runner"
    restart = REMEDIES["restart"]
    assert rates.mean(restart, "runner_hung", "node-0") < rates.mean(restart, "runner_hung", "node-1") < 0.9
    assert rates.mean(restart, "server_down", "node-0") == pytest.approx(0.9)


def test_the_posterior_is_between_the_prior_and_what_was_seen() -> None:
    rates = Rates()
    for _ in range(1000):
        rates.note("restart", "slow", "node-0", 1.0, 0.0)
    assert 0.99 < rates.mean(REMEDIES["restart"], "slow", "node-0") < 1.0


def test_what_has_just_not_helped_is_half_as_likely_to_help_again() -> None:
    assert names(case("runner_hung", tried={"restart": 1}))[0] == "kill_runner"
    once = Rates().mean(REMEDIES["restart"], "runner_hung", "node-0", 1)
    assert once == pytest.approx(0.45)


def test_a_wild_guess_is_not_worth_a_restart_of_a_node_that_serves() -> None:
    (option, *_) = weigh(
        case("host_memory", certainty=0.05, harm=14.0), [REMEDIES["rejuvenate"]], Rates(), HealerParameters()
    )
    assert option.value < 0.0


def test_the_reason_names_the_worth_what_it_rests_on_and_the_alternatives() -> None:
    options = weigh(case("runner_hung"), list(REMEDIES.values()), Rates(), HealerParameters())
    said = explained(options[0], options)
    assert said.startswith("restart +")
    assert "(90% to help, assumed, 9 s) against kill_runner +" in said
    assert said.endswith(", nothing 0")


def test_equal_values_go_by_name_whatever_the_order() -> None:
    forwards, backwards = list(REMEDIES.values()), list(reversed(REMEDIES.values()))
    it = case("runner_failing")
    assert [o.name for o in weigh(it, forwards, Rates(), HealerParameters())] == [
        o.name for o in weigh(it, backwards, Rates(), HealerParameters())
    ]


@pytest.mark.parametrize("remedy", REMEDIES.values(), ids=REMEDIES)
def test_a_remedy_says_what_it_may_mend_and_who_says_so(remedy: Remedy) -> None:
    known = {*get_args(Diagnosis), *get_args(FailureClass)}
    assert remedy.about.mends
    assert set(remedy.about.mends) <= known
    for ailment, prior in remedy.about.mends.items():
        assert 0.0 < prior.success < 1.0
        assert prior.source
        assert remedy.takes_s(case(ailment)) >= 0.0
        assert remedy.cost(case(ailment)) >= 0.0


def test_every_diagnosis_has_a_remedy() -> None:
    assert set(get_args(Diagnosis)) - BEYOND_REPAIR <= {
        ailment for remedy in REMEDIES.values() for ailment in remedy.about.mends
    }


def test_a_new_remedy_needs_nothing_but_its_own_class() -> None:
    class Pray(Remedy):
        def __init__(self) -> None:
            super().__init__(About("pray", "restart", "hope", {"disk_full": Prior(0.5)}))

        def allowed(self, parameters: HealerParameters) -> bool:
            return True

        def takes_s(self, case: Case) -> float:
            return 1.0

    (option,) = weigh(case("disk_full"), [*REMEDIES.values(), Pray()], Rates(), HealerParameters())
    assert option.name == "pray"


def healed_once() -> ClusterPolicy:
    bench = Bench()
    for command in (
        "cluster nodes 3 slots 2 replicas 3",
        "node-0 refuses",
        "advance 3",
        "node-0 works",
        "restart node-0 done",
        "advance 10",
    ):
        bench.do(command)
    return bench.policy


def test_only_a_verified_outcome_that_held_counts() -> None:
    bench = Bench()
    for command in ("cluster nodes 3 slots 2 replicas 3", "node-0 refuses", "advance 3", "restart node-0 done"):
        bench.do(command)
    assert not bench.policy.healer.rates.seen
    assert healed_once().healer.rates.seen["restart server_down"] == (1.0, 0.0)


def test_what_was_learnt_outlives_the_policy() -> None:
    first = healed_once()
    bench = Bench()
    bench.do("cluster nodes 3 slots 2 replicas 3")
    bench.policy.restore(100.0, first.snapshot())
    assert bench.policy.healer.rates.seen == first.healer.rates.seen
    acted_s, in_a_row = bench.policy.healer.last_action["node-0"]
    assert in_a_row == 1
    assert 80.0 < acted_s < 100.0
