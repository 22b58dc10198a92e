"""A study: what is asked, the grid, and a folder that outlives whatever ends it."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.scenario.documents import document, scenario
from twin.errors import OperatorError
from twin.experiment.conduct import Asked, conduct, plan_of
from twin.experiment.engines import EngineLost, LocalEngine
from twin.experiment.points import best_of
from twin.experiment.replication import Task, perform
from twin.experiment.run import run_scenario
from twin.experiment.statistics import Precision
from twin.experiment.study import RESULTS, STUDY, Kind, Plan, parse_precision, parse_vary
from twin.experiment.twin_world import TwinWorld

T = TypeVar("T")
R = TypeVar("R")

RATES = "workload.arrivals.rate_rps=1,2"
EXPECT = {"requests_lost": {"max": 0}, "ttr_s": {"max": 40}}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A scenario file: two nodes, one crash, 20 s."""
    crash = {"kind": "server_crash", "at_s": 3, "target": "node-0", "duration_s": 4}
    whole = document(
        faults=[crash],
        expect=EXPECT,
        record={"journal": False},
        steady_state={"success_ratio": {"window_s": 3}, "hold_s": 2},
        workload__duration_s=20,
        replications=2,
        seed=40,
    )
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path


def plan(small: Path, kind: Kind = "sweep", **asked: Any) -> Plan:
    return plan_of(kind, Asked(small, **{"vary": [RATES]} | asked))


class Breaking:
    """An engine that does what the local one does, until something happens after some results."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.after = after
        self.error = error

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        for count, task in enumerate(tasks):
            if count == self.after:
                raise self.error
            yield work(task)


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "wall_s"} for line in found]


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_values_are_yaml_as_in_set() -> None:
    assert parse_vary(["a.b=1,2.5,true", "policy.preset=default,none", "x={kind: poisson, rate_rps: 3},{kind: q}"]) == {
        "a.b": [1, 2.5, True],
        "policy.preset": ["default", "none"],
        "x": [{"kind": "poisson", "rate_rps": 3}, {"kind": "q"}],
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cluster.nodes", "write KEY=V1,V2"),
        ("cluster.nodes=", "write KEY=V1,V2"),
        ("cluster.nodes=[1", "no valid YAML"),
        ("cluster.nodes=3,3", "3 stands there twice"),
        ("seed=1,2", "seed cannot be varied"),
        ("name=a,b", "name cannot be varied"),
    ],
)
def test_what_cannot_be_varied_is_said(text: str, line: str) -> None:
    with pytest.raises(OperatorError, match=line):
        parse_vary([text])
    with pytest.raises(OperatorError, match="varied already"):
        parse_vary(["a=1,2", "a=3"])


def test_a_precision_is_absolute_or_relative() -> None:
    assert parse_precision("e2e_s.p95=5%") == Precision("e2e_s.p95", 0.05, relative=True)
    assert parse_precision("ttr_s=0.5") == Precision("ttr_s", 0.5, relative=False)
    for text in ("ttr_s", "ttr_s=x", "ttr_s=0", "ttr_s=-1%"):
        with pytest.raises(OperatorError, match="write FIGURE=HALF_WIDTH"):
            parse_precision(text)
    with pytest.raises(OperatorError, match="unknown figure e2e"):
        parse_precision("e2e=5%")


def test_the_grid_has_every_combination_and_the_last_key_changes_fastest(small: Path) -> None:
    it = plan(small, vary=[RATES, "cluster.slots_per_model=2,4"])
    assert [list(point.settings.values()) for point in it.points] == [[1, 2], [1, 4], [2, 2], [2, 4]]
    assert [point.scenario.cluster.slots_per_model for point in it.points] == [2, 4, 2, 4]


def test_an_unknown_key_is_said_before_anything_runs(small: Path) -> None:
    with pytest.raises(OperatorError, match=r"unknown key clustr; did you mean cluster\?"):
        plan(small, vary=["clustr.nodes=1,2"])
    with pytest.raises(OperatorError, match=r"did you mean healer\.enabled\?"):
        plan(small, vary=["policy.healer.enabld=true,false"])
    with pytest.raises(OperatorError, match="nothing to vary"):
        plan(small, vary=[])
    with pytest.raises(OperatorError, match="only one variant"):
        plan(small, "compare", vary=["policy.preset=none"])


# -- conducting it ----------------------------------------------------------------------------------------------------


def test_a_sweep_leaves_a_line_for_each_run_and_the_figures_of_each_point(small: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    folder, study = conduct(
        plan(small), LocalEngine(1), tmp_path, command="again", on_result=lambda *so_far: done.append(so_far)
    )
    assert folder.parent == tmp_path
    assert folder.name.startswith("small-sweep-")
    assert json.loads((folder / STUDY).read_text(encoding="utf-8")) == study
    assert done == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert (study["kind"], study["scenario"], study["complete"], study["stopped"]) == ("sweep", "small", True, "")
    assert (study["replications"], study["seed"], study["command"]) == (2, 40, "again")
    assert study["vary"] == {"workload.arrivals.rate_rps": [1, 2]}
    assert study["pairs"] == []
    found = lines(folder)
    assert [(it["settings"]["workload.arrivals.rate_rps"], it["seed"]) for it in found] == [
        (1, 40), (1, 41), (2, 40), (2, 41)
    ]  # fmt: skip
    assert set(found[0]["verdicts"]) == {"requests_lost", "ttr_s"}
    assert found[0]["recoveries"][0]["ttr_s"].keys() == {"value_s", "censored", "at_least_s"}
    assert "wall_s" not in found[0]["figures"]


def test_a_point_says_what_a_run_of_the_same_scenario_says(small: Path, tmp_path: Path) -> None:
    it = plan(small)
    _, study = conduct(it, LocalEngine(1), tmp_path)
    ran = run_scenario(TwinWorld(), it.points[1].scenario, None, lambda line: None).summary
    point = study["points"][1]
    assert point["figures"] == {name: value for name, value in ran["figures"].items() if name != "wall_s"}
    assert (point["verdict"], point["expectations"]) == (ran["verdict"], ran["expectations"])
    assert point["invariants"] == ran["invariants"]
    assert point["recovery"]["ttr_s"]["n"] == 2
    assert point["quantiles"]["requests_lost"]["p50"] == {"value": 0.0, "ci95": None}


def test_all_points_have_the_same_seeds_and_a_comparison_pairs_them(small: Path, tmp_path: Path) -> None:
    it = plan(small, "compare", vary=["policy.preset=default,none"], replications=4)
    _, study = conduct(it, LocalEngine(1), tmp_path, figures=["requests_lost", "ttr_s"])
    assert [(pair["figure"], pair["difference"]["n"]) for pair in study["pairs"][:1]] == [("requests_lost", 4)]
    lost = study["pairs"][0]
    assert lost["baseline"] == {"policy.preset": "default"}
    assert lost["variant"] == {"policy.preset": "none"}
    means = [point["figures"]["requests_lost"]["mean"] for point in study["points"]]
    assert lost["difference"]["mean"] == pytest.approx(means[1] - means[0])
    assert lost["difference"]["mean"] > 0


def test_it_goes_on_until_the_interval_is_tight(small: Path, tmp_path: Path) -> None:
    precision = parse_precision("e2e_s.mean=25%")
    it = plan(small, vary=["workload.arrivals.rate_rps=2"], precision=precision, replications_max=30)
    folder, study = conduct(it, LocalEngine(1), tmp_path)
    count = study["replications"]
    assert 2 < count < 30
    assert study["until"]["reached"] is True
    figure = study["points"][0]["figures"]["e2e_s"]["mean"]
    assert precision.kept_by([line["figures"]["e2e_s"]["mean"] for line in lines(folder)])
    assert figure["n"] == count == len(lines(folder))
    hopeless = plan(small, precision=parse_precision("e2e_s.mean=0.001%"), replications_max=3)
    _, study = conduct(hopeless, LocalEngine(1), tmp_path)
    assert (study["replications"], study["until"]["reached"], study["complete"]) == (3, False, True)


def test_records_are_kept_only_where_they_are_asked_for(small: Path, tmp_path: Path) -> None:
    folder, _ = conduct(plan(small, replications=1), LocalEngine(1), tmp_path)
    assert sorted(it.name for it in folder.iterdir()) == [RESULTS, STUDY]
    folder, _ = conduct(plan(small, replications=1), LocalEngine(1), tmp_path, keep_runs=True)
    kept = sorted(str(it.parent.relative_to(folder)) for it in folder.glob("*/*/manifest.json"))
    assert kept == ["point-0/seed-40", "point-1/seed-40"]


# -- what ends it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyboardInterrupt(), "interrupted after 3 of 4 runs"),
        (EngineLost("the Dask scheduler is gone"), "the Dask scheduler is gone (3 of 4 runs are finished)"),
    ],
)
def test_what_is_finished_is_kept_and_a_resumed_study_is_the_same(
    error: BaseException, why: str, small: Path, tmp_path: Path
) -> None:
    whole, study = conduct(plan(small), LocalEngine(1), tmp_path)
    folder, broken_off = conduct(plan(small), Breaking(3, error), tmp_path)
    assert (broken_off["complete"], broken_off["stopped"]) == (False, why)
    assert len(lines(folder)) == 3
    assert [point["n"] for point in broken_off["points"]] == [2, 1]
    assert broken_off["points"][1]["verdict"] != "pass"
    done: list[int] = []
    again = plan_of("sweep", Asked(small, resume=folder))
    same, resumed = conduct(again, LocalEngine(1), tmp_path, resume=folder, on_result=lambda n, _: done.append(n))
    assert same == folder
    assert done == [3, 4], "only what was missing was run"
    assert lines(folder) == lines(whole)
    assert resumed["points"] == study["points"]


def test_a_line_that_was_cut_off_is_run_again_and_a_damaged_one_is_said(small: Path, tmp_path: Path) -> None:
    folder, study = conduct(plan(small), LocalEngine(1), tmp_path)
    path = folder / RESULTS
    path.write_text(path.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    _, resumed = conduct(plan_of("sweep", Asked(small, resume=folder)), LocalEngine(1), tmp_path, resume=folder)
    assert resumed["points"] == study["points"]
    path.write_text("{}\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(OperatorError, match=r"results\.jsonl:1: not a result of this version"):
        conduct(plan_of("sweep", Asked(small, resume=folder)), LocalEngine(1), tmp_path, resume=folder)


def test_only_the_same_study_can_be_resumed(small: Path, tmp_path: Path) -> None:
    folder, _ = conduct(plan(small, replications=1), LocalEngine(1), tmp_path)
    with pytest.raises(OperatorError, match="use that command"):
        plan_of("compare", Asked(small, resume=folder))
    with pytest.raises(OperatorError, match=r"its scenario was .*, now it is .*; start the study anew"):
        plan_of("sweep", Asked(small, resume=folder, changes=["cluster.nodes=3"]))
    with pytest.raises(OperatorError, match="its seed was 40, now it is 41"):
        plan_of("sweep", Asked(small, resume=folder, seed=41))
    with pytest.raises(OperatorError, match="give the folder of a study"):
        plan_of("sweep", Asked(small, resume=tmp_path))
    with pytest.raises(OperatorError, match=r"--vary leaves out .*; leave --vary away, give all that the study has"):
        plan_of("sweep", Asked(small, resume=folder, vary=["workload.arrivals.rate_rps=1"]))
    with pytest.raises(OperatorError, match=r"--vary has workload\.deadline_s besides; leave --vary away"):
        plan_of("sweep", Asked(small, resume=folder, vary=[RATES, "workload.deadline_s=3,4"]))
    more = plan_of("sweep", Asked(small, resume=folder, replications=2))
    assert conduct(more, LocalEngine(1), tmp_path, resume=folder)[1]["replications"] == 2


def test_a_full_disk_is_one_line_and_what_is_finished_is_kept(small: Path, tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "Error writing bytes to file")
    with pytest.raises(OperatorError) as raised:
        conduct(plan(small), Breaking(2, full), tmp_path)
    folder = next(tmp_path.glob("small-sweep-*"))
    assert str(raised.value) == (
        f"{folder}: No space left on device; what is finished is kept: make room, and give --resume {folder}"
    )
    assert len(lines(folder)) == 2
    _, study = conduct(plan_of("sweep", Asked(small, resume=folder)), LocalEngine(1), tmp_path, resume=folder)
    assert study["complete"] is True


def test_a_worker_of_another_version_is_refused(small: Path) -> None:
    task = Task({}, {}, 1, None, "0.0.1")
    with pytest.raises(OperatorError, match=r"a worker has version .*, this machine 0\.0\.1; install the same"):
        perform(task)


def test_a_warm_up_that_is_too_short_and_recoveries_that_did_not_come_are_noted(small: Path, tmp_path: Path) -> None:
    it = plan(small, vary=["policy.preset=none"], changes=["faults.0.duration_s=18", "workload.arrivals.rate_rps=1"])
    _, study = conduct(it, LocalEngine(1), tmp_path)
    assert "policy.preset=none: ttr_s was not observed to its end for 2 of 2 faults" in study["notes"]
    assert study["points"][0]["recovery"]["ttr_s"]["share"] == 0.0
    cold = [
        "faults=[]",
        "cluster.models={llama3.1:8b: {replicas: 0}}",
        "workload.arrivals={kind: constant, rate_rps: 1}",
        "workload.output_tokens={kind: constant, mean: 80}",
        "workload.duration_s=150",
        "policy.preset=none",
        "expect={}",
    ]
    _, study = conduct(plan(small, vary=["cluster.slots_per_model=2"], changes=cold), LocalEngine(1), tmp_path)
    assert study["points"][0]["warmup"]["enough"] is False
    assert any("the warm-up of 0 s is too short, MSER-5 asks for" in note for note in study["notes"])


def test_a_point_that_could_not_be_judged_is_not_the_best() -> None:
    it = scenario(expect={"requests_lost": {"max": 0}})

    def point(verdict: str, lost: float) -> dict[str, Any]:
        return {"n": 3, "verdict": verdict, "figures": {"requests_lost": {"mean": lost, "ci95": None, "n": 3}}}

    assert best_of([point("unknown", 0.0), point("fail", 3.0)], it) == 1
    assert best_of([point("unknown", 0.0), point("pass", 0.0), point("fail", 0.0)], it) == 1
    assert best_of([point("unknown", 0.0)], it) is None
    unjudged = scenario()
    assert best_of([point("unknown", 1.0), point("unknown", 0.0)], unjudged) == 1, "where nothing is expected"


def test_a_full_disk_is_one_line_and_no_warning_of_a_library_beside_it(small: Path, tmp_path: Path) -> None:
    def keep(done: int, wanted: int) -> None:
        if done == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OperatorError, match="No space left on device; what is finished is kept"):
            conduct(plan(small, replications=6), LocalEngine(2), tmp_path, on_result=keep)
