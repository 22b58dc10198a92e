"""Each fault kind does what its row in the catalogue says: seen by clients without any policy in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import restart_at, simulate
from twin.record.reader import RunRecord
from twin.scenario.faults import FAULT_KINDS
from twin.sim.memory import RECOVERY_LIMIT_S

HARDWARE = {
    "decode_ms": [10.0],
    "prefill_tokens_per_s": None,
    "vram_gib": 24,
    "load_gib_per_s": 2.0,
    "runner_start_s": 0.7,
}
LOAD_S = 3.0  # 4.6 GiB


def client_sees(fault: dict[str, Any], seed: int = 1, **changes: Any) -> RunRecord:
    """One node, a request of 2 s each 1 s, no policy: what a client would see of that node."""
    settings: dict[str, Any] = {
        "cluster": {
            "nodes": 1,
            "hardware": HARDWARE,
            "models": {"llama3.1:8b": {"replicas": 1}},
            "slots_per_model": 4,
            "network": {"latency_ms": 0.5},
            "restart_s": 3.0,
            "restart_cv": 0,  # times are what the tests say
            "load_cv": 0,
        },
        "workload__arrivals": {"kind": "constant", "rate_rps": 1.0},
        "workload__output_tokens": {"kind": "constant", "mean": 200},
        "workload__duration_s": 60,
        "policy": {"preset": "none"},
        "faults": [{"at_s": 20.5, "target": "node-0", **fault}],
    }
    return simulate(scenario(**(settings | changes)), seed)[1]


def test_a_fault_can_wait_for_the_midst_of_an_answer() -> None:
    short = {"workload__output_tokens": {"kind": "constant", "mean": 30}}  # 0.3 s of each second
    fault = {"kind": "runner_crash", "at_s": 20.8, "in_answer": True}
    record = client_sees(fault, **short)
    [struck] = record.table("faults").to_pylist()
    [broken] = record.table("attempts").to_pylist()
    assert struck["injected_s"] == pytest.approx(21.01)  # the first moment of the next answer: it is looked every 10 ms
    assert (broken["error"], broken["end_s"], broken["tokens"]) == ("error_record", pytest.approx(21.01, abs=0.01), 1)
    assert client_sees({**fault, "in_answer": False}, **short).table("attempts").num_rows == 0


def test_where_no_answer_comes_any_more_it_does_not_strike() -> None:
    fault = {"kind": "runner_crash", "at_s": 20.8, "in_answer": True}
    record = client_sees(fault, workload__arrivals={"kind": "constant", "rate_rps": 0.001})
    assert record.table("faults").num_rows == 0


def test_who_waits_for_an_answer_comes_without_a_sign() -> None:
    fault = {"kind": "vram_leak", "at_s": 20.8, "in_answer": True, "lead_s": 10}
    with pytest.raises(ValueError, match="in_answer is for nodes that are struck without a sign"):
        scenario(faults=[fault])


def rows(record: RunRecord) -> list[dict[str, Any]]:
    return sorted(record.table("requests").to_pylist(), key=lambda row: row["arrival_s"])


def outcomes(record: RunRecord) -> dict[int, tuple[str, str]]:
    """By second of arrival: outcome and error."""
    return {round(row["arrival_s"]): (row["outcome"], row["error"]) for row in rows(record)}


def took_s(record: RunRecord) -> dict[int, float]:
    return {round(row["arrival_s"]): row["end_s"] - row["arrival_s"] for row in rows(record)}


def failed_of(record: RunRecord) -> set[int]:
    return {second for second, (outcome, _) in outcomes(record).items() if outcome != "succeeded"}


def test_every_kind_has_a_test_here_or_a_file_of_its_own() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    files = {path.stem.removeprefix("test_") for path in (Path(__file__).parent / "faults").glob("test_*.py")}
    for kind in FAULT_KINDS:
        assert kind in files or any(name.startswith(kind) for name in tested), kind


def test_without_a_fault_everything_is_served_in_its_time() -> None:
    record = client_sees({"kind": "runner_crash", "at_s": 59.9}, workload__duration_s=60)
    before = [second for second in took_s(record) if second < 57]
    assert all(took_s(record)[second] == pytest.approx(2.001) for second in before)


def test_server_crash_breaks_streams_then_refuses_and_comes_back_cold() -> None:
    record = client_sees({"kind": "server_crash", "duration_s": 10})
    seen = outcomes(record)
    assert {second for second, it in seen.items() if it[1].startswith("reset")} == {19, 20}
    assert {second for second, it in seen.items() if it[1].startswith("refused")} == set(range(21, 31))
    assert failed_of(record) == set(range(19, 31))
    assert took_s(record)[31] == pytest.approx(LOAD_S + 2.0, abs=0.01), "the first one pays the load"
    assert took_s(record)[40] == pytest.approx(2.001)


def test_runner_crash_breaks_streams_once_and_the_next_request_pays_a_load() -> None:
    record = client_sees({"kind": "runner_crash"})
    assert failed_of(record) == {19, 20}
    assert {outcomes(record)[second][1].split(":")[0] for second in (19, 20)} == {"error_record"}
    assert took_s(record)[21] == pytest.approx(RECOVERY_LIMIT_S + LOAD_S + 2.0, abs=0.01)
    assert took_s(record)[45] == pytest.approx(2.001)


def test_runner_crash_loop_goes_on_until_its_end() -> None:
    record = client_sees({"kind": "runner_crash_loop", "period_s": 1.0, "duration_s": 10})
    failed = failed_of(record)
    assert failed == set(range(19, 30)) | ({30} & failed)
    errors = {outcomes(record)[second][1].split(":")[0] for second in failed}
    assert errors == {"error_record", "server_error"}, "after the first token, and before it while the model is loaded"
    assert outcomes(record)[32][0] == "succeeded"


def test_runner_hang_is_silence_until_it_goes_on() -> None:
    record = client_sees({"kind": "runner_hang", "duration_s": 12})
    assert failed_of(record) == set(), "nobody was in the way, and it ended within the deadline"
    assert took_s(record)[19] == pytest.approx(2.0 + 12.0, abs=0.01)
    assert took_s(record)[20] == pytest.approx(2.0 + 12.0, abs=0.01)
    assert took_s(record)[25] > 7.5 + 2.0
    forever = client_sees({"kind": "runner_hang"})
    assert {outcomes(forever)[second] for second in range(19, 60)} == {("deadline", "deadline")}


def test_partition_is_silence_and_what_was_made_meanwhile_comes_out_at_the_end() -> None:
    record = client_sees({"kind": "partition", "duration_s": 12})
    seen = outcomes(record)
    assert took_s(record)[19] == pytest.approx(32.5 - 19, abs=0.01), "made in time, delivered when the path was mended"
    assert took_s(record)[20] == pytest.approx(32.5 - 20, abs=0.01)
    assert {seen[second] for second in range(21, 33)} == {("deadline", "deadline")}, "these never got there"
    assert took_s(record)[40] == pytest.approx(2.001)


def test_partition_lets_no_token_through_that_was_made_behind_it() -> None:
    record = client_sees(
        {"kind": "partition", "at_s": 20.005, "duration_s": 30}, policy={"preset": "default"}, cluster__nodes=2
    )
    cut_off = [row for row in record.table("attempts").to_pylist() if row["error"]]
    assert cut_off
    for row in cut_off:
        began_before = row["first_token_s"] is not None and row["first_token_s"] <= 20.005
        assert (row["tokens"] > 0) == began_before, row


def test_slow_network_adds_its_round_trip_and_nothing_else() -> None:
    record = client_sees({"kind": "slow_network", "latency_ms": 400.0, "duration_s": 20})
    assert failed_of(record) == set()
    assert took_s(record)[30] == pytest.approx(2.0 + 0.801, abs=0.001)
    assert {round(row["first_token_s"] - row["arrival_s"], 3) for row in rows(record)[24:38]} == {0.811}
    assert took_s(record)[45] == pytest.approx(2.001)


def test_scheduler_deadlock_hangs_only_what_must_be_loaded_and_only_a_restart_ends_it() -> None:
    models = {"llama3.1:8b": {"replicas": 1}, "llama3.2:1b": {"replicas": 0}}
    record = client_sees(
        {"kind": "scheduler_deadlock", "at_s": 0.0, "duration_s": 40},
        cluster={"nodes": 1, "hardware": HARDWARE, "models": models, "slots_per_model": 8},
        workload__models={"llama3.1:8b": 1, "llama3.2:1b": 1},
        workload__deadline_s=20,
    )
    by_model: dict[str, set[str]] = {"llama3.1:8b": set(), "llama3.2:1b": set()}
    for row in rows(record):
        if row["arrival_s"] < 19:
            by_model[row["model"]].add(row["outcome"])
    assert by_model == {"llama3.1:8b": {"succeeded"}, "llama3.2:1b": {"deadline"}}
    late = [row for row in rows(record) if row["arrival_s"] > 41 and row["model"] == "llama3.2:1b"]
    assert late
    assert {row["outcome"] for row in late} == {"succeeded"}


def test_slow_decay_gets_slower_and_slower_without_any_error() -> None:
    record = client_sees({"kind": "slow_decay", "at_s": 5.0, "factor": 4.0, "ramp_s": 20.0, "duration_s": 40})
    assert failed_of(record) == set()
    seconds = took_s(record)
    assert seconds[2] == pytest.approx(2.001)
    assert seconds[2] < seconds[8] < seconds[14] < seconds[20]
    assert seconds[30] > 7.0
    assert seconds[59] == pytest.approx(2.001, abs=0.7), "it is over"


def test_a_fault_is_recorded_with_what_was_really_done() -> None:
    record = client_sees({"kind": "runner_crash_loop", "period_s": 1.0, "duration_s": 3})
    (fault,) = record.table("faults").to_pylist()
    assert (fault["kind"], fault["node"], fault["injected_s"]) == ("runner_crash_loop", "node-0", 20.5)
    assert (fault["planned_end_s"], fault["ended_s"], fault["ended_by"]) == (23.5, 23.5, "schedule")


UNNOTICED = {"gibberish"}
"""Kinds that a restart ends, and that the default policy does not repair so far."""
IN_THE_PROCESS = {kind for kind, fault in FAULT_KINDS.items() if fault.about.ended_by_restart}


@pytest.mark.parametrize("kind", sorted(UNNOTICED))
def test_a_restart_by_an_operator_ends_what_lives_in_the_process(kind: str) -> None:
    document = scenario(faults=[{"kind": kind, "at_s": 10, "target": "node-0"}])
    _, record = simulate(document, prepare=restart_at(20.0, "node-0"))
    (fault,) = record.table("faults").to_pylist()
    assert (fault["ended_by"], fault["ended_s"]) == ("action", 20.0)


@pytest.mark.parametrize("kind", sorted(IN_THE_PROCESS - UNNOTICED))
def test_a_restart_by_the_policy_ends_what_lives_in_the_process(kind: str) -> None:
    changes: dict[str, Any] = {
        "cluster__nodes": 2,
        "cluster__restart_cv": 0,
        "workload__duration_s": 120,
        "faults": [{"kind": kind, "at_s": 10, "target": "node-0"}],
    }
    if kind == "scheduler_deadlock":
        changes["cluster__models"] = {"llama3.1:8b": {"replicas": 2}, "llama3.2:1b": {"replicas": 0}}
        changes["policy"] = {"overrides": {"probes.load_path_model": "llama3.2:1b"}}
    if kind == "slow_decay":
        changes["faults"][0] |= {"at_s": 40, "factor": 6.0, "ramp_s": 5.0}
    if kind == "cpu_offload":
        changes["cluster__hardware"] = HARDWARE | {"vram_gib": 8}
        changes["faults"][0] |= {"at_s": 40}
    _, record = simulate(scenario(**changes))
    (fault,) = record.table("faults").to_pylist()
    restarts = [a for a in record.table("actions").to_pylist() if a["kind"] == "restart"]
    assert [a["node"] for a in restarts] == ["node-0"]
    assert fault["ended_by"] == "action"
    until_the_server_is_back_s = 0.0 if FAULT_KINDS[kind].about.ended_by_reload else 3.0
    assert fault["ended_s"] == restarts[0]["time_s"] + until_the_server_is_back_s
