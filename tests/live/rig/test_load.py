"""The load of a drill: the same requests as in the twin, from clients that behave the same."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from live.rig.live_world import LiveWorld
from live.rig.load import check_load_possible
from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.experiment.replay import replay
from twin.policy.cluster_policy import ClusterPolicy
from twin.scenario.schema import Scenario


def constant(mean_s: float) -> dict[str, Any]:
    return {"kind": "constant", "mean_s": mean_s}


def busy_clients(**changes: Any) -> Scenario:
    """Three clients with conversations; some hang up and come back."""
    return scenario(
        **{
            "workload__arrivals": {"kind": "closed_loop", "clients": 3, "think_time": constant(0.3)},
            "workload__prompt_tokens": {"kind": "lognormal", "mean": 20},
            "workload__output_tokens": {"kind": "lognormal", "mean": 60},
            "workload__sessions": {"mean_turns": 3, "think_time": constant(0.2)},
            "workload__patience": {
                "end": {"kind": "exponential", "mean_s": 1.5},
                "retries": 1,
                "retry_delay": constant(0.2),
            },
            "workload__duration_s": 6,
        }
        | changes
    )


def turns(rows: list[dict[str, Any]]) -> dict[int, list[tuple[int, bool]]]:
    """The outputs and streaming of each conversation's turns, in order, without retries."""
    found: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["arrival_s"]):
        if row["session"] and row["retry_of"] is None:
            found[row["session"]].append((row["output_tokens"], row["stream"]))
    return found


@pytest.mark.real
def test_clients_in_a_drill_ask_what_they_ask_in_the_twin(toxiproxy_server: Path) -> None:
    it = busy_clients()
    record = LiveWorld("emulated").run(it, 1, None, lambda line: None)
    live = record.table("requests").to_pylist()
    _, simulated = simulate(it, 1)
    here, there = turns(live), turns(simulated.table("requests").to_pylist())
    both = sorted(here.keys() & there.keys())
    assert len(both) >= 3
    for session in both:
        common = min(len(here[session]), len(there[session]))
        assert here[session][:common] == there[session][:common]
    assert record.manifest["not_as_in_the_twin"] == [
        "emulated nodes evaluate every prompt from its start: sessions save no prefill there"
    ]
    outcomes = [row["outcome"] for row in live]
    assert outcomes.count("succeeded") > 10
    assert outcomes.count("cancelled") > 2
    assert set(outcomes) <= {"succeeded", "cancelled"}, outcomes
    ids = {row["request_id"] for row in live}
    retries = [row for row in live if row["retry_of"] is not None]
    assert retries
    assert all(row["retry_of"] in ids for row in retries)
    assert any(row["outcome"] == "cancelled" and row["tokens_received"] > 0 for row in live), "some in mid-stream"
    assert record.manifest["invariants"] == dict.fromkeys(record.manifest["invariants"], 0)
    again = replay(record, ClusterPolicy(it.cluster.spec(), it.policy.parameters()))
    assert again.same


@pytest.mark.real
def test_a_real_node_need_not_read_a_conversation_again(ollama: Path, toxiproxy_server: Path) -> None:
    it = scenario(
        cluster__nodes=1,
        cluster__models={"llama3.1:8b": {"replicas": 1}},
        cluster__slots_per_model=1,
        workload__arrivals={"kind": "closed_loop", "clients": 1, "think_time": constant(0.1)},
        workload__prompt_tokens={"kind": "constant", "mean": 40},
        workload__output_tokens={"kind": "constant", "mean": 120},
        workload__sessions={"mean_turns": 50, "think_time": constant(0.1)},
        workload__duration_s=5,
    )
    record = LiveWorld("real").run(it, 1, None, lambda line: None)
    rows = sorted(record.table("requests").to_pylist(), key=lambda row: row["arrival_s"])
    assert [row["outcome"] for row in rows[:5]] == ["succeeded"] * 5
    assert [row["prompt_tokens"] for row in rows[:5]] == [40, 200, 360, 520, 680]
    # A prefill's time grows faster than its length (see ModelSize): to read 680 tokens takes more than 17 times as long
    # as 40.
    assert rows[4]["prompt_eval_duration_s"] < 0.5 * 17 * rows[0]["prompt_eval_duration_s"]


@pytest.mark.real
def test_a_real_node_answers_embeddings_beside_chats(ollama: Path, toxiproxy_server: Path) -> None:
    it = scenario(
        workload__prompt_tokens={"kind": "constant", "mean": 20},
        workload__output_tokens={"kind": "constant", "mean": 20},
        workload__kinds={"chat": 0.5, "embed": 0.5},
        workload__arrivals={"kind": "constant", "rate_rps": 5},
        workload__duration_s=3,
    )
    record = LiveWorld("real").run(it, 1, None, lambda line: None)
    rows = record.table("requests").to_pylist()
    assert {row["outcome"] for row in rows} == {"succeeded"}
    assert {row["output_tokens"] for row in rows} == {0, 20}


def test_an_embedding_model_beside_a_chat_model_is_loaded_and_served_by_emulated_nodes(toxiproxy_server: Path) -> None:
    it = scenario(
        cluster__nodes=1,
        cluster__models={"llama3.1:8b": {"replicas": 1}, "nomic-embed-text": {"replicas": 1}},
        workload__models={"llama3.1:8b": 1},
        workload__prompt_tokens={"kind": "constant", "mean": 20},
        workload__output_tokens={"kind": "constant", "mean": 5},
        workload__kinds={"chat": 0.5, "embed": 0.5},
        workload__embed_models={"nomic-embed-text": 1},
        workload__arrivals={"kind": "constant", "rate_rps": 5},
        workload__duration_s=3,
    )
    record = LiveWorld("emulated").run(it, 1, None, lambda line: None)
    rows = record.table("requests").to_pylist()
    assert {row["outcome"] for row in rows} == {"succeeded"}
    assert {(row["model"], row["output_tokens"]) for row in rows} == {("llama3.1:8b", 5), ("nomic-embed-text", 0)}
    assert record.table("incidents").num_rows == 0


def test_sessions_on_emulated_nodes_are_said_to_be_otherwise_than_in_the_twin() -> None:
    assert len(check_load_possible(busy_clients(), "emulated")) == 1
    assert check_load_possible(busy_clients(), "real") == []
