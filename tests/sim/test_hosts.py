"""Nodes on one host share its processor; the time of the server itself comes before everything else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.documents import scenario
from twin.experiment.twin_world import TwinWorld
from twin.record.figures import compute_figures

STEADY = {"decode_ms": [20.0], "prefill_tokens_per_s": None, "vram_gib": 24, "load_gib_per_s": 2}


def figures(**changes: Any) -> dict[str, Any]:
    """Two nodes with one slot each; every request has 50 tokens, so a second of work."""
    asked: dict[str, Any] = {
        "cluster__hardware": STEADY,
        "cluster__slots_per_model": 1,
        "cluster__network": {"latency_ms": 0},
        "workload__arrivals": {"kind": "constant", "rate_rps": 1.0},
        "workload__output_tokens": {"kind": "constant", "mean": 50},
        "policy": {"preset": "none"},
        "record": {"journal": False},
    }
    record = TwinWorld().run(scenario(**(asked | changes)), 1, None, lambda line: None)
    return compute_figures(record)


def test_two_nodes_that_work_at_once_on_one_processor_take_twice_as_long() -> None:
    busy = {"kind": "closed_loop", "clients": 2, "think_time": {"kind": "constant", "mean_s": 0.001}}
    apart = figures(workload__arrivals=busy)
    shared = figures(workload__arrivals=busy, cluster__hosts={"nodes_each": 2, "room": 1})
    assert apart["e2e_s"]["p50"] == pytest.approx(1.0, rel=0.01)
    assert shared["e2e_s"]["p50"] == pytest.approx(2.0, rel=0.01)


def test_a_node_that_works_alone_on_a_shared_processor_has_all_of_it() -> None:
    slow = {"kind": "constant", "rate_rps": 0.5}
    assert figures(workload__arrivals=slow, cluster__hosts={"nodes_each": 2, "room": 1})["e2e_s"][
        "p50"
    ] == pytest.approx(1.0, rel=0.01)


def test_the_servers_own_time_is_added_to_every_request() -> None:
    slow = {"kind": "constant", "rate_rps": 0.5}
    plain = figures(workload__arrivals=slow)["ttft_s"]["p50"]
    served = figures(workload__arrivals=slow, cluster__hardware=STEADY | {"server_ms": 250})["ttft_s"]["p50"]
    assert served - plain == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize("fault", ["server_crash", "runner_crash", "runner_hang"])
def test_requests_in_the_servers_hands_end_once_whatever_breaks(fault: str) -> None:
    it = scenario(
        cluster__hardware=STEADY | {"server_ms": 900},
        workload__arrivals={"kind": "poisson", "rate_rps": 3.0},
        faults=[
            {"kind": fault, "at_s": 10, "target": "node-0", **({} if fault == "runner_crash" else {"duration_s": 5})}
        ],
        cluster__hosts={"nodes_each": 2, "room": 1},
    )
    record = TwinWorld().run(it, 3, None, lambda line: None)
    assert set(record.manifest["invariants"].values()) == {0}
    assert record.manifest["rows"]["requests"] > 80


def test_a_prompt_under_evaluation_takes_longer_once_a_neighbour_works_as_well() -> None:
    """Two prompts of a second each, the second half a second later: the first has half a second alone and shares one."""
    asked: dict[str, Any] = {
        "cluster__hardware": STEADY | {"prefill_tokens_per_s": 1000},
        "workload__prompt_tokens": {"kind": "constant", "mean": 1000},
        "workload__output_tokens": {"kind": "constant", "mean": 1},
        "workload__arrivals": {"kind": "constant", "rate_rps": 2.0},
        "workload__duration_s": 1.2,
        "workload__warmup_s": 0,
    }
    shared = figures(**asked, cluster__hosts={"nodes_each": 2, "room": 1})
    assert shared["requests_succeeded"] == 2
    assert shared["ttft_s"]["mean"] == pytest.approx(1.5, rel=0.02)
    assert figures(**asked)["ttft_s"]["mean"] == pytest.approx(1.0, rel=0.02)


def test_the_servers_own_time_varies_by_its_spread_and_keeps_its_mean() -> None:
    busy = {"workload__arrivals": {"kind": "constant", "rate_rps": 0.9}, "workload__duration_s": 600}
    plain = figures(**busy)["ttft_s"]
    varied = figures(**busy, cluster__hardware=STEADY | {"server_ms": 40, "server_cv": 0.5})["ttft_s"]
    assert varied["mean"] - plain["mean"] == pytest.approx(0.040, rel=0.08)
    assert varied["p95"] - plain["p95"] == pytest.approx(0.076, rel=0.15)  # of a lognormal with that mean and spread


def test_a_request_waits_to_join_a_batch_at_work_and_no_idle_runner() -> None:
    two: dict[str, Any] = {
        "cluster__nodes": 1,
        "cluster__models": {"llama3.1:8b": {"replicas": 1}},
        "cluster__slots_per_model": 2,
        "workload__arrivals": {"kind": "constant", "rate_rps": 4.0},
        "workload__warmup_s": 0,
        "workload__duration_s": 0.6,
    }
    plain = figures(**two)
    joining = figures(**two, cluster__hardware=STEADY | {"joining_ms": 100, "joining_steps": 5})
    assert plain["requests_succeeded"] == joining["requests_succeeded"] == 2
    # The second one alone waits: 100 ms and 5 steps of 20 ms; the mean is over both.
    assert joining["ttft_s"]["mean"] - plain["ttft_s"]["mean"] == pytest.approx(0.1, abs=0.011)
