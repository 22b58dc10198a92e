"""The simulator against closed forms of queueing theory.

Each test runs replications with fixed seeds and asks that the 95 % interval of the mean holds the formula's value, and
that the interval is narrow enough for a wrong simulator to fall out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sim.worlds import simulate
from twin.experiment.verdict import interval
from twin.record.figures import compute_figures
from twin.record.reader import RunRecord
from twin.scenario.loader import changed, load
from twin.scenario.schema import Scenario

MMC = load(Path(__file__).parents[2] / "scenarios" / "theory-mmc.yaml")


def geometric_mean_of(mean: float) -> float:
    """Mean of an exponential length rounded up to whole tokens."""
    return 1.0 / (1.0 - math.exp(-1.0 / mean))


def erlang_c_wait_s(servers: int, rate: float, service_s: float) -> float:
    """Mean wait in M/M/c."""
    offered = rate * service_s
    rest = sum(offered**k / math.factorial(k) for k in range(servers))
    full = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return full / (rest + full) * service_s / (servers - offered)


def over_seeds(
    scenario: Scenario, replications: int, figure: Callable[[RunRecord], float]
) -> tuple[float, float, float]:
    """Mean and 95 % interval of a figure."""
    mean, bounds = interval([figure(simulate(scenario, seed)[1]) for seed in range(1, replications + 1)])
    assert bounds is not None
    return mean, bounds[0], bounds[1]


def mean_of(name: str) -> Callable[[RunRecord], float]:
    return lambda record: compute_figures(record)[name]["mean"]


def single_queue(slots: int, decode_ms: list[float], length: dict[str, Any], rate: float, **changes: Any) -> Scenario:
    settings: dict[str, Any] = {
        "schema": 1,
        "name": "queue",
        "claim": "A queue.",
        "cluster": {
            "nodes": 1,
            "hardware": {"decode_ms": decode_ms, "prefill_tokens_per_s": None, "vram_gib": 24, "load_gib_per_s": 2},
            "models": {"unit": {"replicas": 1, "size_gib": 5, "kv_mib_per_1k_tokens": 0}},
            "slots_per_model": slots,
            "network": {"latency_ms": 0},
        },
        "workload": {
            "arrivals": {"kind": "poisson", "rate_rps": rate},
            "prompt_tokens": {"kind": "constant", "mean": 1},
            "output_tokens": length,
            "deadline_s": 100_000,
            "warmup_s": 100,
            "duration_s": 6000,
        },
        "policy": {"preset": "none"},
        "record": {"journal": False, "telemetry_period_s": 1000},
    }
    return Scenario.model_validate(settings | changes)


def test_the_wait_at_the_gateway_is_erlang_c() -> None:
    rate = MMC.workload.arrivals.rate_rps
    expected_s = erlang_c_wait_s(4, rate, 0.01 * geometric_mean_of(500))
    assert expected_s == pytest.approx(3.76, abs=0.01)
    mean_s, low_s, high_s = over_seeds(MMC, 10, mean_of("queue_wait_s"))
    assert low_s < expected_s < high_s
    assert high_s - low_s < 0.2 * expected_s, mean_s


def test_without_admission_the_same_wait_is_hidden_at_the_node() -> None:
    """Ollama's own queue: the gateway sees none of it but in total_duration (4 slots as before, the wait moved)."""
    scenario = changed(MMC, ["policy.admission.enabled=false"])
    expected_s = erlang_c_wait_s(4, MMC.workload.arrivals.rate_rps, 0.01 * geometric_mean_of(500))
    _, record = simulate(scenario, 1)
    _, admitted = simulate(MMC, 1)
    dispatched = np.array(record.table("requests")["dispatched_s"]) - np.array(record.table("requests")["arrival_s"])
    assert dispatched.max() == 0.0
    seen = [compute_figures(it)["e2e_s"]["mean"] for it in (record, admitted)]
    assert seen[0] == pytest.approx(seen[1], rel=1e-9), "where they wait changes nothing in a queue of one node"
    assert seen[0] > 0.01 * geometric_mean_of(500) + 0.7 * expected_s


@pytest.mark.parametrize(
    ("length", "mean_tokens"),
    [
        ({"kind": "exponential", "mean": 500}, geometric_mean_of(500)),
        ({"kind": "constant", "mean": 500}, 500.0),
        ({"kind": "empirical", "values": [100, 100, 100, 100, 2100]}, 500.0),
    ],
    ids=["exponential", "constant", "two-point"],
)
def test_a_shared_gpu_answers_as_fast_whatever_the_spread_of_lengths(
    length: dict[str, Any], mean_tokens: float
) -> None:
    """M/G/1-PS: with n sequences a step takes n times as long, and the mean time is S / (1 - rho) for every distribution."""
    rate, alone_s = 1.2, mean_tokens / 1000.0
    scenario = single_queue(64, [float(n) for n in range(1, 65)], length, rate)
    expected_s = alone_s / (1.0 - rate * alone_s)
    mean_s, low_s, high_s = over_seeds(scenario, 8, mean_of("e2e_s"))
    assert low_s < expected_s < high_s
    assert high_s - low_s < 0.16 * expected_s, mean_s


def test_breakdowns_that_stop_the_work_and_let_it_go_on_delay_as_theory_says() -> None:
    """M/M/1 with breakdowns (White and Christie): rates xi of failing, busy or not, and eta of being repaired."""
    arrive, service_s, xi, eta = 1.0, 0.001 * geometric_mean_of(500), 0.05, 0.5
    mu = 1.0 / service_s
    in_system = arrive * ((xi + eta) ** 2 + xi * mu) / ((xi + eta) * (eta * mu - arrive * (xi + eta)))
    expected_s = in_system / arrive

    def run(seed: int) -> float:
        random = np.random.default_rng(seed)
        now, faults = 0.0, []
        while (now := now + random.exponential(1 / xi)) < 6000:
            lasts_s = random.exponential(1 / eta)
            faults.append({"kind": "runner_hang", "at_s": now, "target": "node-0", "duration_s": lasts_s})
            now += lasts_s
        scenario = single_queue(1, [1.0], {"kind": "exponential", "mean": 500}, arrive, faults=faults)
        return mean_of("e2e_s")(simulate(scenario, seed)[1])

    mean_s, bounds = interval([run(seed) for seed in range(1, 8)])
    assert bounds is not None
    assert bounds[0] < expected_s < bounds[1]
    assert bounds[1] - bounds[0] < 0.2 * expected_s, mean_s
    assert expected_s > 1.4 * service_s / (1 - arrive * service_s), "the breakdowns are worth their test"


def test_littles_law_holds_between_what_is_sampled_and_what_requests_take() -> None:
    scenario = changed(MMC, ["record.telemetry_period_s=0.5", "workload.warmup_s=0", "workload.duration_s=5000"])
    _, record = simulate(scenario, 3)
    telemetry = record.table("telemetry")
    present = np.array(telemetry["in_flight"], dtype=float) + np.array(telemetry["waiting"], dtype=float)
    requests = record.table("requests")
    took_s = np.array(requests["end_s"]) - np.array(requests["arrival_s"])
    rate = requests.num_rows / record.number("simulated_s")
    assert present.mean() == pytest.approx(rate * took_s.mean(), rel=0.01)
    assert present.mean() > 3.0
