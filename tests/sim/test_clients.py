"""Clients that wait for an answer before they ask again, come back with a history, lose patience, and try again."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from tests.scenario.documents import scenario
from tests.sim.test_theory import geometric_mean_of, single_queue
from tests.sim.worlds import simulate
from twin.experiment.replay import replay
from twin.experiment.twin_world import TwinWorld
from twin.experiment.verdict import interval
from twin.policy.cluster_policy import ClusterPolicy
from twin.record.figures import compute_figures
from twin.scenario.schema import Scenario

ONE_SECOND = {"kind": "constant", "mean_s": 1.0}
SLOW = {"decode_ms": [10.0], "prefill_tokens_per_s": 1000, "vram_gib": 24, "load_gib_per_s": 2}


def rows(it: Scenario, seed: int = 1) -> list[dict[str, Any]]:
    world, record = simulate(it, seed)
    assert {check.name: check.first for check in world.checkers if check.violations} == {}
    found: list[dict[str, Any]] = sorted(record.table("requests").to_pylist(), key=lambda row: row["request_id"])
    return found


# -- closed loops --------------------------------------------------------------------------------------------------


def closed_loop(clients: int, think_s: float, **changes: Any) -> Scenario:
    it = single_queue(1, [1.0], {"kind": "exponential", "mean": 500}, 1.0, **changes)
    arrivals = {
        "kind": "closed_loop",
        "clients": clients,
        "think_time": {"kind": "exponential", "mean_s": think_s},
    }
    document = it.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["workload"]["arrivals"] = arrivals
    return Scenario.model_validate(document)


def repairman(clients: int, think_s: float, service_s: float) -> tuple[float, float]:
    """Throughput and response time of M/M/1//N: the machine-repairman model."""
    weights = [math.perm(clients, n) * (service_s / think_s) ** n for n in range(clients + 1)]
    throughput = (1.0 - weights[0] / sum(weights)) / service_s
    return throughput, clients / throughput - think_s


@pytest.mark.parametrize(("clients", "think_s"), [(3, 2.0), (10, 4.0)])
def test_a_closed_loop_is_as_fast_as_the_machine_repairman_formula_says(clients: int, think_s: float) -> None:
    throughput, response_s = repairman(clients, think_s, 0.001 * geometric_mean_of(500))
    it = closed_loop(clients, think_s)
    figures = [compute_figures(simulate(it, seed)[1]) for seed in range(1, 7)]
    rate, rates = interval([each["requests_offered"] / 6000 for each in figures])
    _, times = interval([each["e2e_s"]["mean"] for each in figures])
    assert rates is not None
    assert times is not None
    assert rates[0] < throughput < rates[1]
    assert times[0] < response_s < times[1]
    assert rates[1] - rates[0] < 0.05 * rate
    assert times[1] - times[0] < 0.1 * response_s


def test_a_client_of_a_closed_loop_has_never_two_requests_at_once() -> None:
    found = rows(closed_loop(3, 0.5))
    ends = sorted([(row["arrival_s"], 1) for row in found] + [(row["end_s"], -1) for row in found])
    present = np.cumsum([step for _, step in ends])
    assert present.max() == 3


def test_what_the_clients_of_a_closed_loop_ask_does_not_depend_on_the_policy() -> None:
    def asked(preset: str) -> list[tuple[Any, ...]]:
        it = closed_loop(4, 1.0, policy={"preset": preset})
        document = it.model_dump(mode="json", by_alias=True, exclude_unset=True)
        document["workload"] |= {"sessions": {"mean_turns": 3, "think_time": ONE_SECOND}, "duration_s": 300}
        by_session: dict[int, list[int]] = defaultdict(list)
        for row in rows(Scenario.model_validate(document)):
            by_session[row["session"]].append(row["output_tokens"])
        return [tuple(by_session[session][:2]) for session in sorted(by_session) if 0 < session < 40]

    assert asked("none") == asked("default")


# -- sessions ------------------------------------------------------------------------------------------------------


def sessions(**changes: Any) -> Scenario:
    return scenario(
        **{
            "cluster__hardware": SLOW | {"decode_ms": [1.0]},
            "workload__arrivals": {"kind": "constant", "rate_rps": 0.2},
            "workload__sessions": {"mean_turns": 4, "think_time": {"kind": "constant", "mean_s": 2.0}},
            "workload__duration_s": 200,
        }
        | changes
    )


def test_a_turn_comes_a_think_time_after_the_last_and_repeats_what_was_said() -> None:
    turns: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows(sessions()):
        turns[row["session"]].append(row)
    alone = turns.pop(0, [])  # conversations of one turn
    assert len(alone) == pytest.approx(40 / 4, abs=4 * math.sqrt(40 * 3 / 16))
    assert np.mean([len(each) for each in turns.values()] + [1] * len(alone)) == pytest.approx(4, abs=2.2)
    for several in turns.values():
        for before, after in itertools.pairwise(several):
            assert after["arrival_s"] == pytest.approx(before["end_s"] + 2.0, abs=0.001)
            assert after["prompt_tokens"] == before["prompt_tokens"] + before["output_tokens"] + 100


def test_a_history_that_does_not_fit_the_context_is_dropped() -> None:
    found = rows(sessions(cluster__context_tokens=600, workload__output_tokens={"kind": "constant", "mean": 150}))
    assert max(row["prompt_tokens"] + row["output_tokens"] for row in found) <= 600
    turns: dict[int, list[int]] = defaultdict(list)
    for row in found:
        if row["session"]:
            turns[row["session"]].append(row["prompt_tokens"])
    assert any(several[:3] == [100, 350, 100] for several in turns.values())


def test_on_one_node_the_prefill_of_later_turns_is_that_of_their_new_tokens() -> None:
    """100 new tokens take 0.1 s, and another's prefill may come between; with the whole history they take 0.4 s or so."""

    def prefill_s(slots: int) -> float:
        found = rows(
            sessions(
                cluster__nodes=1,
                cluster__models={"llama3.1:8b": {"replicas": 1}},
                cluster__hardware=SLOW | {"decode_ms": [1.0], "vram_gib": 48},
                cluster__slots_per_model=slots,
            )
        )
        later = [row["prompt_eval_duration_s"] for row in found if row["prompt_tokens"] > 100]
        assert len(later) > 80
        assert min(later) > 0.0999
        return float(np.median(later))

    assert prefill_s(32) == pytest.approx(0.1, abs=1e-6), "there is a slot for everybody"
    assert prefill_s(1) > 0.2, "others take the only slot in the meantime"


def test_sessions_go_on_though_a_turn_was_lost_and_the_lost_turn_is_no_history() -> None:
    crash = {"kind": "server_crash", "at_s": 50, "target": "all", "duration_s": 20}
    found = rows(sessions(faults=[crash], policy={"preset": "none"}))
    by_session: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        if row["session"]:
            by_session[row["session"]].append(row)
    hit = 0
    for several in by_session.values():
        for before, after in itertools.pairwise(several):
            if before["outcome"] != "succeeded":
                hit += 1
                assert after["prompt_tokens"] == before["prompt_tokens"]
    assert hit > 3


# -- patience ------------------------------------------------------------------------------------------------------


def impatient(patience: dict[str, Any], **changes: Any) -> Scenario:
    """One slot; each request takes 0.1 s to its first token and 2 s in all, two come together every 10 s."""
    return scenario(
        **{
            "cluster__nodes": 1,
            "cluster__models": {"unit": {"replicas": 1, "size_gib": 5}},
            "cluster__slots_per_model": 1,
            "cluster__hardware": SLOW,
            "cluster__network": {"latency_ms": 0},
            "workload__arrivals": {"kind": "constant", "rate_rps": 0.1},
            "workload__output_tokens": {"kind": "constant", "mean": 191},
            "workload__streaming": 1.0,
            "workload__patience": patience,
            "workload__duration_s": 15,
        }
        | changes
    )


def test_a_client_hangs_up_in_mid_stream_and_has_the_tokens_that_came() -> None:
    (row,) = rows(impatient({"end": ONE_SECOND}))
    assert row["outcome"] == "cancelled"
    assert row["error"] == ""
    assert row["end_s"] == pytest.approx(11.0)
    assert row["first_token_s"] == pytest.approx(10.1)
    assert row["tokens_received"] == 91
    assert row["attempts"] == 1


def test_patience_for_the_first_token_ends_with_it_where_the_client_streams() -> None:
    assert [row["outcome"] for row in rows(impatient({"first_token": ONE_SECOND}))] == ["succeeded"]
    whole = rows(impatient({"first_token": ONE_SECOND}, workload__streaming=0.0))
    assert [row["outcome"] for row in whole] == ["cancelled"], "the answer is the first that it sees"
    hung = {"kind": "runner_hang", "at_s": 9, "target": "all"}
    frozen = rows(impatient({"first_token": ONE_SECOND}, faults=[hung], policy={"preset": "none"}))
    assert [(row["outcome"], row["tokens_received"]) for row in frozen] == [("cancelled", 0)]
    assert math.isnan(frozen[0]["first_token_s"] or math.nan)


def test_a_client_tries_again_as_often_as_it_says_and_each_try_names_the_first() -> None:
    found = rows(impatient({"end": ONE_SECOND, "retries": 2, "retry_delay": {"kind": "constant", "mean_s": 0.5}}))
    assert [row["arrival_s"] for row in found] == pytest.approx([10.0, 11.5, 13.0])
    assert [row["retry_of"] for row in found] == [None, 1, 1]
    assert {row["outcome"] for row in found} == {"cancelled"}


def test_who_waits_at_the_gateway_is_withdrawn() -> None:
    it = impatient(
        {"first_token": {"kind": "constant", "mean_s": 0.7}},
        workload__arrivals={"kind": "constant", "rate_rps": 1.0},
        workload__duration_s=3.5,
        policy={"preset": "default"},
    )
    world, record = simulate(it)
    outcomes = record.table("requests")["outcome"].to_pylist()
    assert outcomes.count("succeeded") == 2
    assert outcomes.count("cancelled") == 1
    assert world.waiting() == 0
    cancelled = next(row for row in record.table("requests").to_pylist() if row["outcome"] == "cancelled")
    assert cancelled["dispatched_s"] is None
    assert cancelled["node"] is None


def test_clients_may_come_back_after_a_failure_or_a_refusal() -> None:
    crash = {"kind": "server_crash", "at_s": 9, "target": "all", "duration_s": 3}
    patience = {"retries": 3, "retry_delay": {"kind": "constant", "mean_s": 1.5}, "retry_on": ["failed"]}
    found = rows(impatient(patience, faults=[crash], policy={"preset": "none"}))
    assert [row["outcome"] for row in found] == ["failed", "failed", "succeeded"]
    assert [row["retry_of"] for row in found] == [None, 1, 1]


def test_figures_count_the_cancelled_apart_and_a_cancellation_says_nothing_of_the_node() -> None:
    it = impatient({"end": {"kind": "exponential", "mean_s": 1.0}}, workload__duration_s=300)
    world, record = simulate(it)
    figures = compute_figures(record)
    assert figures["requests_cancelled"] > 5
    assert figures["requests_lost"] == 0
    assert figures["success_ratio"] == 1.0
    assert figures["requests_succeeded"] + figures["requests_cancelled"] == figures["requests_admitted"]
    assert figures["incidents"] == 0
    assert {check.name: check.first for check in world.checkers if check.violations} == {}


def test_a_run_with_impatient_clients_in_sessions_equals_its_replay() -> None:
    it = sessions(
        workload__patience={"end": ONE_SECOND, "first_token": {"kind": "exponential", "mean_s": 0.2}, "retries": 1},
        faults=[{"kind": "server_crash", "at_s": 50, "target": "random", "duration_s": 20}],
    )
    record = TwinWorld().run(it, 1, None, lambda line: None)
    assert record.manifest["invariants"] == dict.fromkeys(record.manifest["invariants"], 0)
    assert "cancelled" in record.table("requests")["outcome"].to_pylist()
    again = replay(record, ClusterPolicy(it.cluster.spec(), it.policy.parameters()))
    assert (again.differing, again.differences) == (0, [])


def test_without_patience_nothing_is_scheduled_for_it() -> None:
    patient = scenario()
    world, _ = simulate(patient)
    for_ever = scenario(workload__patience={"end": {"kind": "constant", "mean_s": 1000.0}})  # beyond the deadline
    other, _ = simulate(for_ever)
    assert world.engine.calls == other.engine.calls


# -- mixes ---------------------------------------------------------------------------------------------------------


def test_embeddings_end_with_their_prefill_and_an_embedding_model_has_one_slot() -> None:
    it = scenario(
        cluster__models={
            "llama3.1:8b": {"replicas": 2},
            "embedder": {"replicas": 2, "size_gib": 0.3, "embedding": True},
        },
        cluster__hardware=SLOW,
        workload__models={"llama3.1:8b": 1},
        workload__kinds={"chat": 0.5, "embed": 0.5},
        workload__embed_models={"embedder": 1},
        workload__duration_s=200,
    )
    world, record = simulate(it)
    found = record.table("requests").to_pylist()
    embeddings = [row for row in found if row["output_tokens"] == 0]
    assert len(embeddings) == pytest.approx(len(found) / 2, abs=4 * math.sqrt(len(found) / 4))
    assert {row["model"] for row in embeddings} == {"embedder"}
    assert {row["outcome"] for row in embeddings} == {"succeeded"}
    assert all(row["eval_duration_s"] == pytest.approx(0.0, abs=1e-9) for row in embeddings)
    assert not any(row["stream"] or row["tokens_received"] or row["first_token_s"] for row in embeddings)
    assert {runner.slots for runner in (node.runners["embedder"] for node in world.nodes.values())} == {1}


def test_embeddings_starve_behind_long_chats_that_hold_every_slot() -> None:
    """Row F28: the runner is idle enough, and the embedding waits for a slot all the same."""
    chats = {"kind": "constant", "mean": 1500}
    it = scenario(
        cluster__nodes=1,
        cluster__models={"llama3.1:8b": {"replicas": 1}},
        cluster__hardware=SLOW,
        workload__arrivals={"kind": "constant", "rate_rps": 0.2},
        workload__output_tokens=chats,
        workload__kinds={"chat": 0.6, "embed": 0.4},
        workload__duration_s=200,
        policy={"preset": "none"},
    )
    waits = [row["end_s"] - row["arrival_s"] for row in rows(it) if row["output_tokens"] == 0]
    assert max(waits) > 5.0
    assert min(waits) < 0.2


def test_requests_that_ask_for_another_context_make_the_node_reload() -> None:
    mixed = scenario(workload__context_tokens={"0": 0.7, "8192": 0.3}, policy={"preset": "none"})
    found = rows(mixed)
    slow = [row for row in found if (row["load_duration_s"] or 0.0) > 0.5]
    assert len(slow) > 5
    assert not any((row["load_duration_s"] or 0.0) > 0.5 for row in rows(scenario(policy={"preset": "none"})))
