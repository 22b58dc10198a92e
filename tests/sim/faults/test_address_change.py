"""F30: the node's address changes, and the gateways keep the old one until they look it up again."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, failed_of, outcomes, took_s


def test_at_an_old_address_where_nobody_is_there_is_silence_until_the_name_is_looked_up_again() -> None:
    record = client_sees({"kind": "address_change", "duration_s": 6})
    assert failed_of(record) == set(range(19, 27))
    for second in range(19, 27):
        assert outcomes(record)[second][1].startswith("reset"), "given up with the old address"
        assert took_s(record)[second] == pytest.approx(26.5 - second)
    assert took_s(record)[27] == pytest.approx(2.001)


def test_at_an_old_address_of_another_machine_all_is_refused() -> None:
    record = client_sees({"kind": "address_change", "old_address": "refused"})
    assert {outcomes(record)[second][1].split(":")[0] for second in range(21, 51)} == {"refused"}
    assert took_s(record)[51] == pytest.approx(2.001), "looked up again after 30 s"
