"""G02: one model by several names."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, rows
from twin.record.reader import RunRecord


def run(*, normalise: bool) -> RunRecord:
    return client_sees(
        {"kind": "model_aliases"},
        faults=[{"kind": "model_aliases", "at_s": 10, "share": 0.5, "duration_s": 40}],
        policy={"overrides": {"router.normalise_names": normalise}},
    )


def test_a_policy_that_takes_names_as_they_are_knows_no_such_model() -> None:
    turned_away = [row for row in rows(run(normalise=False)) if row["outcome"] != "succeeded"]
    assert len(turned_away) == 20
    assert {row["model"] for row in turned_away} == {"library/llama3.1:8b"}
    assert {row["outcome"] for row in turned_away} == {"rejected"}


def test_a_policy_that_knows_both_names_serves_all_from_one_count() -> None:
    served = rows(run(normalise=True))
    assert {row["outcome"] for row in served} == {"succeeded"}
    assert {row["model"] for row in served} == {"llama3.1:8b"}
