"""F16: a cold load that its client aborts, again and again."""

from __future__ import annotations

from tests.sim.test_faults import HARDWARE, client_sees, rows


def waits_for_load_s(patience_s: float) -> tuple[float, set[str]]:
    """The longest wait for the load of a cold model beside foreign clients of that patience; and all outcomes."""
    models = {"llama3.1:8b": {"replicas": 1}, "llama3.2:1b": {"replicas": 0}}
    record = client_sees(
        {"kind": "impatient_clients", "at_s": 0.0, "patience_s": patience_s, "clients": 4},
        cluster={"nodes": 1, "hardware": HARDWARE, "models": models, "slots_per_model": 8},
        workload__models={"llama3.1:8b": 1, "llama3.2:1b": 1},
        workload__output_tokens={"kind": "constant", "mean": 20},
    )
    cold = [row for row in rows(record) if row["model"] == "llama3.2:1b"]
    return max(row["load_duration_s"] or 0.0 for row in cold), {row["outcome"] for row in rows(record)}


def test_their_load_never_ends_and_others_wait_behind_it() -> None:
    impatient_s, outcomes = waits_for_load_s(1.5)
    assert outcomes == {"succeeded"}
    assert impatient_s > 0.7 + 0.6 + 0.5, "its own load, and what was left of theirs"


def test_patient_clients_load_it_once_and_are_in_nobodys_way_any_more() -> None:
    assert waits_for_load_s(60.0)[0] < 0.7 + 0.6 + 3.1
