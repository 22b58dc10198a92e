"""F01: a load takes more GPU memory than was predicted."""

from __future__ import annotations

from tests.sim.test_faults import LOAD_S, client_sees, outcomes, took_s

SHORT = {"kind": "constant", "mean": 50}


def test_loads_die_half_way_while_memory_is_short_and_work_when_the_neighbour_is_gone() -> None:
    record = client_sees(
        {"kind": "load_out_of_memory", "duration_s": 20}, workload__output_tokens=SHORT, cluster__context_tokens=4096
    )
    seen = outcomes(record)
    assert {seen[second][0] for second in range(1, 20)} == {"succeeded"}
    assert {seen[second][1].split(":")[0] for second in range(21, 34)} == {"server_error"}
    assert took_s(record)[21] >= LOAD_S / 2.0
    assert {seen[second][0] for second in range(45, 60)} == {"succeeded"}
    (fault,) = record.table("faults").to_pylist()
    assert 21.0 <= fault["injected_s"] <= 21.6, "when the first load began that could not end"


def test_with_room_to_spare_the_same_prediction_does_no_harm() -> None:
    record = client_sees(
        {"kind": "load_out_of_memory", "taken_share": 0.3}, workload__output_tokens=SHORT, cluster__context_tokens=4096
    )
    assert {outcome for outcome, _ in outcomes(record).values()} == {"succeeded"}
    assert record.table("faults").num_rows == 0
