"""F13: the queue of requests that need a load is full."""

from __future__ import annotations

from tests.sim.test_faults import HARDWARE, client_sees, rows


def test_what_must_be_loaded_gets_a_503_in_milliseconds_until_the_crowd_goes() -> None:
    models = {"llama3.1:8b": {"replicas": 1}, "llama3.2:1b": {"replicas": 0}}
    record = client_sees(
        {"kind": "queue_full", "at_s": 5.0, "duration_s": 25, "clients": 400},
        cluster={"nodes": 1, "hardware": HARDWARE, "models": models, "slots_per_model": 8, "max_queue": 100},
        workload__models={"llama3.1:8b": 1, "llama3.2:1b": 1},
        workload__deadline_s=20,
    )
    during = [row for row in rows(record) if row["model"] == "llama3.2:1b" and 12.0 < row["arrival_s"] < 29.0]
    assert len(during) > 5, "by then it has been evicted"
    turned_away = [row for row in during if row["error"].startswith("overloaded")]
    assert len(turned_away) > 0.8 * len(during)
    assert max(row["end_s"] - row["arrival_s"] for row in turned_away) < 0.01
    after = [row for row in rows(record) if row["arrival_s"] > 31.0]
    assert {row["outcome"] for row in after} == {"succeeded"}
