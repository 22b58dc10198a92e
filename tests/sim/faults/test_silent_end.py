"""F04: a stream ends without its terminal record."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, outcomes, rows, took_s


def test_the_stream_ends_cleanly_half_way_and_the_server_stays_well() -> None:
    record = client_sees({"kind": "silent_end", "share": 1.0, "duration_s": 20})
    seen = outcomes(record)
    silent = {second for second, (_, error) in seen.items() if error.startswith("no_terminal_record")}
    assert silent == set(range(21, 41)), "those that began while it held"
    assert {seen[second][0] for second in set(seen) - silent} == {"succeeded"}
    assert all(abs(took_s(record)[second] - 1.0) < 0.02 for second in silent)
    assert {row["tokens_received"] for row in rows(record) if row["outcome"] == "failed"} == {0}, (
        "of no use to a client"
    )


def test_of_the_generations_that_share_ends_so() -> None:
    record = client_sees({"kind": "silent_end", "share": 0.25})
    silent = [second for second, (_, error) in outcomes(record).items() if error.startswith("no_terminal_record")]
    assert silent == [24, 28, 32, 36, 40, 44, 48, 52, 56]
