"""The catalogue of faults against the failure catalogue, and against what the rig can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from twin.scenario.catalogue import FAILURE_ROWS, coverage, covered, proof, rows
from twin.scenario.faults import FAULT_KINDS


def test_every_row_of_the_failure_catalogue_has_a_kind() -> None:
    assert len(FAILURE_ROWS) == 33
    assert covered() == set(FAILURE_ROWS), "and no kind names a row that there is not"
    kinds = len(FAULT_KINDS)
    assert coverage() == f"33 of 33 rows of the failure catalogue are covered; {kinds} of {kinds} kinds have a test"


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


@pytest.mark.parametrize("kind", list(FAULT_KINDS))
def test_every_kind_has_its_test(kind: str) -> None:
    path, _, name = proof(kind).partition("::")
    assert path, f"there is no tests/sim/faults/test_{kind}.py"
    text = (Path(__file__).parents[2] / path).read_text(encoding="utf-8")
    assert f"def {name or 'test_'}" in text
    assert FAULT_KINDS[kind].about.identifier in text or f'"{kind}"' in text, "and it is of that kind"


@pytest.mark.parametrize("kind", list(FAULT_KINDS))
def test_a_precursor_is_shown_beforehand_or_the_text_says_that_it_is_not(kind: str) -> None:
    fault = FAULT_KINDS[kind]
    said_not_to_show = fault.about.precursor.startswith(("none", "only while it lasts", "only once it is there"))
    assert said_not_to_show != fault.has_signs()
