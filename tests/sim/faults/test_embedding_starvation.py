"""F28: short requests wait behind the long chats of others."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, outcomes, took_s


def test_requests_of_one_token_time_out_while_the_slots_are_held() -> None:
    record = client_sees(
        {"kind": "embedding_starvation", "duration_s": 30},
        workload__output_tokens={"kind": "constant", "mean": 1},
        workload__deadline_s=5,
        workload__duration_s=70,
    )
    assert took_s(record)[15] < 0.02
    assert {outcomes(record)[second][0] for second in range(22, 45)} == {"deadline"}
    assert took_s(record)[55] < 0.02
