"""A gate names what got worse, by how much and how sure; it raises no alarm for noise, and compares nothing that differs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from reports.gate import write_junit
from tests.test_command_line import ollamamax
from twin.errors import OperatorError
from twin.experiment import gate as gate_module
from twin.experiment import twin_world
from twin.experiment.engines import LocalEngine
from twin.experiment.gate import baseline_of, compare, measure, value_of
from twin.experiment.gate_file import load_gate, read_baseline, write_baseline
from twin.scenario.loader import changed
from twin.sim.simulation import Simulation

ROOT = Path(__file__).parents[2]
WORSE = "worse"


def gate_file(folder: Path, **of_scenario: Any) -> Path:
    """A gate of one short scenario: a runner hangs for good, and a restart frees it."""
    document = yaml.safe_load((ROOT / "scenarios" / "runner-hang.yaml").read_text(encoding="utf-8"))
    document["name"] = "short-hang"
    document["workload"] |= {"warmup_s": 10, "duration_s": 50}
    document["faults"][0] |= {"at_s": 20}
    document["record"] = {"journal": False}
    (folder / "short-hang.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    figures = {
        "requests_lost": {"worse_by": 0.2},
        "ttd_s": {"worse_by": "20%"},
        "events_per_request": {"worse_by": "5%"},
    }
    scenario = {"file": "short-hang.yaml", "replications": 6, "figures": figures} | of_scenario
    path = folder / "gate.yaml"
    path.write_text(yaml.safe_dump({"gate": 1, "scenarios": [scenario]}), encoding="utf-8")
    return path


def judged(path: Path, baseline: dict[str, Any], *changes: str, first_seed: int | None = None) -> dict[str, Any]:
    """The gate after these changes of the policy."""
    gate, items = load_gate(path)
    gate = gate.model_copy(update={"cost": None})
    for item in items:
        item.scenario = changed(item.scenario, changes)
    return compare(gate, items, measure(gate, items, LocalEngine(1), first_seed=first_seed), baseline)


def worse(result: dict[str, Any]) -> set[str]:
    return {f"{it['scenario']} {it['figure']}" for it in result["figures"] if it["verdict"] == WORSE}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = gate_file(tmp_path_factory.mktemp("gate"))
    gate, items = load_gate(path)
    return path, baseline_of(items, measure(gate, items, LocalEngine(1)))


def test_without_a_change_every_difference_is_nothing(short: tuple[Path, dict[str, Any]]) -> None:
    path, baseline = short
    result = judged(path, baseline)
    assert result["verdict"] == "pass"
    assert [it["change"] for it in result["figures"]] == [0.0, 0.0, 0.0]
    assert {it["paired"] for it in result["figures"]} == {True}


def test_a_probe_that_is_switched_off_is_named_with_its_cost_and_its_interval(
    short: tuple[Path, dict[str, Any]],
) -> None:
    path, baseline = short
    result = judged(path, baseline, "policy.probes.generation=false")
    assert result["verdict"] == "fail"
    assert "short-hang ttd_s" in worse(result)
    found = next(it for it in result["figures"] if it["figure"] == "ttd_s")
    assert found["change"] == pytest.approx(found["now"] - found["before"])
    assert 0 < found["interval"][0] <= found["change"] <= found["interval"][1]
    assert found["change"] >= found["threshold"]


def test_other_seeds_are_compared_without_pairs_and_raise_no_alarm(short: tuple[Path, dict[str, Any]]) -> None:
    path, baseline = short
    result = judged(path, baseline, first_seed=500)
    assert result["verdict"] == "pass"
    assert {it["paired"] for it in result["figures"]} == {False}
    assert any(it["change"] for it in result["figures"])


def test_a_path_that_takes_more_events_is_named(
    short: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, baseline = short

    def slower(*arguments: Any, **named: Any) -> Simulation:
        simulation = Simulation(*arguments, **named)
        for step in range(300):
            simulation.engine.call_at(step * 0.2, lambda: None)
        return simulation

    monkeypatch.setattr(twin_world, "Simulation", slower)
    assert worse(judged(path, baseline)) == {"short-hang events_per_request"}


def test_what_was_observed_before_and_no_more_is_worse() -> None:
    line = {
        "figures": {"ttr_s": None},
        "recoveries": [{"ttr_s": {"value_s": None, "censored": True, "at_least_s": 90.0}}],
    }
    assert value_of(line, "ttr_s") == 90.0
    quiet = {"figures": {}, "recoveries": [{"ttm_s": {"value_s": None, "censored": False, "at_least_s": None}}]}
    assert value_of(quiet, "ttm_s") == 0.0
    held = gate_module._hold(
        "s", "e2e_s.p95", gate_module.Threshold(worse_by="5%"), [1.0, 1.1, 1.2], [None, None, 1.0], True, 0.99
    )
    assert (held.verdict, held.reason) == ("worse", "observed in 1 replications, before in 3")


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ([1.0, 1.0, 1.0, 1.0], "same"),
        ([1.2, 1.3, 1.2, 1.3], "worse"),
        ([0.8, 0.7, 0.8, 0.7], "better"),
        ([1.01, 1.01, 1.01, 1.01], "same"),  # sure, and too little to matter
        ([1.0, 3.0, 0.5, 2.0], "not shown"),  # much, and by chance as likely as not
    ],
)
def test_worse_is_what_is_both_sure_and_large_enough(now: list[float], verdict: str) -> None:
    threshold = gate_module.Threshold(worse_by="10%")
    held = gate_module._hold("s", "e2e_s.p95", threshold, [1.0, 1.0, 1.0, 1.0], list(now), True, 0.95)
    assert held.verdict == verdict


def test_a_baseline_survives_the_file_and_one_of_another_record_version_is_refused(
    short: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, short[1])
    assert read_baseline(path) == short[1]
    known = short[1]["scenarios"]["short-hang"]
    for damaged in ({}, [], {**known, "figures": {**known["figures"], "ttd_s": [math.nan]}}, {**known, "figures": []}):
        path.write_text(json.dumps(short[1] | {"scenarios": {"short-hang": damaged}}), encoding="utf-8")
        with pytest.raises(OperatorError, match="is damaged"):
            read_baseline(path)
    path.write_text(json.dumps(short[1] | {"record_version": 1}), encoding="utf-8")
    with pytest.raises(OperatorError, match=r"record version 1, this version writes .* nothing is compared"):
        read_baseline(path)


def test_another_scenario_than_the_baselines_is_not_compared_and_the_gate_is_unknown(
    short: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = gate_file(tmp_path, set=["workload.arrivals.rate_rps=3.0"])
    result = judged(path, short[1])
    assert (result["verdict"], result["figures"]) == ("unknown", [])
    assert "the baseline is of another scenario" in result["not_compared"][0]


def test_costs_of_another_machine_are_not_compared_and_leave_the_rest_as_it_is(
    short: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, baseline = short
    gate, items = load_gate(path)
    gate = gate.model_copy(update={"cost": gate_module.Cost()})
    monkeypatch.setattr(gate_module, "cost_ratios", lambda cost: [6.0, 6.2, 6.1])
    measured = measure(gate, items, LocalEngine(1))
    here = baseline | {"costs": {"ratios": [4.0, 4.1, 3.9], "machine": gate_module.machine()}}
    assert worse(compare(gate, items, measured, here)) == {"cost times_plain_loop"}
    elsewhere = baseline | {"costs": {"ratios": [4.0, 4.1, 3.9], "machine": gate_module.machine() | {"python": "3.9"}}}
    result = compare(gate, items, measured, elsewhere)
    assert result["verdict"] == "pass"
    assert result["not_compared"] == [
        f"cost: another machine made the baseline (python 3.9, here {gate_module.machine()['python']})"
    ]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "no gate file"),
        ("[]", "no gate file"),
        ("gate: \0", "no valid YAML"),
        ({"gate": 1, "scenarios": []}, "scenarios: "),
        ({"gate": 1, "scenarioz": []}, "scenarioz: unknown key"),
        (
            {"gate": 1, "scenarios": [{"file": "x.yaml", "figures": {"ttr_s": {"worse_by": "much"}}}]},
            "per cent of the baseline",
        ),
        (
            {"gate": 1, "scenarios": [{"file": "x.yaml", "figures": {"joy": {"worse_by": 1}}}]},
            "joy cannot be held by a gate",
        ),
    ],
)
def test_what_is_wrong_in_a_gate_file_is_one_line(tmp_path: Path, document: dict[str, Any] | str, said: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(OperatorError) as error:
        load_gate(path)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_the_command_writes_a_baseline_passes_against_it_and_leaves_a_junit_file(tmp_path: Path) -> None:
    path = gate_file(tmp_path, replications=3)
    missing = ollamamax("gate", str(path))
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert ollamamax("gate", str(path), "--update", "--jobs", "1").returncode == 0
    junit = tmp_path / "gate.xml"
    done = ollamamax("gate", str(path), "--jobs", "1", "--junit", str(junit), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "pass"
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "0")


def test_a_failure_in_the_junit_file_says_what_the_table_says(
    short: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    result = judged(short[0], short[1], "policy.probes.generation=false")
    write_junit(result, tmp_path / "gate.xml")
    messages = [it.get("message", "") for it in ElementTree.parse(tmp_path / "gate.xml").iter("failure")]
    assert len(messages) == result["worse"]
    assert any(message.startswith("short-hang: ttd_s was ") for message in messages)


# -- the project's own gate -----------------------------------------------------------------------------------------

REGRESSIONS = {
    "a probe is switched off": ("policy.probes.generation=false", "runner-hang ttd_s"),
    "liveness is looked at seldom": ("policy.probes.period_s=10", "node-crash ttd_s"),
    "retries are removed": ("policy.retry.attempts_max=0", "cascade requests_lost"),
    "nothing is healed": ("policy.healer.enabled=false", "runner-hang ttr_s"),
    "a second repair waits for an hour": ("policy.healer.cooldown_s=3600", "three-hangs ttr_s"),
    "admission is off": ("policy.admission.enabled=false", "overload success_ratio"),
    "slow nodes are not looked for": ("policy.slowness.enabled=false", "slow-decay ttd_s"),
    "nothing is foretold": ("policy.predictor.enabled=false", "foretelling faults_foretold"),
    "silence is borne for long": ("policy.router.stall_timeout_s=30", "runner-hang ttm_s"),
}


@pytest.mark.long
@pytest.mark.parametrize("regression", REGRESSIONS)
def test_the_projects_gate_catches_a_deliberate_regression(regression: str) -> None:
    change, named = REGRESSIONS[regression]
    result = judged(ROOT / "gate.yaml", read_baseline(ROOT / "gate.baseline.json"), change)
    assert result["verdict"] == "fail"
    assert named in worse(result)


@pytest.mark.long
def test_the_projects_gate_passes() -> None:
    done = ollamamax("gate", limit_s=600)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_twenty_gates_on_other_seeds_raise_no_alarm() -> None:
    baseline = read_baseline(ROOT / "gate.baseline.json")
    alarms = [worse(judged(ROOT / "gate.yaml", baseline, first_seed=1000 * (number + 1))) for number in range(20)]
    assert alarms == [set()] * 20


@pytest.mark.long
def test_more_processor_time_for_the_same_is_caught_and_none_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = gate_module.Cost(requests=5000, repeats=5)
    before = gate_module.cost_ratios(cost)
    again = gate_module.cost_ratios(cost)

    def dawdling(*arguments: Any, **named: Any) -> Simulation:
        simulation = Simulation(*arguments, **named)
        for step in range(60_000):
            simulation.engine.call_at(step * 0.001, lambda: sum(range(40)))
        return simulation

    monkeypatch.setattr(twin_world, "Simulation", dawdling)
    slow = gate_module.cost_ratios(cost)
    threshold = gate_module.Threshold(worse_by="25%")
    assert gate_module._hold("cost", "times_plain_loop", threshold, before, again, False, 0.99).verdict != "worse"
    assert gate_module._hold("cost", "times_plain_loop", threshold, before, slow, False, 0.99).verdict == "worse"
