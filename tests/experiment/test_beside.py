from __future__ import annotations

from typing import Any

import pytest

from tests.record.runs import Run
from twin.experiment.beside import as_live, band, compare_worlds, unlike
from twin.record.story import Story, tell


def figures(**changes: Any) -> dict[str, Any]:
    return {"requests_offered": 100, "requests_lost": 0, "ttr_s": 10.0, "e2e_s": {"mean": 1.0, "p95": 3.0}, **changes}


def verdict(live: list[float | None], twin: list[float | None], name: str = "ttr_s") -> str:
    rows = compare_worlds([figures(ttr_s=value) for value in live], [figures(ttr_s=value) for value in twin])
    return str(next(row["verdict"] for row in rows if row["figure"] == name))


def test_within_the_spread_of_the_live_runs_nothing_can_be_told() -> None:
    assert verdict([9.0, 10.0, 13.0], [14.0, 15.0]) == "indistinguishable"
    assert verdict([9.9, 10.0, 10.1], [10.4, 10.5]) == "close"
    assert verdict([9.9, 10.0, 10.1], [12.0, 12.1]) == "off"


def test_a_single_live_run_could_have_been_one_of_the_twins() -> None:
    assert verdict([10.0], [5.0, 11.0]) == "indistinguishable"
    assert verdict([10.0], [10.5, 10.9]) == "close"
    assert verdict([10.0], [11.5, 14.0]) == "off"


def test_what_one_world_did_not_see_has_no_verdict() -> None:
    assert verdict([None], [10.0]) == "unknown"


def test_the_tail_may_be_farther_off_than_the_mean() -> None:
    live, twin = [figures()], [figures(e2e_s={"mean": 1.08, "p95": 3.24})] * 2
    found = {row["figure"]: row["verdict"] for row in compare_worlds(live, twin)}
    assert (found["e2e_s.mean"], found["e2e_s.p95"]) == ("off", "close")
    lost = next(row for row in compare_worlds(live, twin) if row["figure"] == "requests_lost")
    assert (lost["verdict"], lost["relative"]) == ("indistinguishable", None)


def told(rate: int, prompt_tokens: int = 100) -> Story:
    run = Run()
    for index in range(rate):
        run.request(index * 0.01, index * 0.01 + 1.0, prompt_tokens=prompt_tokens, node=f"node-{index % 2}")
    return tell(run.end())


def test_runs_of_different_loads_are_not_taken_for_the_same() -> None:
    assert unlike(told(100), told(105)) == []
    (rate,) = unlike(told(100), told(150))
    assert rate.startswith("requests per second")
    (tokens,) = unlike(told(100), told(100, prompt_tokens=200))
    assert tokens == "tokens of a prompt (live 100, twin 200 on average)"


def on(hardware: Any, nodes: str | None = None) -> Story:
    story = told(100)
    story.manifest["scenario"]["cluster"] = {"hardware": hardware, "groups": None}
    if nodes is not None:
        story.manifest["nodes"] = nodes
    return story


def test_real_machines_beside_a_profile_of_the_catalogue_are_said_not_to_be_the_same() -> None:
    (machines,) = unlike(on("rtx-4090", "real"), on("rtx-4090"))
    assert machines.startswith("machines (live its own, twin rtx-4090;")
    assert unlike(on("rtx-4090", "real"), on({"calibration": {"name": "mine"}})) == []
    assert unlike(on("rtx-4090", "emulated"), on("rtx-4090")) == []


def test_the_live_worlds_own_settings_become_settings_of_the_twin() -> None:
    scenario = {
        "live": {
            "rate_rps": 4.0,
            "slots_per_model": None,
            "prompt_tokens": {"kind": "constant", "mean": 40.0, "cv": None},
        }
    }
    assert as_live(scenario) == [
        "workload.arrivals.rate_rps=4.0",
        'workload.prompt_tokens={"kind": "constant", "mean": 40.0}',
    ]
    assert as_live({}) == []


def test_a_band_runs_from_the_lowest_to_the_highest_run_of_each_step() -> None:
    rows = band([told(100), told(50)], "requests", "arrived")
    assert rows[0]["low"] == pytest.approx(rows[0]["high"] / 2, rel=0.05) or rows[0]["low"] <= rows[0]["middle"]
    assert all(row["low"] <= row["middle"] <= row["high"] for row in rows)
