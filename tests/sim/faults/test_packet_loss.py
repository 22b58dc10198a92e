"""F30: lost packets are sent again, late."""

from __future__ import annotations

import pytest

from tests.sim.test_faults import client_sees, failed_of, rows

RTO_S = 0.001 + 0.2


def test_light_loss_delays_some_answers_by_a_retransmission_and_loses_none() -> None:
    record = client_sees({"kind": "packet_loss", "loss": 0.1, "at_s": 0}, workload__duration_s=200)
    assert failed_of(record) == set()
    late = [row["first_token_s"] - row["arrival_s"] - 0.011 for row in rows(record)]
    on_time = [delay_s for delay_s in late if delay_s == pytest.approx(0.0, abs=1e-6)]
    assert len(on_time) / len(late) == pytest.approx(0.9**2, abs=0.08), "a prompt of one segment, and the first token"
    steps = {round(delay_s / RTO_S, 6) for delay_s in late if delay_s > 1e-6}
    assert 1.0 in steps
    assert all(step == int(step) for step in steps), "each delay is made of whole timeouts"


def test_heavy_loss_stalls_streams_until_the_route_gives_them_up() -> None:
    record = client_sees(
        {"kind": "packet_loss", "loss": 0.6, "at_s": 0, "target": "node-0"},
        policy={"preset": "default", "overrides": {"probes.enabled": False}},
        cluster__nodes=2,
        cluster__models={"llama3.1:8b": {"replicas": 2}},
    )
    errors = {row["error"] for row in record.table("attempts").to_pylist() if row["node"] == "node-0"}
    assert "stall_timeout" in errors
    assert {row["node"] for row in record.table("attempts").to_pylist()} == {"node-0"}


def test_the_losses_of_a_path_do_not_depend_on_other_paths() -> None:
    def delays(loss_elsewhere: float) -> list[float]:
        faults = [
            {"kind": "packet_loss", "loss": 0.3, "at_s": 0, "target": "node-0"},
            {"kind": "packet_loss", "loss": loss_elsewhere, "at_s": 0, "target": "node-1"},
        ]
        record = client_sees(
            {"kind": "partition"}, cluster__nodes=2, cluster__models={"llama3.1:8b": {"replicas": 2}}, faults=faults
        )
        return [row["end_s"] - row["arrival_s"] for row in rows(record) if row["node"] == "node-0"]

    assert delays(0.1) == delays(0.5)
