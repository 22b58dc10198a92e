"""What a machine is like can be told from the records of its runs, and the twin gives no advice outside of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from tests.scenario.documents import document, scenario
from twin.errors import OperatorError
from twin.experiment.calibration.fits import decoding, prefill
from twin.experiment.calibration.occupancy import joined, served
from twin.experiment.calibration.profile import Source, calibrate, source, write_profile
from twin.experiment.twin_world import TwinWorld
from twin.record.reader import RunRecord
from twin.scenario.calibrated import read_profile
from twin.scenario.loader import load
from twin.scenario.schema import Scenario

TRUTH = {
    "decode_ms": [20, 26, 31, 40],
    "prefill_tokens_per_s": 1500,
    "vram_gib": 24,
    "load_gib_per_s": 2,
    "server_ms": 12,
}


def asked(rate_rps: float, **changes: Any) -> Scenario:
    return scenario(
        cluster__hardware=changes.pop("hardware", TRUTH),
        cluster__slots_per_model=4,
        cluster__network={"latency_ms": 3},
        cluster__restart_cv=0,
        cluster__load_cv=0,
        workload__arrivals={"kind": "poisson", "rate_rps": rate_rps},
        workload__prompt_tokens={"kind": "lognormal", "mean": 150, "cv": 1},
        workload__duration_s=100,
        record={"journal": False},
        **changes,
    )


def run(it: Scenario, seed: int = 1) -> RunRecord:
    return TwinWorld().run(it, seed, None, lambda line: None)


def sources(*scenarios: Scenario) -> list[Source]:
    return [source(Path(f"run-{place}"), run(it, place)) for place, it in enumerate(scenarios)]


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    """From three loads with a crash, and a run in which idle models are let go."""
    crash = {"kind": "server_crash", "at_s": 20, "target": "node-0", "duration_s": 30}
    loads = asked(0.2, cluster__keep_alive_s=0.5, policy={"preset": "none"})
    return calibrate("known", sources(asked(0.8), asked(1.4, faults=[crash]), asked(2.0), loads))


def test_the_rates_of_a_machine_are_recovered_from_its_records(profile: dict[str, Any]) -> None:
    hardware = profile["hardware"]
    assert hardware["decode_ms"] == pytest.approx(TRUTH["decode_ms"], rel=0.02)
    assert hardware["prefill_tokens_per_s"] == pytest.approx(1500, rel=0.02)
    assert hardware["server_ms"] == pytest.approx(12, rel=0.05)
    assert profile["cluster"]["network"]["latency_ms"] == pytest.approx(3, rel=0.1)
    assert profile["cluster"]["restart_s"] == pytest.approx(3.0, rel=0.05)
    assert hardware["runner_start_s"] + 4.6 / hardware["load_gib_per_s"] == pytest.approx(0.3 + 4.6 / 2, rel=0.05)


def test_every_rate_has_an_interval_that_holds_it_and_is_narrow(profile: dict[str, Any]) -> None:
    for found in profile["measured"]["decode_ms"]:
        low, high = found["ci95"]
        assert low <= found["value"] <= high
        assert high - low < 0.1 * found["value"]


def test_what_nobody_saw_is_said(profile: dict[str, Any]) -> None:
    assert profile["not_covered"] == []
    lonely = calibrate("lonely", sources(asked(0.1)))
    said = " ".join(lonely["not_covered"])
    assert "batches of" in said
    assert "cold loads" in said
    assert "restarts" in said
    assert lonely["hardware"]["calibration"]["batch_max"] < 4


def test_requests_that_shared_their_node_with_failures_do_not_spoil_the_fit() -> None:
    overload = calibrate("overload", sources(asked(0.8), asked(3.5)))
    assert overload["hardware"]["decode_ms"] == pytest.approx(TRUTH["decode_ms"], rel=0.03)


def test_runs_of_another_machine_or_that_broke_off_are_refused() -> None:
    one, other = sources(asked(1.0), asked(1.0, hardware=TRUTH | {"vram_gib": 48}))
    with pytest.raises(OperatorError, match="another machine than that of run-0"):
        calibrate("mixed", [one, other])
    record = run(asked(1.0))
    record.manifest["aborted"] = "the success ratio fell"
    with pytest.raises(OperatorError, match="it was broken off"):
        source(Path("broken"), record)


# -- a profile in a scenario ----------------------------------------------------------------------------------------


@pytest.fixture
def scenario_file(profile: dict[str, Any], tmp_path: Path) -> Path:
    write_profile(tmp_path / "known.yaml", profile)
    whole = document(
        name="beside", cluster__hardware="known.yaml", workload__prompt_tokens={"kind": "constant", "mean": 100}
    )
    (tmp_path / "beside.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    return tmp_path / "beside.yaml"


def test_a_scenario_names_a_profile_by_its_file_and_takes_its_machine_way_and_restart(
    scenario_file: Path, profile: dict[str, Any]
) -> None:
    cluster = load(scenario_file).cluster
    assert cluster.hardware_of_nodes()[0].decode_ms == profile["hardware"]["decode_ms"]
    assert cluster.network.latency_ms == profile["cluster"]["network"]["latency_ms"]
    assert cluster.restart_s == profile["cluster"]["restart_s"]
    assert load(scenario_file, ["cluster.hardware=rtx-4090"]).cluster.hardware == "rtx-4090"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("cluster.slots_per_model=8", "at most 4 sequences in a batch, not 8"),
        ("workload.output_tokens.mean=9000", "output_tokens mostly from"),
        ("cluster.models={mistral:7b: {replicas: 1}}", "was not measured with mistral:7b"),
    ],
)
def test_outside_of_what_was_measured_the_twin_gives_no_advice_unless_guesses_are_wanted(
    scenario_file: Path, change: str, said: str
) -> None:
    with pytest.raises(OperatorError, match="outside of the calibration") as error:
        load(scenario_file, [change])
    assert said in str(error.value)
    load(scenario_file, [change, "cluster.hardware.calibration.extrapolate=true"])


def test_a_file_that_is_no_profile_is_one_line(scenario_file: Path) -> None:
    (scenario_file.parent / "known.yaml").write_text("decode_ms: [1]\n", encoding="utf-8")
    with pytest.raises(OperatorError, match="no profile of this version"):
        load(scenario_file)
    with pytest.raises(OperatorError, match="ollamamax calibrate"):
        read_profile(scenario_file.parent / "missing.yaml")


def test_what_a_shared_processor_has_room_for_and_how_long_a_batch_is_waited_for_are_recovered_too() -> None:
    hosts = {"nodes_each": 3, "room": 1.4}
    machine = TRUTH | {"joining_ms": 6, "joining_steps": 3}
    loads = [asked(rate, hardware=machine, cluster__nodes=3, cluster__hosts=hosts) for rate in (0.3, 0.6, 0.9)]
    found = calibrate("shared", sources(*loads))
    assert found["cluster"]["hosts"]["nodes_each"] == 3
    assert found["cluster"]["hosts"]["room"] == pytest.approx(1.4, rel=0.03)
    assert found["hardware"]["decode_ms"][:2] == pytest.approx(TRUTH["decode_ms"][:2], rel=0.03)
    low, high = found["measured"]["room"][0]["ci95"]
    assert low <= 1.4 <= high
    steps_ms = found["hardware"]["decode_ms"]
    for step_ms in steps_ms:  # steps of nearly one length do not tell how much is fixed, but what it comes to
        waited_ms = found["hardware"]["joining_ms"] + found["hardware"]["joining_steps"] * step_ms
        assert waited_ms == pytest.approx(6 + 3 * step_ms, rel=0.1)
    assert found["hardware"]["server_ms"] == pytest.approx(12, rel=0.1)


def test_how_much_the_servers_time_varies_is_recovered() -> None:
    machine = TRUTH | {"server_cv": 0.5}
    found = calibrate("varied", sources(*(asked(rate, hardware=machine) for rate in (0.3, 0.6))))
    assert found["hardware"]["server_cv"] == pytest.approx(0.5, rel=0.15)
    assert found["hardware"]["server_ms"] == pytest.approx(12, rel=0.1)


def test_what_a_token_takes_longer_for_each_before_it_is_told_from_what_every_token_takes() -> None:
    hardware = TRUTH | {"prefill_growth_us": 2.0}
    profile = calibrate("curved", sources(*(asked(rate_rps, hardware=hardware) for rate_rps in (0.8, 1.4, 2.0))))
    assert profile["hardware"]["prefill_tokens_per_s"] == pytest.approx(1500, rel=0.03)
    assert profile["hardware"]["prefill_growth_us"] == pytest.approx(2.0, rel=0.1)
    [seen] = profile["measured"]["prefill_growth_us"]
    assert seen["ci95"][0] <= seen["value"] <= seen["ci95"][1]


def test_runs_of_another_version_or_machine_or_given_twice_make_no_profile() -> None:
    one, two = sources(asked(0.8), asked(1.4))
    with pytest.raises(OperatorError, match="given twice; it would count double"):
        calibrate("twice", [one, one])
    two.record.manifest["version"] = "0.0.7"
    with pytest.raises(OperatorError, match=r"version 0\.0\.7, that of run-0 is"):
        calibrate("older", [one, two])
    two.record.manifest["version"] = one.record.manifest["version"]
    two.record.manifest["machine"] = {**one.record.manifest["machine"], "cores": 64}
    with pytest.raises(OperatorError, match="cores 64, that of run-0 is"):
        calibrate("elsewhere", [one, two])


def test_prompts_that_all_cost_the_same_a_token_show_no_growth() -> None:
    profile = calibrate("straight", sources(asked(0.8), asked(1.4)))
    assert profile["hardware"]["prefill_growth_us"] < 0.1


class WithoutChoosing(RunRecord):
    """A record whose nodes leave out of `eval_duration` what choosing tokens took, as real ones do: a fifth here."""

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        table = super().table(name, columns)
        place = table.schema.get_field_index("eval_duration_s")
        if place < 0:
            return table
        return table.set_column(place, "eval_duration_s", pc.multiply(table["eval_duration_s"], 0.8))


@pytest.mark.parametrize("streaming", [1.0, 0.6])
def test_what_a_runner_takes_to_choose_tokens_is_part_of_a_step_although_ollama_leaves_it_out(streaming: float) -> None:
    found = []
    for place, rate_rps in enumerate((0.8, 1.4, 2.0)):
        record = run(asked(rate_rps, workload__streaming=streaming), place)
        told = WithoutChoosing(record.manifest, record.folder, record._batches)
        found.append(source(Path(f"run-{place}"), told))
    profile = calibrate("choosing", found)
    assert profile["hardware"]["decode_ms"] == pytest.approx(TRUTH["decode_ms"], rel=0.03)
    assert profile["hardware"]["server_ms"] == pytest.approx(12, rel=0.1)


def test_how_long_a_batch_goes_on_while_a_prompt_is_evaluated_is_told_from_the_prompt_itself() -> None:
    """A real runner counts the step under way, and the one that batch and prompt have together, to the prompt."""
    parts = [
        served(run(asked(rate_rps), place), 4, "llama3.1:8b", 100 * place) for place, rate_rps in enumerate((1.4, 2.0))
    ]
    whole = joined(parts)
    true_s = np.array(TRUTH["decode_ms"]) / 1000.0
    step_s = np.concatenate(([0.0], true_s))[np.minimum(whole.beside, 4)]
    as_real = dataclasses.replace(
        whole,
        steps=whole.steps + 2.0 * whole.prompts_beside,
        prompt_eval_s=whole.prompt_eval_s + 2.0 * step_s[:, None],
    )
    found = decoding(as_real)
    assert found.beside_prompt == pytest.approx(2.0, abs=0.1)
    assert found.steps_s == pytest.approx(true_s, rel=0.02)
    assert prefill(as_real, found)[0] == pytest.approx(1.0 / 1500.0, rel=0.02)
    assert decoding(whole).beside_prompt == pytest.approx(0.0, abs=0.1)
