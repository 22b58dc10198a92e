"""The catalogue of faults against the failure catalogue, and against what the rig can do."""

from __future__ import annotations

from twin.scenario.catalogue import FAILURE_ROWS, coverage, covered, rows
from twin.scenario.faults import FAULT_KINDS


def test_every_row_of_the_failure_catalogue_has_a_kind() -> None:
    assert len(FAILURE_ROWS) == 33
    assert covered() == set(FAILURE_ROWS), "and no kind names a row that there is not"
    assert coverage() == "33 of 33 rows of the failure catalogue are covered"


def test_a_row_says_what_parameters_a_kind_takes_and_where_it_can_be_done() -> None:
    table = {row["kind"]: row for row in rows("faults")}
    assert set(table) == set(FAULT_KINDS)
    assert table["slow_decay"]["parameters"] == "factor=4.0, ramp_s=60.0"
    assert table["runner_crash"]["live"] == (
        "real and emulated nodes: SIGKILL to the runner processes; on your own cluster by a command or the agent"
    )
    assert table["load_failure"]["live"] == "emulated nodes"
    for row in table.values():
        assert all(row[key] for key in ("what", "symptom", "precursor", "source")), row["kind"]
