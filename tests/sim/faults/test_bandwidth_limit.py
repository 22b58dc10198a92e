"""F30: a link that carries only so much."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, failed_of, rows, took_s
from twin.record.reader import RunRecord
from twin.sim.traffic import MESSAGE_BYTES, PROMPT_TOKEN_BYTES, TOKEN_BYTES

ANSWER_BYTES = 200 * TOKEN_BYTES + MESSAGE_BYTES


def alone(kb_per_s: float) -> RunRecord:
    """One request at a time: 100 tokens of prompt, 200 of answer, a request each 50 s."""
    return client_sees(
        {"kind": "bandwidth_limit", "kb_per_s": kb_per_s, "at_s": 0},
        workload__arrivals={"kind": "constant", "rate_rps": 0.02},
        workload__duration_s=100,
        workload__deadline_s=300,
    )


def test_a_link_of_1_kb_per_s_stretches_prompt_first_token_and_stream() -> None:
    (row, *_) = rows(alone(1.0))
    up_s = (MESSAGE_BYTES + 100 * PROMPT_TOKEN_BYTES) / 1000
    assert up_s == 0.9
    assert row["first_token_s"] - row["arrival_s"] == pytest.approx(up_s + 0.001 + 0.010 + TOKEN_BYTES / 1000, abs=1e-3)
    assert row["end_s"] - row["arrival_s"] == pytest.approx(up_s + 0.001 + 0.010 + ANSWER_BYTES / 1000, abs=1e-3)
    assert row["eval_duration_s"] == pytest.approx(1.99), "by its own timings the node is as fast as ever"


def test_a_link_that_is_wider_than_the_stream_costs_no_more_than_the_last_bytes() -> None:
    (row, *_) = rows(alone(100.0))
    assert row["end_s"] - row["arrival_s"] == pytest.approx(2.001 + 0.009, abs=0.006)


def test_streams_share_the_link_and_all_end_when_it_has_carried_them() -> None:
    # 40.5 kB each, one a second over 50 kB/s: 81 % of the link; over 30 kB/s they pile up.
    record = client_sees({"kind": "bandwidth_limit", "kb_per_s": 50.0, "at_s": 0}, workload__deadline_s=300)
    assert max(took_s(record).values()) < 6.0
    record = client_sees({"kind": "bandwidth_limit", "kb_per_s": 30.0, "at_s": 0}, workload__deadline_s=300)
    last_s = max(row["end_s"] for row in rows(record))
    assert last_s == pytest.approx(1.0 + 59 * ANSWER_BYTES / 30_000, rel=0.02), "the link was busy all the time"


def test_a_stream_that_is_under_way_slows_down_and_all_is_well_at_the_end_of_the_fault() -> None:
    record = client_sees({"kind": "bandwidth_limit", "kb_per_s": 10.0, "duration_s": 15})
    assert failed_of(record) == set()
    # Request 19 has 150 tokens by 20.5; 50 are left, 10.5 kB, shared with the next ones.
    assert 19 + took_s(record)[19] > 20.5 + 10.5 / 10
    assert took_s(record)[25] == pytest.approx(35.5 - 25, abs=0.001), "what had piled up comes at once"
    assert took_s(record)[40] == pytest.approx(2.001)


def test_what_was_given_up_has_the_tokens_that_got_through() -> None:
    record = client_sees(
        {"kind": "bandwidth_limit", "kb_per_s": 1.0, "at_s": 0},
        workload__arrivals={"kind": "constant", "rate_rps": 0.02},
        workload__duration_s=100,
        workload__deadline_s=11.111,
    )
    (attempt, *_) = record.table("attempts").to_pylist()
    assert attempt["error"] == "deadline"
    assert attempt["tokens"] == (11.111 - 0.911) * 1000 // TOKEN_BYTES
