from __future__ import annotations

from typing import Any

import pytest

from tests.record.runs import Run
from twin.experiment.overhead import had_faults, measures_overhead, relative_costs
from twin.experiment.recovery_times import not_yet, times_of_runs, times_of_study
from twin.record.story import tell


def duration(value_s: float | None, at_least_s: float | None = None) -> dict[str, Any]:
    return {"value_s": value_s, "censored": at_least_s is not None, "at_least_s": at_least_s}


def line(preset: str, seed: int, ttr: dict[str, Any] | None = None, e2e_s: float = 1.0) -> dict[str, Any]:
    recoveries = [{"kind": "server_crash", "node": "node-0", "ttd_s": duration(1.0), "ttr_s": ttr}] if ttr else []
    return {
        "settings": {"policy.preset": preset},
        "seed": seed,
        "figures": {"e2e_s": {"mean": e2e_s}, "ttft_s": {"mean": 0.0}},
        "recoveries": recoveries,
    }


STUDY: dict[str, Any] = {
    "kind": "compare",
    "vary": {"policy.preset": ["none", "default"]},
    "points": [
        {"settings": {"policy.preset": preset}, "expectations": [{"name": "ttr_s", "limit": {"max": 60.0}}]}
        for preset in ("none", "default")
    ],
}


def test_faults_that_were_not_seen_to_their_end_count_for_as_long_as_they_were_watched() -> None:
    lines = [line("none", seed, duration(None, 150.0)) for seed in (1, 2)]
    lines += [line("default", seed, duration(value)) for seed, value in ((1, 5.0), (2, 70.0))]
    lines += [line("default", 3, duration(None))]  # there was nothing to observe
    none, default = times_of_study(STUDY, lines, "ttr_s")
    assert (none.summary["n"], none.summary["censored"], none.within) == (2, 2, 0)
    assert none.summary["median"] is None and not_yet(none) == []
    assert (default.summary["n"], default.nothing, default.within, default.limit_s) == (2, 1, 1, 60.0)
    assert not_yet(default) == [
        {"after_s": 0.0, "share": 1.0},
        {"after_s": 5.0, "share": 0.5},
        {"after_s": 70.0, "share": 0.0},
    ]


def test_the_faults_of_runs_are_one_group() -> None:
    story = tell(Run().every(1.0, 1.0, 100.0).fault(30.0).incident(32.0).end())
    times = times_of_runs("small", [story, story], "ttd_s")
    assert [fault["value_s"] for fault in times.faults] == [2.0, 2.0]
    assert times.limit_s is None and times.within is None


def test_the_cost_is_the_paired_difference_as_a_share_of_the_baseline() -> None:
    lines = [
        line("none", 1, e2e_s=1.0),
        line("none", 2, e2e_s=3.0),
        line("default", 1, e2e_s=1.1),
        line("default", 2, e2e_s=3.1),
    ]
    (row,) = relative_costs(STUDY, lines)
    assert (row["figure"], row["n"], row["baseline"]) == ("e2e_s.mean", 2, 2.0)
    assert row["relative"] == pytest.approx(0.05)
    assert row["ci95"] == pytest.approx([0.05, 0.05], abs=1e-6)


def test_only_a_comparison_with_fault_tolerance_off_first_measures_overhead() -> None:
    assert measures_overhead(STUDY)
    assert not measures_overhead(STUDY | {"kind": "sweep"})
    assert not measures_overhead(STUDY | {"vary": {"policy.preset": ["default", "none"]}})
    assert not had_faults([line("none", 1)])
    assert had_faults([line("none", 1, duration(1.0))])
