"""F02: a request that kills whatever runner takes it."""

from __future__ import annotations

import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.sim.malfunctions import is_struck


def test_the_same_request_kills_each_runner_that_it_is_tried_on() -> None:
    _, record = simulate(
        scenario(
            cluster__nodes=6,
            cluster__models={"llama3.1:8b": {"replicas": 6}},
            workload__duration_s=120,
            faults=[{"kind": "poison_request", "at_s": 5, "share": 0.01}],
        )
    )
    attempts = [row for row in record.table("attempts").to_pylist() if row["error"] == "server_error"]
    poisonous = {row["request_id"] for row in attempts if is_struck(row["request_id"], 0.01)}
    assert poisonous
    first = min(poisonous)
    tried_on = [row["node"] for row in attempts if row["request_id"] == first]
    assert len(set(tried_on)) == len(tried_on) > 1, "carried from node to node by retries"
    (request,) = [row for row in record.table("requests").to_pylist() if row["request_id"] == first]
    assert request["outcome"] != "succeeded"
    assert {row["node"] for row in record.table("faults").to_pylist()} >= set(tried_on)


def test_a_prompt_is_always_poisonous_or_never_and_nothing_without_content_is() -> None:
    struck = sum(is_struck(number, 0.01) for number in range(1, 100_001))
    assert struck == pytest.approx(1000, abs=5)
    assert not is_struck(0, 1.0)
    assert is_struck(7, 1.0)
