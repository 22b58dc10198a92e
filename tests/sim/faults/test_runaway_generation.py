"""F23: generations that never end."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, rows, took_s
from tests.sim.worlds import NodeBench


def test_a_runaway_holds_its_slot_until_its_client_goes_away() -> None:
    record = client_sees(
        {"kind": "runaway_generation", "share": 0.2, "duration_s": 10}, workload__deadline_s=30, workload__duration_s=60
    )
    failed = [row for row in rows(record) if row["outcome"] != "succeeded"]
    assert [(round(row["arrival_s"]), row["outcome"]) for row in failed] == [(25, "deadline"), (30, "deadline")]
    assert all(row["tokens_received"] > 5 * 200 for row in failed), "tokens came all the time, far more than usual"
    assert all(row["answer"] is None for row in failed)
    assert took_s(record)[40] == pytest.approx(2.001)


def test_when_every_slot_has_one_nothing_is_served_any_more() -> None:
    record = client_sees({"kind": "runaway_generation", "share": 1.0}, workload__deadline_s=30)
    assert {row["outcome"] for row in rows(record) if row["arrival_s"] > 21} == {"deadline"}
    waited = next(row for row in rows(record) if round(row["arrival_s"]) == 30)
    assert waited["first_token_s"] - waited["arrival_s"] > 15, "all four slots are held until their clients go away"


def test_who_asks_for_one_token_gets_one() -> None:
    bench = NodeBench()
    bench.node.add_runner("a")
    bench.node.conditions.set("fault", "runaway_share", 1.0)
    bench.node.conditions_changed()
    bench.ask(1.0, "probe", "a", tokens=1)
    bench.ask(2.0, "answer", "a", tokens=10)
    ended = bench.run(until_s=100.0)
    assert ended == {"probe": (1.01, "")}
