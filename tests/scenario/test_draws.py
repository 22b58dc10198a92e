"""What is drawn depends on the seed and on its own name, and on nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.scenario.documents import scenario
from twin.scenario.contents import Arrival
from twin.scenario.demand import Demand
from twin.scenario.draws import stream, targets


def drawn(seed: int = 1, **changes: Any) -> list[Arrival]:
    return list(Demand(scenario(**changes), seed).openings())


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_streams_do_not_touch_each_other() -> None:
    before = drawn()
    after = drawn(workload__output_tokens={"kind": "lognormal", "mean": 999, "cv": 2.0})
    assert [a.output_tokens for a in before] != [a.output_tokens for a in after]
    assert [a[:3] + a[4:] for a in before] == [a[:3] + a[4:] for a in after]
    after = drawn(workload__streaming=0.1)
    assert [a[:4] for a in before] == [a[:4] for a in after]


def test_a_longer_run_only_adds_arrivals() -> None:
    short, long = drawn(), drawn(workload__duration_s=80)
    assert long[: len(short)] == short
    assert len(long) > len(short)


def test_arrivals_end_with_the_load_and_come_in_order() -> None:
    times = [a.arrival_s for a in drawn(workload__warmup_s=10)]
    assert times == sorted(times)
    assert 45 < times[-1] < 50


@pytest.mark.parametrize(
    ("kind", "cv"),
    [({"kind": "poisson"}, 1.0), ({"kind": "constant"}, 0.0), ({"kind": "bursty", "cv": 3.0}, 3.0)],
)
def test_gaps_have_the_rate_and_the_spread_that_they_should(kind: dict[str, Any], cv: float) -> None:
    times = np.array(
        [a.arrival_s for a in drawn(workload__arrivals={**kind, "rate_rps": 20.0}, workload__duration_s=5000)]
    )
    gaps = np.diff(times, prepend=0.0)
    # Four standard errors of the mean: a wrong rate is seen, an unlucky seed is not.
    assert gaps.mean() == pytest.approx(1 / 20, abs=4 * max(cv, 1e-6) / 20 / math.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("length", "mean", "deviation"),
    [
        ({"kind": "constant", "mean": 70}, 70.0, 0.0),
        ({"kind": "exponential", "mean": 200}, 200.5, 200.0),  # rounded up: half a token more
        ({"kind": "lognormal", "mean": 200, "cv": 0.8}, 200.0, 160.0),
        ({"kind": "empirical", "values": [10, 20, 60]}, 30.0, 21.6),
    ],
)
def test_lengths_have_the_mean_and_the_spread_that_they_should(
    length: dict[str, Any], mean: float, deviation: float
) -> None:
    found = np.array([a.output_tokens for a in drawn(workload__output_tokens=length, workload__duration_s=20000)])
    assert found.mean() == pytest.approx(mean, abs=4 * deviation / math.sqrt(len(found)) + 1e-9)
    assert found.std() == pytest.approx(deviation, rel=0.05, abs=1e-9)
    assert found.min() >= 1


def test_shares_of_models_and_of_streams_are_kept() -> None:
    models = {"llama3.1:8b": {"replicas": 1}, "llama3.2:1b": {"replicas": 1}, "llama3.2:3b": {"replicas": 0}}
    found = drawn(cluster__models=models, workload__duration_s=20000, workload__streaming=0.3)
    share = sum(a.model == "llama3.1:8b" for a in found) / len(found)
    assert share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(found)))
    assert {a.model for a in found} == {"llama3.1:8b", "llama3.2:1b"}, "what has no replicas gets no requests"
    assert sum(a.stream for a in found) / len(found) == pytest.approx(0.3, abs=0.01)
    weighted = drawn(
        cluster__models=models, workload__duration_s=20000, workload__models={"llama3.1:8b": 3, "llama3.2:3b": 1}
    )
    share = sum(a.model == "llama3.1:8b" for a in weighted) / len(weighted)
    assert share == pytest.approx(0.75, abs=4 * 0.5 / math.sqrt(len(weighted)))


def test_targets_are_drawn_per_fault_and_all_nodes_are_hit_equally() -> None:
    crash = {"kind": "server_crash", "at_s": 1}
    it = scenario(
        cluster__nodes=4,
        faults=[{**crash, "target": target} for target in ("random", "random(3)", "all", "node-2")],
    )
    names = it.cluster.node_names()
    assert targets(it, 2, it.faults[2], 1) == names
    assert targets(it, 3, it.faults[3], 1) == ["node-2"]
    assert targets(it, 1, it.faults[1], 5) == targets(it, 1, it.faults[1], 5)
    assert len(set(targets(it, 1, it.faults[1], 5))) == 3
    hit = [targets(it, 0, it.faults[0], seed)[0] for seed in range(2000)]
    for name in names:
        assert hit.count(name) == pytest.approx(500, abs=4 * math.sqrt(2000 * 0.25 * 0.75))


def test_gaps_lengths_and_streaming_of_a_workload_have_nothing_to_do_with_each_other() -> None:
    exponential = {"kind": "exponential", "mean": 500}
    found = drawn(
        workload__duration_s=20000,
        workload__prompt_tokens=exponential,
        workload__output_tokens=exponential,
        workload__streaming=0.5,
    )
    gaps = np.diff([a.arrival_s for a in found], prepend=0.0)
    columns = [gaps, *([float(a[place]) for a in found] for place in (2, 3, 4))]
    correlation = np.corrcoef(np.array(columns)) - np.eye(4)
    assert abs(correlation).max() < 4 / math.sqrt(len(found))


def test_streams_of_different_names_are_independent() -> None:
    one, other = stream(1, "workload:gaps").random(20000), stream(1, "workload:prompt").random(20000)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(20000)
