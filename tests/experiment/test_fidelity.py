"""The twin beside live runs: the same requests, an error with its sign, and no accuracy where live differs from itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.experiment.test_calibration import TRUTH, asked, run, sources
from twin.errors import OperatorError
from twin.experiment.calibration.profile import calibrate, write_profile
from twin.experiment.fidelity import drift, rank_agreement, simulate_beside, struck_in_turn, twin_and_live
from twin.experiment.fidelity_run import given_runs, judge_fidelity
from twin.experiment.twin_world import TwinWorld
from twin.record.reader import MANIFEST, RunRecord
from twin.scenario.calibrated import read_measured
from twin.scenario.schema import Scenario

HANG = {"kind": "runner_hang", "at_s": 40, "target": "random", "duration_s": 60}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "known.yaml"
    write_profile(path, calibrate("known", sources(asked(0.8), asked(1.4), asked(2.0))))
    return path


def as_live(**changes: Any) -> RunRecord:
    """A run that stands for a live one: of the same mechanism, so that the truth is known."""
    record = run(asked(1.7, faults=[HANG], **changes), seed=9)
    record.manifest["world"] = "live"
    return record


def test_a_calibrated_twin_gives_the_figures_of_the_run_that_it_replays(profile: Path, tmp_path: Path) -> None:
    live = [as_live()] * 3
    rows = twin_and_live(live, simulate_beside(live[:1], profile, tmp_path, 1, lambda line: None))
    of = {row["figure"]: row for row in rows}
    assert abs(of["e2e_s.mean"]["error_share"]) < 0.01
    assert abs(of["e2e_s.p95"]["error_share"]) < 0.02
    assert abs(of["ttd_s"]["error"]) < 1.5
    assert {row["verdict"] for row in rows} <= {"indistinguishable", "close", "off"}
    assert of["ttft_s.p50"]["verdict"] in ("indistinguishable", "close")


def test_a_machine_that_was_measured_wrongly_is_off_with_the_sign_of_the_error(profile: Path, tmp_path: Path) -> None:
    slower = as_live(hardware=TRUTH | {"decode_ms": [30, 38, 45, 58]})
    beside = simulate_beside([slower], profile, tmp_path, 1, lambda line: None)
    found = next(row for row in twin_and_live([slower] * 3, beside) if row["figure"] == "e2e_s.mean")
    assert found["verdict"] == "off"
    assert found["error_share"] < -0.2
    alone = next(row for row in twin_and_live([slower], beside) if row["figure"] == "e2e_s.mean")
    assert alone["live"]["spread"] is None  # one run does not differ from itself
    assert (alone["verdict"], alone["reason"][:26]) == ("unknown", "observed in 1 of 1 live ru")


def test_less_than_lives_own_spread_is_indistinguishable_and_not_accurate() -> None:
    calm, busy, between = (run(asked(1.0), seed) for seed in (3, 4, 5))
    row = next(it for it in twin_and_live([calm, busy, between], [busy]) if it["figure"] == "e2e_s.mean")
    assert row["live"]["spread"] > 0
    assert abs(row["error"]) <= row["live"]["spread"]
    assert row["verdict"] == "indistinguishable"


def test_what_one_world_alone_observed_is_unknown() -> None:
    row = next(it for it in twin_and_live([as_live()], [run(asked(1.7))]) if it["figure"] == "ttd_s")
    assert (row["verdict"], row["reason"]) == ("unknown", "observed in live alone")


def test_what_too_few_of_the_live_runs_observed_is_not_called_off() -> None:
    failed = as_live()
    calm = run(asked(1.7), seed=9)
    elsewhere = run(asked(1.7, faults=[HANG | {"duration_s": 3}]), seed=9)
    row = next(it for it in twin_and_live([failed, calm, calm], [elsewhere]) if it["figure"] == "ttr_s")
    assert (row["verdict"], row["reason"][:26]) == ("unknown", "observed in 1 of 3 live ru")


def test_live_that_left_the_profile_is_said_to_have_drifted(profile: Path) -> None:
    from twin.scenario.calibrated import read_profile

    known = read_profile(profile)
    assert drift(known, [run(asked(1.0), 7)]) == []
    throttled = run(asked(1.0, hardware=TRUTH | {"decode_ms": [25, 32, 39, 50]}), 7)
    assert drift(known, [throttled]) == [
        "decoding takes 1.25 times as long as with the profile's steps: calibrate again"
    ]
    farther = run(asked(1.0, cluster__restart_s=3.0), 7)
    farther.manifest["scenario"]["cluster"]["network"] = {"latency_ms": 3}
    far_off = {**known, "cluster": {"network": {"latency_ms": 40.0}}}
    assert "gateway and network take 6" in drift(far_off, [farther])[0]


def test_ranks_of_policies_that_agree_have_tau_one_and_reversed_ones_minus_one() -> None:
    live = {"default": [1.0], "reactive": [2.0], "none": [3.0], "other": [4.0]}
    same = {name: [10 * value] for name, [value] in live.items()}
    reversed_ = {name: [-value] for name, [value] in live.items()}
    assert rank_agreement(live, same, "e2e_s.p95")["tau"] == pytest.approx(1.0)
    assert rank_agreement(live, reversed_, "e2e_s.p95")["tau"] == pytest.approx(-1.0)
    assert rank_agreement({"default": [1.0]}, live, "e2e_s.p95")["tau"] is None


def test_policies_that_live_cannot_tell_apart_count_neither_for_nor_against_the_twin() -> None:
    twin = {"a": [2.0], "b": [1.0], "c": [6.0]}
    found = rank_agreement({"a": [0.9, 1.1], "b": [1.1, 1.1], "c": [5.0, 5.0]}, twin, "e2e_s.mean")
    assert (found["pairs"], found["tau"]) == (2, 1.0)
    found = rank_agreement({"a": [1.0, 1.0], "b": [1.1, 1.1], "c": [5.0, 5.0]}, twin, "e2e_s.mean")
    assert (found["pairs"], found["tau"]) == (3, pytest.approx(1 / 3))


def test_the_whole_judgement_passes_against_its_own_truth_and_keeps_its_result(profile: Path, tmp_path: Path) -> None:
    result = judge_fidelity("hang", {"default": [as_live()] * 3}, profile, tmp_path, 1)
    mean = next(row for row in result["figures"] if row["figure"] == "e2e_s.mean")
    assert mean["each_run"] == pytest.approx([mean["error_share"]] * 3, abs=0.01)
    assert result["verdict"] in ("pass", "fail")
    assert result["drift"] == []
    assert result["live_runs"] == 3
    assert (tmp_path / "fidelity.json").is_file()


def test_errors_that_take_turns_are_told_from_one_that_stays(profile: Path, tmp_path: Path) -> None:
    slower, faster = (as_live(hardware=TRUTH | {"decode_ms": [k * it for it in (20, 26, 31, 40)]}) for k in (1.1, 0.9))
    result = judge_fidelity("turns", {"default": [slower, faster]}, profile, tmp_path, 1)
    mean = next(row for row in result["figures"] if row["figure"] == "e2e_s.mean")
    assert mean["each_run"][0] < -0.05
    assert mean["each_run"][1] > 0.05
    assert abs(mean["error_share"]) < min(abs(share) for share in mean["each_run"])
    assert mean["own_speed"]["each_run"] == pytest.approx([0.0, 0.0], abs=0.03)


def test_a_machine_that_got_slower_is_told_from_a_model_that_is_wrong(profile: Path, tmp_path: Path) -> None:
    slower = as_live(hardware=TRUTH | {"decode_ms": [22, 28.6, 34.1, 44]})
    result = judge_fidelity("slower", {"default": [slower] * 3}, profile, tmp_path, 1)
    assert result["decoding_takes"] == pytest.approx([1.1] * 3, rel=0.01)
    row = next(it for it in result["figures"] if it["figure"] == "e2e_s.mean")
    assert row["verdict"] == "off"
    assert row["error_share"] < -0.08
    assert row["own_speed"]["verdict"] == "close"
    assert abs(row["own_speed"]["error_share"]) < 0.01


def test_runs_that_do_not_belong_together_are_not_compared(tmp_path: Path) -> None:
    TwinWorld().run(asked(1.0), 1, tmp_path / "a", lambda line: None)
    with pytest.raises(OperatorError, match="a run of the twin; fidelity wants live ones"):
        given_runs([tmp_path / "a"], asked(1.0))


def given(folder: Path, scenario: Scenario, **changes: Any) -> Path:
    """A run in a folder that stands for a live one, with other entries of its manifest."""
    TwinWorld().run(scenario, 1, folder, lambda line: None)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**manifest, "world": "live", **changes}), encoding="utf-8")
    return folder


def test_given_runs_are_of_this_scenario_and_version_and_each_is_another(tmp_path: Path) -> None:
    calm = asked(1.0)
    first, second = given(tmp_path / "a", calm), given(tmp_path / "b", calm)
    assert len(given_runs([first, second], calm)["default"]) == 2
    with pytest.raises(OperatorError, match="given twice"):
        given_runs([first, first], calm)
    with pytest.raises(OperatorError, match=r"a run of .*, not of another"):
        given_runs([first], calm.model_copy(update={"name": "another"}))
    with pytest.raises(OperatorError, match=r"version 0\.0\.7, this is .*; run it again"):
        given_runs([given(tmp_path / "c", calm, version="0.0.7")], calm)


def test_a_profile_of_another_machine_is_not_held_against_a_run(profile: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(profile.read_text(encoding="utf-8"))
    elsewhere = tmp_path / "elsewhere.yaml"
    write_profile(elsewhere, document | {"machine": {"processor": "sparc", "cores": 64}})
    with pytest.raises(OperatorError, match="measured on a machine with processor sparc"):
        judge_fidelity("elsewhere", {"default": [as_live()]}, elsewhere, tmp_path, 1)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("cluster", None, "cluster: "),
        ("cluster", {"network": None}, "cluster.network: "),
        ("cluster", {"network": {"latency_ms": -1.0}}, "cluster.network.latency_ms: "),
        ("measured", {}, "measured.restart_s: "),
        ("name", None, "name: "),
        ("hardware", {"decode_ms": [math.nan]}, "hardware.decode_ms.0: "),
    ],
)
def test_what_is_wrong_in_a_profile_is_one_line_that_names_its_place(
    profile: Path, tmp_path: Path, key: str, value: Any, said: str
) -> None:
    document = yaml.safe_load(profile.read_text(encoding="utf-8"))
    broken = tmp_path / "broken.yaml"
    write_profile(broken, document | {key: value})
    with pytest.raises(OperatorError) as error:
        read_measured(broken)
    assert str(error.value).startswith(f"{broken}: {said}")
    assert "\n" not in str(error.value)


def test_a_latency_beyond_its_aim_that_live_cannot_tell_is_no_pass(profile: Path, tmp_path: Path) -> None:
    machines = ([k * it for it in (20, 26, 31, 40)] for k in (0.9, 1.0, 1.25))
    live = [as_live(hardware=TRUTH | {"decode_ms": steps}) for steps in machines]
    result = judge_fidelity("unsteady", {"default": live}, profile, tmp_path, 1)
    mean = next(row for row in result["figures"] if row["figure"] == "e2e_s.mean")
    assert mean["verdict"] == "indistinguishable"
    assert abs(mean["error_share"]) > mean["aim_share"]
    assert result["verdict"] != "pass"
    assert any("e2e_s.mean" in note and "beyond the aim" in note for note in result["notes"])


def test_alike_nodes_are_struck_in_turn_so_that_no_accident_of_whose_turn_it_was_passes_for_a_law() -> None:
    fault = {"kind": "server_crash", "at_s": 20, "target": "node-1", "duration_s": 10}
    alike = asked(1.0, cluster__nodes=3, cluster__models={"llama3.1:8b": {"replicas": 3}}, faults=[fault])
    struck = [it.target for turns in range(4) for it in struck_in_turn(alike, turns).faults]
    assert struck == ["node-1", "node-2", "node-0", "node-1"]
    unlike = asked(1.0, cluster__nodes=3, cluster__models={"llama3.1:8b": {"replicas": 1}}, faults=[fault])
    assert struck_in_turn(unlike, 1) is unlike
