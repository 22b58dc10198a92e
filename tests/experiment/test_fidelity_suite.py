"""One command for all that docs/fidelity.md needs; what was made once is not made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reports.fidelity import as_markdown
from tests.scenario.documents import scenario
from twin.errors import OperatorError
from twin.experiment.fidelity_suite import CASES, SUITE, Asked, fidelity_suite
from twin.experiment.twin_world import TwinWorld
from twin.experiment.world import Progress
from twin.record.reader import RunRecord, open_run
from twin.scenario.schema import Scenario

MACHINE = {"decode_ms": [5, 6, 7, 8], "prefill_tokens_per_s": 3000, "vram_gib": 24, "load_gib_per_s": 4}


class StandIn:
    """The twin in place of live nodes: a truth that is known. It counts what it was asked to run."""

    name: Any = "live"

    def __init__(self, break_off_at: int = -1) -> None:
        self.runs: list[Path] = []
        self.break_off_at = break_off_at

    def run(self, scenario: Scenario, seed: int, folder: Path | None, progress: Progress) -> RunRecord:
        """Simulate it, as far as it goes."""
        if len(self.runs) == self.break_off_at:
            raise KeyboardInterrupt
        assert folder is not None
        self.runs.append(folder)
        return TwinWorld().run(scenario.for_live(), seed, folder, progress)


def asked() -> Scenario:
    return scenario(
        cluster__hardware=MACHINE,
        cluster__slots_per_model=4,
        workload__output_tokens={"kind": "exponential", "mean": 40},
        workload__prompt_tokens={"kind": "lognormal", "mean": 60, "cv": 1},
        record={"journal": False},
    )


@pytest.mark.long
def test_what_was_broken_off_goes_on_and_the_page_has_every_case(tmp_path: Path) -> None:
    short = Asked(seconds=46.0, repeats=2, replications=1)
    with pytest.raises(KeyboardInterrupt):
        fidelity_suite(StandIn(break_off_at=8), asked(), tmp_path, short, lambda line: None)
    rest = StandIn()
    pages: list[str] = []
    document = fidelity_suite(
        rest, asked(), tmp_path, short, lambda line: None, lambda it: pages.append(as_markdown(it, "again"))
    )
    in_a_round = 6 + len(CASES) + 3  # the calibration's, one for each case, three more policies at the hangs
    assert len(rest.runs) == 1 + 2 * in_a_round - 8
    assert document["complete"]
    assert (tmp_path / SUITE).is_file()
    assert len(pages) == len(CASES)
    assert "Not complete" in pages[0]
    assert "Not complete" not in pages[-1]
    for case in CASES:
        assert f"## {case.says}: " in pages[-1]
    assert "Kendall's tau" in pages[-1]
    rates = {case["name"]: case["rate_rps"] for case in document["cases"]}
    assert rates["load-95"] == pytest.approx(1.9 * rates["load-50"], rel=0.01)
    calm = {row["figure"]: row for row in document["cases"][0]["result"]["figures"]}
    assert abs(calm["e2e_s.mean"]["error_share"]) < 0.03


@pytest.mark.long
def test_each_round_has_a_calibration_between_its_cases_and_strikes_at_another_moment(tmp_path: Path) -> None:
    world = StandIn()
    fidelity_suite(world, asked(), tmp_path, Asked(seconds=46.0, repeats=2, replications=1), lambda line: None)
    first_round = [folder.relative_to(tmp_path).parts[0] for folder in world.runs[1:16]]
    between = [name for name, before in zip(first_round, ["", *first_round], strict=False) if name != before]
    assert between == [name for case in CASES for name in ("calibration-1", case.name)]
    struck = [
        [(fault.target, fault.at_s) for fault in Scenario.model_validate(run.manifest["scenario"]).faults]
        for run in (open_run(tmp_path / "crash" / f"live-default-{repeat}") for repeat in (1, 2))
    ]
    names = asked().cluster.node_names()
    assert [node for node, _ in struck[0]] == [names[strike % len(names)] for strike in (0, 1, 2)]
    assert [node for node, _ in struck[1]] == [names[strike % len(names)] for strike in (1, 2, 3)]
    assert struck[1][0][1] - struck[0][0][1] == pytest.approx(2.5)


def test_runs_too_short_for_a_recovery_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="at least 46"):
        fidelity_suite(StandIn(), asked(), tmp_path, Asked(seconds=20.0), lambda line: None)
