"""Each arrival process against its closed form, at four standard errors where it is drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.scenario.documents import scenario
from twin.scenario.demand import Demand
from twin.scenario.workload.arrivals import DiurnalArrivals, MarkovModulatedArrivals


def times(arrivals: dict[str, Any], duration_s: float, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
    it = scenario(workload__arrivals=arrivals, workload__duration_s=duration_s)
    return np.array([arrival.arrival_s for arrival in Demand(it, seed).openings()])


MODULATED = {
    "kind": "markov_modulated",
    "states": [{"rate_rps": 1.0, "mean_s": 30}, {"rate_rps": 10.0, "mean_s": 15}],
}


def test_modulated_arrivals_have_the_mean_rate_the_variance_and_the_correlation_of_their_formulas() -> None:
    """Counts N in windows of w seconds (two states that are left at rates a and b, with q = a + b and shares p of time):

    Var N = rate w + 2 C (w / q - (1 - exp(-q w)) / q^2) and Cov of neighbours = C (1 - exp(-q w))^2 / q^2, where
    C = p1 p2 (r1 - r2)^2 is the variance of the rate (Fischer and Meier-Hellstern, The MMPP cookbook, 1993).
    """
    window_s, duration_s = 10.0, 200_000.0
    counts, _ = np.histogram(times(MODULATED, duration_s), bins=int(duration_s / window_s), range=(0, duration_s))
    rate, q, spread = 4.0, 1 / 30 + 1 / 15, (2 / 3) * (1 / 3) * 81.0
    decay = 1 - math.exp(-q * window_s)
    variance = rate * window_s + 2 * spread * (window_s / q - decay / q**2)
    covariance = spread * decay**2 / q**2
    # The rate's own ups and downs make a mean over so many windows uncertain by sqrt(2 C / (q T)).
    assert counts.mean() / window_s == pytest.approx(rate, abs=4 * math.sqrt(2 * spread / q / duration_s))
    assert counts.var() == pytest.approx(variance, rel=0.06)
    assert np.cov(counts[:-1], counts[1:])[0, 1] == pytest.approx(covariance, rel=0.08)
    assert variance > 10 * rate * window_s, "a Poisson process would fail by far"


def test_modulated_arrivals_go_on_across_chunks_and_pause_where_the_rate_is_0() -> None:
    states = [{"rate_rps": 0.0, "mean_s": 50}, {"rate_rps": 20.0, "mean_s": 50}]
    found = times({"kind": "markov_modulated", "states": states}, 5000)
    gaps = np.diff(found)
    assert len(found) > 2 * 4096
    assert gaps.min() >= 0.0
    # Silences longer than 2 s (which 20 requests a second all but never leave): one for each visit to the first state.
    assert (gaps > 2).sum() == pytest.approx(50, abs=4 * math.sqrt(50))
    assert gaps[gaps <= 2].mean() == pytest.approx(1 / 20, rel=0.05)


def test_three_states_have_the_mean_rate_of_their_shares() -> None:
    states = [{"rate_rps": rate, "mean_s": mean_s} for rate, mean_s in ((1, 5), (5, 10), (20, 5))]
    assert MarkovModulatedArrivals(kind="markov_modulated", states=states).rate_rps == 7.75
    found = times({"kind": "markov_modulated", "states": states}, 20_000)
    assert len(found) / 20_000 == pytest.approx(7.75, rel=0.04)


@pytest.mark.parametrize("amplitude", [0.0, 0.6, 1.0])
def test_diurnal_arrivals_follow_the_integral_of_their_rate_hour_by_hour(amplitude: float) -> None:
    document = {"kind": "diurnal", "rate_rps": 2.0, "amplitude": amplitude, "phase_s": 64_800}
    found = times(document, 86_400)
    process = DiurnalArrivals.model_validate(document)
    edges = np.arange(0.0, 86_401.0, 3600.0)
    counts, _ = np.histogram(found, bins=edges)
    expected = np.diff([process.expected(edge) for edge in edges.tolist()])
    assert np.all(np.abs(counts - expected) < 4.5 * np.sqrt(expected))
    assert expected.sum() == pytest.approx(2.0 * 86_400)
    if amplitude:
        assert expected[0] < 0.6 * expected.mean() < expected[12], "it begins near the trough, as phase_s says"


def test_the_rate_of_a_day_is_the_derivative_of_what_is_expected() -> None:
    process = DiurnalArrivals(kind="diurnal", rate_rps=3.0, amplitude=0.8, period_s=600, phase_s=100)
    at = np.linspace(0, 1200, 50)
    slope = [(process.expected(t + 1e-3) - process.expected(t - 1e-3)) / 2e-3 for t in at.tolist()]
    assert process.rate_at(at) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    "arrivals",
    [MODULATED, {"kind": "diurnal", "rate_rps": 5.0}, {"kind": "bursty", "rate_rps": 5.0}],
    ids=lambda arrivals: arrivals["kind"],
)
def test_a_seed_always_draws_the_same_and_a_longer_run_only_adds(arrivals: dict[str, Any]) -> None:
    short, again, long = times(arrivals, 300), times(arrivals, 300), times(arrivals, 3000)
    assert short.tolist() == again.tolist() == long[: len(short)].tolist()
    assert short.tolist() != times(arrivals, 300, seed=2).tolist()


def test_the_live_world_may_have_another_mean_rate() -> None:
    it = scenario(workload__arrivals=MODULATED, live={"rate_rps": 2.0}).for_live()
    assert it.workload.arrivals.rate_rps == pytest.approx(2.0)
    assert [state.rate_rps for state in it.workload.arrivals.states] == [0.5, 5.0]
    day = scenario(workload__arrivals={"kind": "diurnal", "rate_rps": 9.0}, live={"rate_rps": 2.0}).for_live()
    assert day.workload.arrivals.rate_rps == 2.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload__arrivals": {**MODULATED, "states": [{"rate_rps": 0, "mean_s": 1}] * 2}}, "nothing ever arrives"),
        (
            {
                "workload__arrivals": {
                    "kind": "closed_loop",
                    "clients": 2,
                    "think_time": {"kind": "constant", "mean_s": 1},
                },
                "live": {"rate_rps": 2.0},
            },
            "live.rate_rps: arrivals of kind closed_loop have no rate; give live.arrivals",
        ),
        ({"workload__prompt_tokens": {"kind": "from_trace"}}, "from_trace needs a file, or arrivals of kind trace"),
        ({"workload__embed_models": {"llama3.1:8b": 1}}, "kinds has no share of embed"),
        ({"workload__context_tokens": {"-1": 1}}, "-1 is no context length"),
        ({"workload__patience": {}}, "give first_token, end or retries"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scenario(**changes)
