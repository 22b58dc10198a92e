"""Restarts and loads vary; how much is said, and drawn from streams of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.record.reader import RunRecord
from twin.sim.spread import Spread


def test_factors_have_mean_one_and_the_coefficient_of_variation_that_was_asked_for() -> None:
    spread = Spread(1, "restart:node-0", 0.5)
    factors = np.array([spread.next() for _ in range(20_000)])
    assert factors.mean() == pytest.approx(1.0, abs=4 * 0.5 / np.sqrt(len(factors)))
    assert factors.std() == pytest.approx(0.5, abs=0.03)
    assert factors.min() > 0.0


def test_the_same_name_gives_the_same_factors_and_another_node_others() -> None:
    def first(seed: int, name: str) -> list[float]:
        spread = Spread(seed, name, 0.2)
        return [spread.next() for _ in range(3)]

    assert first(1, "load:node-0") == first(1, "load:node-0")
    assert first(1, "load:node-0") != first(1, "load:node-1") != first(2, "load:node-1")
    assert [Spread(1, "load:node-0", 0.0).next()] == [1.0]


def restarts_s(**changes: Any) -> list[float]:
    faults = [{"kind": "server_crash", "at_s": at_s, "target": "node-0"} for at_s in (10, 60, 110)]
    _, record = simulate(scenario(**{"workload__duration_s": 170, "faults": faults} | changes))
    return [row["result_s"] - row["time_s"] for row in record.table("actions").to_pylist() if row["kind"] == "restart"]


def test_restarts_take_as_long_as_usual_give_or_take_and_exactly_so_where_nothing_varies() -> None:
    varied = restarts_s()
    assert len(set(varied)) == len(varied) == 3
    assert all(2.0 < each < 4.5 for each in varied)
    assert restarts_s() == varied
    assert restarts_s(cluster__restart_cv=0) == pytest.approx([3.0] * 3)


def crashed(**network: Any) -> RunRecord:
    changes = {"workload__duration_s": 60, "faults": [{"kind": "server_crash", "at_s": 20, "target": "node-0"}]}
    _, record = simulate(
        scenario(**changes, cluster__network=network, workload__arrivals={"kind": "constant", "rate_rps": 8})
    )
    return record


@pytest.mark.parametrize("latency_ms", [0.4, 30.0])
def test_news_of_a_dead_server_takes_its_way_through_the_network(latency_ms: float) -> None:
    record = crashed(latency_ms=latency_ms)
    attempts = [row for row in record.table("attempts").to_pylist() if row["node"] == "node-0"]
    broken = [row for row in attempts if row["error"] == "reset"]
    assert broken
    assert all(row["end_s"] == pytest.approx(20.0 + latency_ms / 1000.0) for row in broken), "one way"
    for row in attempts:
        if row["error"] == "refused":
            assert row["end_s"] - row["started_s"] == pytest.approx(2 * latency_ms / 1000.0), "there and back"
    refused = [row for row in record.table("probes").to_pylist() if row["error"] == "refused"]
    assert refused
    assert all(row["latency_s"] == pytest.approx(2 * latency_ms / 1000.0) for row in refused)
    (incident,) = record.table("incidents").to_pylist()
    assert incident["opened_s"] > 20.0, "a crash on a busy node is not detected at the moment it happens"
