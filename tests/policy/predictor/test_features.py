from __future__ import annotations

import math

import numpy as np
import pytest

from tests.policy.predictor.nodes import sample
from twin.policy.predictor.features import FEATURES, PLACE, NodeFeatures
from twin.policy.vocabulary import AttemptEnded, ProbeResult


def ended(seconds_per_token: float, error: str = "", load_s: float = 0.0, model: str = "a") -> AttemptEnded:
    outcome = "failed" if error else "succeeded"
    decode_s = 100 * seconds_per_token
    total_s = load_s + 0.2 + decode_s
    return AttemptEnded(1, 0, "n", model, outcome, error, 0.0, 0.1, 100, load_s, 0.2, decode_s, total_s, 200)  # type: ignore[arg-type]


def seen(features: NodeFeatures, name: str, now: float = 0.0) -> float:
    return features.vector(now, 0)[PLACE[name]]


def test_a_vector_has_a_value_for_every_name_and_no_name_twice() -> None:
    assert len(NodeFeatures(300.0, 300.0).vector(0.0, 0)) == len(FEATURES) == len(set(FEATURES))


def test_without_an_agent_the_machine_is_unknown_and_requests_are_counted() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(20):
        features.attempt_ended(20.0 * step, ended(0.01), 1.0, 0)
        features.look(20.0 * step, None)
    features.attempt_ended(401.0, ended(0.01, "reset"), 1.0, 0)
    assert math.isnan(seen(features, "vram_free"))
    assert seen(features, "pace") == pytest.approx(1.0)
    assert seen(features, "failures") == 1.0


def test_memory_beyond_what_ollama_lists_has_a_trend() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(40):
        features.look(20.0 * step, sample(vram_used_gib=10.0 + 0.1 * step, ollama_vram_gib=10.0))
    assert seen(features, "vram_unlisted.trend") == pytest.approx(0.1 / 24.0 / 20.0 * 300.0, rel=1e-3)


def test_a_counter_counts_what_comes_and_nothing_when_it_is_started_anew() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step, count in enumerate((5.0, 7.0, 0.0, 0.0)):
        features.look(0.001 * step, sample(gpu_fault_events=count))
    assert seen(features, "gpu_fault_events.window") == pytest.approx(2.0, rel=1e-3)


def test_a_clock_that_runs_backwards_is_not_listened_to() -> None:
    features = NodeFeatures(300.0, 300.0)
    features.look(100.0, sample())
    before = features.vector(100.0, 0)
    features.look(50.0, sample(vram_used_gib=24.0))
    after = features.vector(100.0, 0)
    assert [it for it in before if not math.isnan(it)] == [it for it in after if not math.isnan(it)]


def test_a_long_gap_is_no_trend() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(20):
        features.look(20.0 * step, sample(vram_used_gib=10.0))
    features.look(5000.0, sample(vram_used_gib=20.0))
    assert seen(features, "vram_free.trend") == 0.0


def test_a_slow_load_is_told_against_the_nodes_own_loads() -> None:
    features = NodeFeatures(300.0, 300.0)
    for now, load_s in ((0.0, 3.0), (10.0, 3.0), (20.0, 9.0)):
        features.attempt_ended(now, ended(0.01, load_s=load_s), 1.0, 0)
    assert seen(features, "load_slowness", 25.0) == pytest.approx(2.0)  # half of it, smoothed
    assert seen(features, "load_age_s", 25.0) == pytest.approx(5.0)


def test_a_probe_of_the_lock_leaves_its_latency() -> None:
    features = NodeFeatures(300.0, 300.0)
    features.answered(ProbeResult(1, "n", "residency", "", False, 1.5, "first_token_timeout"))
    assert seen(features, "residency_latency_s") == 1.5
    assert seen(features, "residency_failures") == 1.0


def test_heat_that_its_power_does_not_explain_is_excess() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(200):
        power_w = 100.0 + 50.0 * (step // 20 % 4)
        features.look(20.0 * step, sample(gpu_power_w=power_w, gpu_temperature_c=25.0 + 0.1 * power_w))
    assert abs(seen(features, "heat_excess")) < 2.0
    for step in range(200, 206):
        features.look(20.0 * step, sample(gpu_power_w=100.0, gpu_temperature_c=50.0))
    assert seen(features, "heat_excess") > 6.0


def test_a_node_is_as_slow_as_its_fastest_request_whatever_the_others_wait_for() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(100):
        slowness = 1.05 if step >= 80 else 1.0
        features.attempt_ended(20.0 * step, ended(0.01 * slowness), 1.0, 0)
        if step % 5 == 0:
            features.attempt_ended(20.0 * step, ended(0.02), 1.0, 0)  # it waited for the prompt of another one
        features.look(20.0 * step, None)
    assert 1.015 < seen(features, "pace") < 1.05
    assert seen(features, "pace.deviation") > 2.0


def test_a_slow_model_beside_a_fast_one_is_no_slowness_of_the_node() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(100):
        small = step % 2 == 0
        features.attempt_ended(20.0 * step, ended(0.01 if small else 0.05, model="small" if small else "large"), 1.0, 0)
        features.look(20.0 * step, None)
    assert seen(features, "pace") == pytest.approx(1.0)
    assert abs(seen(features, "pace.deviation")) < 0.5


def test_where_gpu_and_processor_share_memory_main_memory_tells_what_is_held() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(20):
        shared = sample(vram_used_gib=math.nan, vram_total_gib=math.nan, memory_total_gib=64.0)
        values = {**shared, "memory_used_gib": 20.0 + step, "ollama_vram_gib": 10.0}
        features.look(20.0 * step, values)
    assert seen(features, "vram_unlisted.trend") == pytest.approx(1.0 / 64.0 / 20.0 * 300.0, rel=1e-3)
    assert seen(features, "vram_exhausted_s") == pytest.approx((1.0 - 37.5 / 64.0) * 64.0 * 20.0, rel=0.1)


def test_a_token_that_is_slow_for_its_company_alone_is_no_slowness_of_the_node() -> None:
    features = NodeFeatures(300.0, 300.0)
    random = np.random.default_rng(1)
    for step in range(200):
        company = 1.0 + 2.0 * float(random.random())
        beside = int(random.integers(0, 400))
        slowness = 1.1 if step >= 180 else 1.0
        token_s = 0.02 * (0.9 + 0.1 * company) + 0.0002 * beside / 99.0
        features.attempt_ended(20.0 * step, ended(token_s * slowness), company, beside)
        features.look(20.0 * step, None)
        if step == 179:
            assert seen(features, "pace") == pytest.approx(1.0, abs=0.01)
            assert abs(seen(features, "pace.change")) < 4.0
    assert 1.07 < seen(features, "pace") < 1.12
    assert seen(features, "pace.change") > 8.0


def test_a_company_that_was_never_seen_says_nothing_until_it_is_known() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(60):
        features.attempt_ended(20.0 * step, ended(0.02), 1.0, 0)
        features.look(20.0 * step, None)
    for step in range(60, 64):
        features.attempt_ended(20.0 * step, ended(0.03), 3.0, 0)
        features.look(20.0 * step, None)
    assert seen(features, "pace") == pytest.approx(1.0, abs=0.01)


def test_a_load_that_probes_the_scheduler_is_told_against_the_nodes_own_probes() -> None:
    features = NodeFeatures(300.0, 300.0)
    assert math.isnan(seen(features, "load_path"))
    for step in range(60):
        for latency_s in (1.0 if step < 50 else 1.5, 4.0):
            waited_s = 3.0 if step == 40 else 0.0  # both waited for another load, which is over at the next look
            features.answered(ProbeResult(step, "n", "load_path", "small", True, latency_s + waited_s, ""))
        features.look(20.0 * step, None)
        if step == 49:
            assert seen(features, "load_path.change") == pytest.approx(0.0, abs=1.0)
    assert 1.3 < seen(features, "load_path") < 1.6
    for latency_s in (2.0, 6.0):
        features.answered(ProbeResult(61, "n", "residency", "", True, latency_s - 1.5, ""))
        features.answered(ProbeResult(62, "n", "load_path", "small", True, latency_s, ""))
        features.look(1_200.0 + latency_s, None)
    assert seen(features, "load_path") == pytest.approx(1.5, abs=0.1), "the way to the node is none of the load"
    loading = seen(features, "load_path")
    features.answered(ProbeResult(63, "n", "load_path", "small", True, 20.0, ""))
    features.look(1_240.0, sample(ollama_processes=3.0))
    assert seen(features, "load_path") <= loading, "it waited for another load"
    assert seen(features, "load_path.change") > 8.0


def test_what_was_slow_in_a_runner_that_is_gone_is_soon_forgotten_and_the_normal_stays() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(100):
        features.attempt_ended(20.0 * step, ended(0.01 if step < 90 else 0.012), 1.0, 0)
        features.look(20.0 * step, sample())
    assert seen(features, "pace.change") > 20.0
    for step in range(100, 110):
        features.look(20.0 * step, sample(ollama_resident_models=0.0))
    assert seen(features, "pace.change") < 4.0
    features.attempt_ended(2_200.0, ended(0.012), 1.0, 0)
    features.look(2_200.0, sample())
    assert seen(features, "pace") > 1.02


def test_where_memory_is_shared_a_model_that_is_loaded_is_no_rise_of_main_memory() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(40):
        listed_gib = 10.0 if step < 30 else 30.0
        shared = sample(vram_used_gib=math.nan, vram_total_gib=math.nan, memory_total_gib=64.0)
        features.look(20.0 * step, {**shared, "memory_used_gib": 8.0 + listed_gib, "ollama_vram_gib": listed_gib})
    assert seen(features, "ram_used.change") == pytest.approx(0.0, abs=1.0)
    assert seen(features, "vram_free.change") < -8.0


def test_a_card_that_never_worked_has_no_excess_of_heat_when_it_does() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(60):
        features.look(20.0 * step, sample(gpu_power_w=30.0, gpu_temperature_c=28.0))
    for step in range(60, 63):
        features.look(20.0 * step, sample(gpu_power_w=400.0, gpu_temperature_c=40.0 + 5.0 * (step - 60)))
        assert abs(seen(features, "heat_excess")) < 1.0


def test_without_a_trend_nothing_is_exhausted() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(20):
        features.look(20.0 * step, sample())
    assert seen(features, "ram_exhausted_s") == seen(features, "disk_exhausted_s") == 7200.0


def test_a_hot_hour_does_not_become_the_normal() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step in range(360):
        power_w = 100.0 + 50.0 * (step // 20 % 4)
        hotter_c = 10.0 if step >= 180 else 0.0
        features.look(20.0 * step, sample(gpu_power_w=power_w, gpu_temperature_c=25.0 + 0.1 * power_w + hotter_c))
        if step == 200:
            assert seen(features, "heat_excess") > 5.0
    assert seen(features, "heat_excess") > 1.0


def test_a_node_that_is_back_in_service_begins_anew() -> None:
    features = NodeFeatures(300.0, 300.0)
    for step, count in enumerate((0.0, 30.0)):
        features.returns(in_service=True)
        features.look(20.0 * step, sample(gpu_fault_events=count))
    assert seen(features, "gpu_fault_events.window") > 20.0
    assert not features.returns(in_service=False)
    assert features.returns(in_service=True)
    assert seen(features, "gpu_fault_events.window") == 0.0
    assert not features.returns(in_service=True)
