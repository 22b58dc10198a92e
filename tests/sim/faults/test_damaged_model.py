"""F24: damaged model files, and a node that fails fast."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, outcomes, rows, took_s
from twin.policy.vocabulary import AttemptError


@pytest.mark.parametrize(("how", "error"), [("truncated", "server_error"), ("missing", "client_error")])
def test_every_request_is_refused_in_two_milliseconds(how: str, error: AttemptError) -> None:
    record = client_sees({"kind": "damaged_model", "how": how, "duration_s": 10})
    seen, seconds = outcomes(record), took_s(record)
    assert {seen[second][1].split(":")[0] for second in range(21, 31)} == {error}
    assert all(seconds[second] < 0.004 for second in range(21, 31))
    assert seen[31][0] == "succeeded", "the files are whole again"


def test_a_model_that_is_loaded_goes_on_until_it_is_let_go() -> None:
    record = client_sees(
        {"kind": "damaged_model"},
        faults=[
            {"kind": "damaged_model", "at_s": 10, "target": "node-0", "shows_at_once": False},
            {"kind": "runner_crash", "at_s": 30.5, "target": "node-0"},
        ],
    )
    failed = [round(row["arrival_s"]) for row in rows(record) if row["outcome"] != "succeeded"]
    assert failed == list(range(29, 60))


def test_a_node_that_fails_fast_draws_the_traffic_of_its_peers_under_least_busy_routing() -> None:
    record = client_sees(
        {"kind": "damaged_model", "at_s": 5},
        cluster__nodes=4,
        workload__arrivals={"kind": "constant", "rate_rps": 6.0},
        policy={"preset": "none", "overrides": {"router.kind": "least_busy"}},
    )
    late = [row for row in rows(record) if row["arrival_s"] > 10]
    assert sum(row["node"] == "node-0" for row in late) / len(late) > 0.4, "of four nodes it gets more than its quarter"
