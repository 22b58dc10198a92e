"""F14: foreign clients fill a node's slots past the gateway."""

from __future__ import annotations

import statistics
from typing import Any

from tests.sim.test_faults import client_sees, outcomes, rows


def hidden_wait_s(row: dict[str, Any]) -> float:
    parts = ("load_duration_s", "prompt_eval_duration_s", "eval_duration_s")
    return float(row["total_duration_s"]) - sum(float(row[part]) for part in parts)


def test_no_error_only_a_wait_inside_the_node_that_ollamas_timings_give_away() -> None:
    record = client_sees({"kind": "foreign_load", "duration_s": 20}, workload__deadline_s=120)
    assert {outcome for outcome, _ in outcomes(record).values()} == {"succeeded"}
    during = [row for row in rows(record) if 25.0 < row["arrival_s"] < 38.0]
    before = [row for row in rows(record) if row["arrival_s"] < 18.0]
    assert statistics.median(hidden_wait_s(row) for row in before) < 1e-6
    assert statistics.median(hidden_wait_s(row) for row in during) > 2.0
    for row in during:
        assert row["first_token_s"] - row["arrival_s"] >= hidden_wait_s(row)
    after = [row for row in rows(record) if row["arrival_s"] > 57.0]
    assert max(hidden_wait_s(row) for row in after) < 1e-6, "they are gone"


def test_the_same_seed_gives_the_same_crowd_and_another_seed_another() -> None:
    def ends(seed: int) -> list[float]:
        return [row["end_s"] for row in rows(client_sees({"kind": "foreign_load", "duration_s": 20}, seed))]

    assert ends(1) == ends(1)
    assert ends(1) != ends(2)
