"""The policy's remedies in the simulated world: what they do to nodes and faults, what is only advised or forestalled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.scenario.documents import scenario
from twin.experiment.twin_world import TwinWorld
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.forecast import Forecast, Forecaster
from twin.policy.vocabulary import Policy
from twin.record.figures import compute_figures
from twin.record.reader import RunRecord
from twin.scenario.schema import Scenario

HANG = {"kind": "runner_hang", "at_s": 40, "target": "node-0"}
LEAK = {"kind": "vram_leak", "at_s": 140, "lead_s": 100, "target": "node-0"}


class OneForecast(Forecaster):
    """Foretells one failure from a time on."""

    def __init__(self, forecast: Forecast, from_s: float, comes_s: float) -> None:
        self.forecast, self.from_s, self.comes_s = forecast, from_s, comes_s

    def forecasts(self, now: float) -> Sequence[Forecast]:
        it = self.forecast
        if not self.from_s <= now <= self.comes_s:
            return ()
        return [Forecast(it.node, it.failure, it.probability, it.horizon_s, self.comes_s - now, it.reasons)]


class Foreseeing(TwinWorld):
    """The simulated world with a predictor that is told what to say."""

    def __init__(self, predictor: Forecaster) -> None:
        self.predictor = predictor

    def policy(self, scenario: Scenario) -> Policy:
        return ClusterPolicy(scenario.cluster.spec(), scenario.policy.parameters(), self.predictor)


def world(fault: dict[str, Any], **overrides: object) -> Scenario:
    return scenario(
        cluster__nodes=4,
        cluster__models={"llama3.1:8b": {"replicas": 3}},
        workload__duration_s=200,
        faults=[fault],
        policy={"overrides": {key.replace("__", "."): value for key, value in overrides.items()}},
        record={"journal": False},
    )


def run(it: Scenario, predictor: Forecaster | None = None) -> RunRecord:
    return Foreseeing(predictor or Forecaster()).run(it, 3, None, lambda line: None)


def rows(record: RunRecord, table: str) -> list[dict[str, Any]]:
    return record.table(table).to_pylist()


def test_where_nobody_can_restart_the_runners_are_killed_and_that_ends_the_hang() -> None:
    record = run(world(HANG, healer__restart=False))
    (action,) = [it for it in rows(record, "actions") if it["kind"] in ("restart", "kill_runner")]
    assert (action["kind"], action["status"], action["detail"]) == ("kill_runner", "done", "killed 1 runners")
    (fault,) = rows(record, "faults")
    assert fault["ended_by"] == "action"
    figures = compute_figures(record)
    assert (figures["incidents_healed"], figures["requests_lost"], figures["false_actions"]) == (1, 0, 0)


def test_where_nobody_can_touch_processes_either_the_model_is_let_go_and_loaded_anew() -> None:
    record = run(world(HANG, healer__restart=False, healer__kill_runner=False))
    kinds = [it["kind"] for it in rows(record, "actions")]
    assert "unload" in kinds
    (incident,) = rows(record, "incidents")
    assert incident["state"] == "closed"


def test_what_nobody_can_do_to_a_node_is_not_ordered_and_the_reason_says_so() -> None:
    it = world(HANG)
    document = it.model_dump(mode="json", by_alias=True)
    document["cluster"] |= {"hands": ["load", "unload"]}
    document["orders"] = [{"at_s": 150, "order": "restart", "node": "node-1"}]
    record = run(Scenario.model_validate(document))
    by_policy = [it for it in rows(record, "actions") if it["node"] == "node-0"]
    assert {"restart", "kill_runner"} & {it["kind"] for it in by_policy} == set()
    (unload,) = [it for it in by_policy if it["kind"] == "unload"]
    assert unload["reason"].endswith("; no hand for kill_runner or restart on node-0")
    (ordered,) = [it for it in rows(record, "actions") if it["kind"] == "restart"]
    assert (ordered["node"], ordered["status"], ordered["detail"]) == ("node-1", "no_hand", "nobody can restart node-1")


def test_a_group_of_nodes_may_have_other_hands_than_the_rest() -> None:
    document = world(HANG).model_dump(mode="json", by_alias=True)
    hardware = document["cluster"].pop("hardware")
    document["cluster"] |= {"nodes": None, "hands": ["load", "restart"]}
    document["cluster"]["groups"] = [
        {"count": 1, "hardware": hardware},
        {"count": 3, "hardware": hardware, "hands": []},
    ]
    spec = Scenario.model_validate(document).cluster.spec()
    assert [sorted(node.hands) for node in spec.nodes] == [["load", "restart"], [], [], []]


def busy(fault: dict[str, Any]) -> Scenario:
    """With requests at every node at any time, so that each notices."""
    document = world(fault).model_dump(mode="json", by_alias=True)
    document["workload"] |= {"arrivals": {"kind": "poisson", "rate_rps": 6.0}, "duration_s": 300}
    return Scenario.model_validate(document)


@pytest.mark.parametrize("kind", ["damaged_model", "incompatible_model"])
def test_model_files_that_are_no_good_are_fetched_anew_once_a_restart_has_not_helped(kind: str) -> None:
    record = run(busy({"kind": kind, "at_s": 40, "target": "node-0"}))
    done = [(it["kind"], it["status"]) for it in rows(record, "actions") if it["kind"] in ("restart", "pull")]
    assert done == [("restart", "done"), ("pull", "done")]
    (fault,) = rows(record, "faults")
    assert fault["ended_by"] == "action"
    (incident,) = rows(record, "incidents")
    assert incident["state"] == "closed"


def test_where_the_registry_cannot_be_reached_nothing_is_mended_by_it() -> None:
    faults = [
        {"kind": "damaged_model", "at_s": 40, "target": "node-0"},
        {"kind": "registry_failure", "at_s": 30, "target": "node-0", "duration_s": 1000},
    ]
    document = busy(HANG).model_dump(mode="json", by_alias=True) | {"faults": faults}
    record = run(Scenario.model_validate(document))
    assert {it["status"] for it in rows(record, "actions") if it["kind"] == "pull"} == {"failed"}
    assert {it["kind"]: it["ended_by"] for it in rows(record, "faults")}["damaged_model"] == "teardown"


def test_what_is_only_advised_is_written_down_and_not_done() -> None:
    record = run(world({"kind": "server_crash", "at_s": 40, "target": "node-0"}, healer__mode="advise"))
    actions = rows(record, "actions")
    assert actions
    assert {it["status"] for it in actions} == {"advised"}
    assert "restart" in {it["kind"] for it in actions}
    (fault,) = rows(record, "faults")
    assert fault["ended_by"] == "teardown"
    figures = compute_figures(record)
    assert figures["actions"] == {"advised": len(actions)}
    assert figures["false_actions"] == 0


def foretold(probability: float = 0.9) -> OneForecast:
    return OneForecast(
        Forecast("node-0", "gpu_memory", probability, 300.0, 0.0, ("a staircase of GPU memory",)), 60.0, 140.0
    )


def test_a_leak_that_is_foretold_is_averted_by_a_planned_restart_that_costs_no_request() -> None:
    record = run(world(LEAK), foretold())
    (sign,) = rows(record, "signs")
    assert sign["outcome"] == "averted"
    (restart,) = [it for it in rows(record, "actions") if it["kind"] == "restart"]
    assert restart["reason"].startswith("foreseen_gpu_memory: gpu_memory within 300 s with 90%")
    assert "(a staircase of GPU memory); rejuvenate +" in restart["reason"]
    (incident,) = rows(record, "incidents")
    assert (incident["diagnosis"], incident["state"]) == ("foreseen_gpu_memory", "closed")
    assert compute_figures(record)["requests_lost"] == 0


@pytest.mark.parametrize(
    "overrides", [{"healer__predictive": False}, {"healer__proactive": False}, {"healer__probability_min": 0.95}]
)
def test_switched_off_or_not_sure_enough_it_comes(overrides: dict[str, object]) -> None:
    record = run(world(LEAK, **overrides), foretold())
    (sign,) = rows(record, "signs")
    assert sign["outcome"] == "failed"


@pytest.mark.parametrize(("of_each", "outcome"), [(0.5, "averted"), (0.4, "failed")])
def test_what_would_prevent_several_failures_is_weighed_against_all_of_them(of_each: float, outcome: str) -> None:
    class Either(OneForecast):
        """Cannot tell which of two it is."""

        def forecasts(self, now: float) -> Sequence[Forecast]:
            return [
                Forecast("node-0", failure, it.probability, it.horizon_s, it.lead_s, it.reasons)
                for it in super().forecasts(now)
                for failure in (it.failure, "host_memory")
            ]

    record = run(world(LEAK), Either(foretold(of_each).forecast, 60.0, 140.0))
    (sign,) = rows(record, "signs")
    assert sign["outcome"] == outcome
    reasons = [it["reason"] for it in rows(record, "actions") if it["kind"] == "restart" and it["time_s"] < 140.0]
    assert [("with what else it would prevent 75%" in it) for it in reasons] == [True] * (outcome == "averted")


def test_a_forecast_for_which_no_time_is_left_is_not_acted_upon() -> None:
    late = foretold()
    late.from_s = 135.0
    record = run(world(LEAK), late)
    assert not [it for it in rows(record, "actions") if it["kind"] == "restart" and it["time_s"] < 140.0]


def test_false_alarms_are_bounded_by_the_budget() -> None:
    class EverySecond(Forecaster):
        """Cries wolf, at every node in turn."""

        def forecasts(self, now: float) -> Sequence[Forecast]:
            return [Forecast(f"node-{n}", "host_memory", 0.75, 300.0, 25.0, ()) for n in range(4)]

    never = {"kind": "runner_crash", "at_s": 199, "target": "node-3"}
    record = run(world(never, healer__false_hard_actions_days_saved=3.0), EverySecond())
    # Three days of four nodes at 0.05 each: 0.6, of which each such action takes a quarter.
    assert len([it for it in rows(record, "actions") if it["kind"] == "restart" and it["time_s"] < 199.0]) == 2
    figures = compute_figures(record)
    assert figures["requests_lost"] == 0
