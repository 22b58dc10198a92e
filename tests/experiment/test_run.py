"""Replications, their folders, what is printed of them; and what an interruption leaves."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from tests.record.runs import Run
from tests.scenario.documents import scenario
from twin.errors import OperatorError
from twin.experiment import twin_world
from twin.experiment.run import REPLAY_INVARIANT, SUMMARY, combine, run_scenario
from twin.experiment.twin_world import TwinWorld
from twin.experiment.world import Progress, WorldName, scenario_digest
from twin.record.names import FIGURES
from twin.record.reader import RunRecord, open_run, record_digest
from twin.scenario.schema import Scenario

EXPECT = {"requests_lost": {"max": 0}}


class ScriptedWorld:
    """Serves five requests; loses as many as the seed says; may be interrupted, or violate an invariant."""

    name: WorldName = "twin"

    def __init__(self, interrupted_at: int = 10**9, full_at: int = 10**9, **manifest: Any) -> None:
        self.interrupted_at = interrupted_at
        self.full_at = full_at
        self.manifest = manifest
        self.seeds: list[int] = []

    def run(self, scenario: Scenario, seed: int, folder: Path | None, progress: Progress) -> RunRecord:
        if seed >= self.interrupted_at:
            raise KeyboardInterrupt
        if seed >= self.full_at:
            raise OSError(errno.ENOSPC, "Error writing bytes to file")
        self.seeds.append(seed)
        run = Run(folder).every(1.0, 1.0, 5.0)
        for number in range(seed % 10 if self.manifest.get("lossy") else 0):
            run.request(10.0 + number, 11.0 + number, outcome="failed", error="reset")
        return run.end(**{"seed": seed} | {key: value for key, value in self.manifest.items() if key != "lossy"})


def silent(_line: str) -> None:
    pass


def small(**changes: Any) -> Scenario:
    return scenario(**{"expect": EXPECT, "record": {"journal": False}, "replications": 3, "seed": 40} | changes)


def test_each_replication_has_the_next_seed_and_a_folder_of_its_own(tmp_path: Path) -> None:
    world = ScriptedWorld()
    done: list[tuple[int, int]] = []
    result = run_scenario(world, small(), tmp_path, silent, lambda *so_far: done.append(so_far))
    assert world.seeds == [40, 41, 42]
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert result.folder is not None
    assert result.folder.parent == tmp_path
    assert result.folder.name.startswith("small-twin-")
    assert [Path(it).name for it in result.summary["run_dirs"]] == ["seed-40", "seed-41", "seed-42"]
    assert open_run(Path(result.summary["run_dirs"][1])).manifest["seed"] == 41
    assert json.loads((result.folder / SUMMARY).read_text(encoding="utf-8")) == result.summary


def test_without_a_folder_nothing_is_written() -> None:
    result = run_scenario(ScriptedWorld(), small(), None, silent)
    assert (result.folder, result.summary["run_dirs"]) == (None, [])


def test_two_runs_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    folders = {run_scenario(ScriptedWorld(), small(replications=1), tmp_path, silent).folder for _ in range(3)}
    assert len(folders) == 3


def test_a_place_that_cannot_be_written_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OperatorError, match=rf"^--out {place}: .*name a"):
            run_scenario(ScriptedWorld(), small(), place, silent)


def test_the_summary_has_what_the_contract_says() -> None:
    it = small()
    summary = run_scenario(ScriptedWorld(), it, None, silent).summary
    assert {"scenario", "digest", "seed", "replications", "world", "verdict", "expectations", "figures"} <= set(summary)
    assert {"invariants", "run_dirs"} <= set(summary)
    assert (summary["scenario"], summary["seed"], summary["replications"]) == ("small", 40, 3)
    assert (summary["world"], summary["verdict"], summary["digest"]) == ("twin", "pass", scenario_digest(it))
    assert set(summary["figures"]) == {*FIGURES, "record_digest"}
    json.dumps(summary)


def test_an_interrupted_run_keeps_what_is_finished_and_does_not_pass(tmp_path: Path) -> None:
    result = run_scenario(ScriptedWorld(interrupted_at=42), small(), tmp_path, silent)
    assert (result.summary["replications"], result.summary["verdict"]) == (2, "unknown")
    assert result.summary["notes"] == ["interrupted after 2 of 3 replications"]
    assert len(result.summary["run_dirs"]) == 2
    assert result.summary["figures"]["requests_lost"] == {"mean": 0.0, "ci95": [0.0, 0.0], "n": 2}


def test_an_interruption_before_the_first_end_has_no_figures_but_a_summary(tmp_path: Path) -> None:
    result = run_scenario(ScriptedWorld(interrupted_at=0), small(), tmp_path, silent)
    assert (result.summary["replications"], result.summary["verdict"]) == (0, "unknown")
    assert set(result.summary["figures"].values()) == {None}
    assert result.folder is not None
    assert (result.folder / SUMMARY).is_file()


def test_an_interruption_does_not_excuse_a_failure() -> None:
    result = run_scenario(ScriptedWorld(interrupted_at=43, lossy=True), small(replications=9), None, silent)
    assert result.summary["verdict"] == "fail"


def test_a_violated_invariant_fails_the_run_and_is_told_in_words() -> None:
    world = ScriptedWorld(
        invariants={"queue_empties": 2, "clock": 0}, first_violations={"queue_empties": "at 3 s: two wait"}
    )
    summary = run_scenario(world, small(), None, silent).summary
    assert summary["verdict"] == "fail"
    assert summary["invariants"] == {"queue_empties": 6, "clock": 0}
    assert summary["notes"] == ["invariant queue_empties: seed 40, at 3 s: two wait"]


def test_an_aborted_replication_is_noted_and_the_claim_unknown() -> None:
    summary = run_scenario(ScriptedWorld(aborted="at 9 s: no success"), small(replications=1), None, silent).summary
    assert summary["verdict"] == "unknown"
    assert summary["notes"] == ["seed 40: aborted at 9 s: no success"]


def test_a_scenario_without_expectations_says_that_there_is_nothing_to_judge() -> None:
    summary = run_scenario(ScriptedWorld(), small(expect={}), None, silent).summary
    assert summary["verdict"] == "unknown"
    assert summary["notes"] == ["the scenario expects nothing, so there is nothing to judge"]


def test_the_digest_is_of_the_content_and_not_of_seed_or_replications() -> None:
    assert scenario_digest(small(seed=1, replications=1)) == scenario_digest(small(seed=9, replications=99))
    assert scenario_digest(small()) != scenario_digest(small(claim="Another."))


def test_figures_of_one_replication_stand_as_they_are() -> None:
    assert combine([{"requests_lost": 3, "ttr_s": None}], ["d"]) == {
        "requests_lost": 3,
        "ttr_s": None,
        "record_digest": "d",
    }


def test_figures_of_several_are_means_over_those_that_saw_them() -> None:
    one = {
        "requests_lost": 1,
        "ttr_s": None,
        "ttd_s": None,
        "ttft_s": {"mean": 1.0, "p95": 2.0},
        "actions": {"restart": 2},
    }
    two = {"requests_lost": 3, "ttr_s": 8.0, "ttd_s": None, "ttft_s": {"mean": 3.0, "p95": 2.0}, "actions": {"load": 1}}
    both = combine([one, two], ["a", "b"])
    assert both["requests_lost"] == {"mean": 2.0, "ci95": pytest.approx([2 - 12.7062, 2 + 12.7062], abs=1e-4), "n": 2}
    assert both["ttr_s"] == {"mean": 8.0, "ci95": None, "n": 1}
    assert both["ttd_s"] is None
    assert both["ttft_s"]["mean"]["mean"] == 2.0
    assert both["ttft_s"]["p95"] == {"mean": 2.0, "ci95": [2.0, 2.0], "n": 2}
    # An action that a replication did not take was taken 0 times there.
    assert {kind: it["mean"] for kind, it in both["actions"].items()} == {"load": 0.5, "restart": 1.0}
    assert both["record_digest"] != combine([one, two], ["b", "a"])["record_digest"]


def test_a_latency_that_one_replication_did_not_observe_is_not_counted_as_zero() -> None:
    nothing = {"ttft_s": {"mean": None, "p95": None}}
    both = combine([nothing, {"ttft_s": {"mean": 3.0, "p95": 4.0}}], ["a", "b"])
    assert both["ttft_s"]["mean"] == {"mean": 3.0, "ci95": None, "n": 1}


def test_a_recorded_journal_is_replayed_as_an_invariant(tmp_path: Path) -> None:
    it = small(record={"journal": True}, replications=2, workload__duration_s=15)
    summary = run_scenario(TwinWorld(), it, tmp_path, silent).summary
    assert summary["invariants"][REPLAY_INVARIANT] == 0
    assert all(count == 0 for count in summary["invariants"].values())
    assert len(summary["invariants"]) == 12


def test_the_policy_leaves_a_node_alone_that_is_cut_off_or_far_away() -> None:
    """What the claims of two shipped scenarios say besides their figures: no restart mends a network."""
    from twin.scenario.loader import changed, load

    folder = Path(__file__).parents[2] / "scenarios"
    for name in ("partition", "slow-network"):
        few = changed(load(folder / f"{name}.yaml"), ["replications=3", "record.journal=false"])
        assert "restart" not in run_scenario(TwinWorld(), few, None, silent).summary["figures"]["actions"], name


def test_a_full_disk_is_said_in_one_line_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as raised:
        run_scenario(ScriptedWorld(full_at=42), small(), tmp_path, silent)
    line = str(raised.value)
    assert "No space left on device; make room, or name another --out; what is finished (2 of 3 runs) lies in" in line
    assert len(list(tmp_path.glob("*/seed-*/manifest.json"))) == 2


def test_a_long_run_says_how_far_it_is_and_changes_nothing_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    it = scenario(record={"telemetry_period_s": 5})
    lines: list[str] = []
    quick = TwinWorld().run(it, 1, None, lines.append)
    assert lines == [], "a short one says nothing"
    monkeypatch.setattr(twin_world, "QUIET_S", 0.0)
    monkeypatch.setattr(twin_world, "BETWEEN_LINES_S", 0.0)
    watched = TwinWorld().run(it, 1, None, lines.append)
    assert lines[0] == "seed 1: 5 of 40 simulated s (12%)"
    assert lines[-1] == "seed 1: 40 of 40 simulated s (100%)"
    assert record_digest(watched) == record_digest(quick)
    assert watched.manifest["events"] == quick.manifest["events"]


def test_a_fault_that_nothing_set_off_is_said_so_that_a_pass_is_not_taken_for_more_than_it_is() -> None:
    rare = {"kind": "hang_after_requests", "at_s": 10, "target": "node-0", "requests": 100_000, "duration_s": 5}
    result = run_scenario(TwinWorld(), scenario(faults=[rare], replications=2), None, silent)
    (said,) = [note for note in result.summary["notes"] if "came about" in note]
    assert said.startswith("no hang_after_requests came about in 2 of 2 replications")
    whole = run_scenario(TwinWorld(), scenario(replications=1), None, silent).summary
    assert not [note for note in whole["notes"] if "came about" in note]
