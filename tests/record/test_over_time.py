from __future__ import annotations

import numpy as np
import pytest

from tests.record.runs import READ, Run
from tests.reports.synthetic import crash
from twin.record.over_time import (
    Steps,
    in_system_over_time,
    latency_over_time,
    requests_over_time,
    steps_of,
    success_over_time,
    telemetry_over_time,
)
from twin.record.query import query
from twin.record.reader import RunRecord, RunUnreadable, open_run
from twin.record.recovery import success_ratios


def test_steps_are_round_and_cover_the_run() -> None:
    steps = steps_of(Run().end(simulated_s=215.0))
    assert (steps.width_s, steps.count) == (2.0, 108)
    assert steps_of(Run().end(simulated_s=50_000.0)).width_s == 600.0


def test_the_success_ratio_in_steps_is_that_of_the_steady_state() -> None:
    record = crash(requests=2000, lost=2)
    steps = Steps(2.0, 100)
    with query(record) as ask:
        rows = success_over_time(ask, steps)
    at = np.array([row["at"] for row in rows])
    exact = success_ratios(record, at)  # a step begins at a look, so that its first look is this very value
    lowest = np.array([np.nan if row["lowest"] is None else row["lowest"] for row in rows])
    known = ~np.isnan(exact)
    assert known.sum() > 90
    assert np.all(lowest[known] <= exact[known] + 1e-12)
    assert lowest[known].min() == pytest.approx(
        success_ratios(record, np.linspace(0.0, 200.0, 2001))[10:].min(), abs=2e-3
    )


def test_a_short_dip_is_not_lost_in_a_long_run() -> None:
    run = Run()
    for index in range(2000):
        run.request(index * 10.0, index * 10.0 + 1.0, outcome="failed" if index == 1000 else "succeeded")
    record = run.end(simulated_s=20_000.0, window_s=20.0)
    with query(record) as ask:
        rows = success_over_time(ask, steps_of(record))
    assert [row["lowest"] for row in rows].count(0.5) == 1
    assert all(row["lowest"] in (0.5, 1.0) for row in rows)


def test_every_request_is_counted_once_in_its_step() -> None:
    run = (
        Run()
        .request(1.0, 3.0)
        .request(1.5, 9.5, outcome="failed")
        .request(8.0, 8.0, admitted=False, outcome="rejected")
    )
    run.request(9.0, 200.0)  # ends after the run
    with query(run.end()) as ask:
        rows = requests_over_time(ask, Steps(2.0, 50))
    assert {name: sum(row[name] for row in rows) * 2.0 for name in ("arrived", "succeeded", "lost", "rejected")} == {
        "arrived": 4.0,
        "succeeded": 1.0,  # the last one came after its deadline
        "lost": 2.0,
        "rejected": 1.0,
    }
    assert rows[0]["arrived"] == 1.0 and rows[4]["lost"] == 0.5 and rows[49]["lost"] == 0.5


def test_latencies_are_quantiles_of_those_that_succeeded() -> None:
    run = Run().request(1.0, 2.0).request(1.0, 4.0).request(1.0, 30.0, outcome="failed").request(50.0, 52.0)
    with query(run.end()) as ask:
        first, second = latency_over_time(ask, Steps(5.0, 20))
    assert (first["at"], first["n"], first["e2e_p50"], first["ttft_p50"]) == (0.0, 2, 2.0, 0.25)
    assert (second["at"], second["e2e_p99"]) == (50.0, 2.0)


def test_what_waits_is_not_added_over_nodes_and_what_is_in_flight_is() -> None:
    run = Run()
    for node in ("node-0", "node-1"):
        run.recorder.telemetry.add((5.0, node, 3, 4, 1, "serving", *READ))
    with query(run.end()) as ask:
        assert in_system_over_time(ask, Steps(5.0, 20)) == [{"at": 5.0, "in_flight": 6, "waiting": 4}]


def test_telemetry_is_asked_by_column_and_an_unknown_one_is_refused() -> None:
    run = Run()
    run.recorder.telemetry.add((5.0, "node-0", 3, 4, 1, "serving", *READ))
    with query(run.end()) as ask:
        rows = telemetry_over_time(ask, Steps(5.0, 20), "node-0", "gpu_temperature_c")
        assert rows == [{"at": 5.0, "low": 0.5, "mean": 0.5, "high": 0.5}]
        with pytest.raises(KeyError):
            telemetry_over_time(ask, Steps(5.0, 20), "node-0", "1; DROP TABLE telemetry")


def test_a_file_that_is_damaged_later_is_one_clear_error(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "run"
    crash(folder)
    record: RunRecord = open_run(folder)
    (folder / "requests.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RunUnreadable, match=r"requests\.parquet"), query(record) as ask:
        requests_over_time(ask, Steps(5.0, 20))
