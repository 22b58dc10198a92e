"""F27: the registry cannot be used; answers go on."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.sim.test_faults import client_sees, failed_of
from twin.scenario.faults.registry_failure import RegistryFailure


@pytest.mark.parametrize(
    ("cause", "message"),
    [("name", "no such host"), ("certificate", "not yet valid"), ("clock", "not yet valid")],
)
def test_the_pull_says_why_it_failed_and_answers_go_on(cause: str, message: str) -> None:
    record = client_sees({"kind": "registry_failure", "cause": cause})
    assert failed_of(record) == set()
    (fault,) = record.table("faults").to_pylist()
    assert fault["detail"].endswith(message)


def test_a_clock_that_drifts_is_seen_beforehand_and_a_small_offset_hinders_no_pull() -> None:
    record = client_sees(
        {"kind": "registry_failure", "cause": "clock", "at_s": 40, "lead_s": 30, "clock_offset_s": 80_000},
        workload__duration_s=110,
    )
    offset_s = {row["time_s"]: row["clock_offset_s"] for row in record.table("telemetry").to_pylist()}
    assert abs(offset_s[5.0]) < 1.0
    assert 10_000 < offset_s[35.0] < 24_001 < offset_s[45.0]
    assert record.table("faults").to_pylist()[0]["detail"].endswith("pull of llama3.1:8b: success")


def test_only_a_clock_shows_beforehand() -> None:
    with pytest.raises(ValidationError, match="registry_failure by name has no signs beforehand"):
        RegistryFailure(kind="registry_failure", at_s=100, lead_s=10)
