from __future__ import annotations

import math
from typing import Any

import pytest

from tests.learn.worlds import SHORT
from twin.experiment.twin_world import TwinWorld
from twin.learn.harm import Machines
from twin.learn.truth import truth_of
from twin.record.reader import RunRecord
from twin.scenario.schema import Scenario


def run(faults: list[dict[str, Any]], rate_rps: float = 0.3, **cluster: Any) -> RunRecord:
    """The short world with other faults. Three nodes and one model."""
    document = SHORT.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["faults"] = faults
    document["workload"]["arrivals"]["rate_rps"] = rate_rps
    document["cluster"] |= cluster
    return TwinWorld().run(Scenario.model_validate(document), 1, None, lambda line: None)


HOT = {"kind": "thermal_throttle", "at_s": 600, "duration_s": 600, "target": "node-0", "cooling_factor": 0.3}


def test_a_cooling_that_fails_hurts_once_the_clock_falls() -> None:
    record = run([HOT], rate_rps=6.0)
    met_s = Machines(record).met_s("thermal_throttle", "node-0", 600.0, 1200.0)
    assert 610.0 < met_s < 900.0


def test_on_a_card_that_stays_cold_it_hurts_nothing() -> None:
    record = run([HOT], rate_rps=0.02)
    assert math.isnan(Machines(record).met_s("thermal_throttle", "node-0", 600.0, 1200.0))


def test_loads_that_are_slow_hurt_the_first_that_is_asked_for() -> None:
    document = SHORT.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["cluster"]["models"]["llama3.2:1b"] = {"replicas": 0}
    document["workload"]["models"] = {"llama3.1:8b": 1.0}
    document["policy"]["overrides"]["probes.load_path_model"] = "llama3.2:1b"
    record = TwinWorld().run(Scenario.model_validate(document), 1, None, lambda line: None)
    machines = Machines(record)
    probes = [it for it in record.table("probes").to_pylist() if it["kind"] == "load_path" and it["node"] == "node-0"]
    answered = probes[20]
    began_s = answered["time_s"] - answered["latency_s"]
    assert machines.met_s("slow_loads", "node-0", began_s - 5.0, began_s + 60.0) == pytest.approx(began_s)
    assert machines.met_s("load_stall", "node-0", began_s + 0.1, began_s + 0.2) == pytest.approx(began_s + 0.1)
    assert math.isnan(machines.met_s("load_stall", "node-0", began_s - 5.0, began_s - 4.0))


def test_where_no_model_is_loaded_no_runner_can_hang() -> None:
    machines = Machines(run([], models={"llama3.1:8b": {"replicas": 2}}))
    met = {name: machines.met_s("runner_hang", name, 600.0, 700.0) for name in machines.nodes()}
    assert sorted(met.values(), key=math.isnan)[:2] == [600.0, 600.0]
    assert math.isnan(met["node-2"])


def test_a_model_that_was_loaded_while_memory_was_short_lies_in_main_memory_until_it_is_loaded_anew() -> None:
    leak = {"kind": "vram_leak", "at_s": 900, "lead_s": 400, "target": "node-0", "duration_s": 60}
    machines = Machines(run([leak]))
    found = machines.offloaded("node-0")
    assert found, "it was loaded while the leak had the memory"
    assert 900.0 <= found[0][0] < found[0][1] <= 960.0, "until the repair loaded it anew"
    assert not machines.offloaded("node-1")


def test_a_machine_on_which_models_always_lie_in_main_memory_is_not_damaged() -> None:
    assert not Machines(run([], hardware="cpu-64-core")).offloaded("node-0")


def test_a_cooling_that_fails_suddenly_shows_from_then_on() -> None:
    (failure,) = truth_of(run([HOT], rate_rps=6.0)).failures
    assert failure.signs_s == 600.0
    assert failure.at_s > 610.0
    assert failure.foretellable
