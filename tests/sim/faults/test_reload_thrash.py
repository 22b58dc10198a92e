"""F15: a node that loads more than it works."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, rows


@pytest.mark.parametrize("by", ["context", "models"])
def test_most_requests_pay_a_load_while_it_lasts(by: str) -> None:
    record = client_sees(
        {"kind": "reload_thrash", "by": by, "duration_s": 120, "think_s": 0.5, "clients": 4},
        workload__deadline_s=120,
        workload__duration_s=160,
        workload__arrivals={"kind": "constant", "rate_rps": 0.2},
        workload__output_tokens={"kind": "constant", "mean": 20},
    )
    during = [row for row in rows(record) if 30.0 < row["arrival_s"] < 130.0]
    before = [row for row in rows(record) if row["arrival_s"] < 20.0]
    assert {row["outcome"] for row in rows(record)} == {"succeeded"}
    assert all(row["load_duration_s"] < 1e-6 for row in before)
    assert sum(row["load_duration_s"] > 1.0 for row in during) > len(during) / 2
