"""The machine under a node: heat and clock against closed forms, and what an agent reads there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.sim.worlds import NodeBench
from twin.record.telemetry_columns import TELEMETRY_NAMES
from twin.scenario.hardware import Hardware
from twin.sim.machine import Machine
from twin.sim.node import ModelOnNode, OllamaNode

THERMAL = {
    "idle_w": 20.0,
    "full_w": 320.0,
    "ambient_c": 25.0,
    "full_c": 73.0,  # 0.15 degrees a watt
    "throttle_c": 84.0,
    "time_constant_s": 60.0,
    "clock_mhz": 2000.0,
    "idle_clock_mhz": 200.0,
    "lowest_clock_share": 0.3,
}
IDLE_C = 25.0 + 0.15 * 20.0


class MachineBench(NodeBench):
    """One node whose machine is looked at every `period_s`; a token takes 10 ms."""

    def __init__(self, period_s: float = 5.0, seed: int = 1, name: str = "node-0", **changes: Any) -> None:
        super().__init__()
        table = {
            "decode_ms": [10.0],
            "prefill_tokens_per_s": None,
            "vram_gib": 12,
            "load_gib_per_s": 1,
            "thermal": THERMAL,
        }
        hardware = Hardware.model_validate(table | changes)
        models = {name: ModelOnNode(name, 4.0, 5.0, 4096) for name in "abc"}
        self.node = OllamaNode(self.engine, name, hardware, models, 1, 512, None)
        self.machine = Machine(self.node, seed)
        self.period_s = period_s
        self.samples: list[dict[str, float]] = []
        self.looks: list[tuple[float, float, float]] = []  # time, temperature, clock
        self.at(period_s, self._look)

    def _look(self) -> None:
        now = self.engine.time()
        self.samples.append(dict(zip(TELEMETRY_NAMES, self.machine.sample(now), strict=True)))
        self.looks.append((now, self.machine.temperature_c, self.machine.clock_share))
        self.at(now + self.period_s, self._look)

    def set(self, time_s: float, **conditions: float) -> MachineBench:
        """A fault sets conditions at that time."""

        def put() -> None:
            for name, value in conditions.items():
                self.node.conditions.set("fault", name, value)
            self.node.conditions_changed()

        self.at(time_s, put)
        return self

    def work(self, until_s: float, share: float = 1.0) -> MachineBench:
        """The runner works so much of each second."""
        self.node.add_runner("a")
        second = 0
        while second < until_s:
            self.ask(float(second), f"{second}", "a", tokens=round(100 * share))
            second += 1
        return self


# -- heat -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period_s", [1.0, 7.0, 30.0])
def test_a_step_of_power_answers_as_a_first_order_system_whatever_the_period(period_s: float) -> None:
    bench = MachineBench(period_s)
    bench.work(400.0).run(400.0)
    for time_s, temperature_c, clock in bench.looks:
        assert temperature_c == pytest.approx(73.0 + (IDLE_C - 73.0) * math.exp(-time_s / 60.0), abs=1e-6)
        assert clock == 1.0


def test_half_the_work_takes_half_the_dynamic_power() -> None:
    bench = MachineBench(1.0)
    bench.work(900.0, share=0.5).run(900.0)
    assert bench.machine.utilisation == pytest.approx(0.5)
    assert bench.machine.power_w == pytest.approx(20.0 + 150.0)
    assert bench.machine.temperature_c == pytest.approx(25.0 + 0.15 * 170.0, abs=0.01)


def test_a_machine_that_stops_working_cools_down_as_it_warmed_up() -> None:
    bench = MachineBench(5.0)
    bench.work(600.0).run(720.0)
    time_s, temperature_c, _ = bench.looks[-1]
    hot_c = 73.0 + (IDLE_C - 73.0) * math.exp(-600.0 / 60.0)
    assert temperature_c == pytest.approx(IDLE_C + (hot_c - IDLE_C) * math.exp(-(time_s - 600.0) / 60.0), abs=1e-6)


def test_weak_cooling_takes_the_clock_down_to_what_it_carries_away_and_the_work_with_it() -> None:
    bench = MachineBench(1.0)
    bench.set(0.0, cooling_factor=0.5).work(900.0).run(900.0)
    assert 83.99 < max(temperature_c for _, temperature_c, _ in bench.looks) <= 84.0
    carried_w = (84.0 - 25.0) / 0.30
    share = ((carried_w - 20.0) / 300.0) ** (1 / 3)
    assert bench.machine.clock_share == pytest.approx(share)
    assert bench.machine.power_w == pytest.approx(carried_w)
    runner = bench.node.runners["a"]
    assert runner.slowdown == pytest.approx(1.0 / share)
    assert bench.samples[-1]["gpu_clock_mhz"] == pytest.approx(2000.0 * share, abs=30.0)
    assert len(bench.ended) == pytest.approx(900.0 * share, rel=0.05), "less is done in the same time"


def test_warm_air_throttles_too_and_cool_air_ends_it() -> None:
    bench = MachineBench(5.0)
    bench.set(0.0, ambient_added_c=20.0).set(600.0, ambient_added_c=0.0).work(1500.0).run(1500.0)
    hot = [clock for time_s, _, clock in bench.looks if 400.0 < time_s < 600.0]
    assert hot == [pytest.approx((((84.0 - 45.0) / 0.15 - 20.0) / 300.0) ** (1 / 3))] * len(hot)
    assert bench.looks[-1][2] == 1.0
    assert bench.node.runners["a"].slowdown == 1.0


def test_the_clock_falls_no_further_than_it_can_and_then_the_heat_rises_above_the_limit() -> None:
    bench = MachineBench(5.0)
    bench.set(0.0, cooling_factor=0.02).work(900.0).run(900.0)
    assert bench.machine.clock_share == 0.3
    assert bench.machine.temperature_c > 100.0


def test_a_lower_clock_slows_the_runners_that_are_there_and_those_that_come() -> None:
    bench = MachineBench(5.0)
    bench.set(1.0, gpu_clock_factor=0.5)
    bench.node.add_runner("a")
    bench.ask(10.0, "hot", "a", tokens=100)
    bench.ask(20.0, "cold", "b", tokens=100)
    ended = bench.run(60.0)
    assert ended["hot"] == (pytest.approx(12.0), "")
    assert ended["cold"] == (pytest.approx(20.0 + 4.3 + 2.0), ""), "a load reads the disk, at its own pace"


def test_the_clock_and_another_slowdown_multiply() -> None:
    bench = MachineBench(5.0)
    bench.set(1.0, gpu_clock_factor=0.5)
    bench.node.add_runner("a")
    bench.at(2.0, bench.node.slow_gpu, 3.0)
    bench.ask(10.0, "slow", "a", tokens=100)
    assert bench.run(60.0)["slow"] == (pytest.approx(10.0 + 1.0 * 3.0 * 2.0), "")


# -- what is read ---------------------------------------------------------------------------------------------------


def mean(samples: list[dict[str, float]], column: str) -> float:
    values = [sample[column] for sample in samples]
    return sum(values) / len(values)


def test_what_is_read_follows_the_load() -> None:
    idle, half, full = (MachineBench(5.0) for _ in range(3))
    idle.work(0.0).run(900.0)
    half.work(900.0, share=0.5).run(900.0)
    full.work(900.0).run(900.0)
    for column, values in {
        "gpu_utilisation": (0.0, 0.5, 1.0),
        "processor_utilisation": (0.02, 0.02 + 0.5 / 16, 0.02 + 1 / 16),
        "gpu_power_w": (20.0, 170.0, 320.0),
        "gpu_temperature_c": (28.0, 50.5, 73.0),
    }.items():
        for bench, value in zip((idle, half, full), values, strict=True):
            tolerance = 1.0 if value > 1 else 0.02
            assert mean(bench.samples[-60:], column) == pytest.approx(value, abs=tolerance), column
    assert mean(idle.samples, "gpu_clock_mhz") < 220.0
    assert mean(full.samples, "gpu_clock_mhz") > 1900.0


def test_noise_is_each_nodes_own_and_the_same_in_each_run() -> None:
    def read(name: str, seed: int, **conditions: float) -> list[float]:
        bench = MachineBench(5.0, seed, name)
        if conditions:
            bench.set(50.0, **conditions)
        bench.run(400.0)
        return [sample["gpu_power_w"] for sample in bench.samples]

    once = read("node-0", 1)
    assert once == read("node-0", 1)
    assert once != read("node-1", 1)
    assert once != read("node-0", 2)
    assert len(set(once)) == len(once)
    assert once == read("node-0", 1, corrected_error_rate_per_s=5.0, disk_filled_gib=10.0), "a fault shifts no draw"


@pytest.mark.parametrize(
    ("condition", "value", "column", "change"),
    [
        ("vram_leaked_gib", 2.0, "vram_used_gib", 2.0),
        ("vram_foreign_gib", 3.0, "vram_used_gib", 3.0),
        ("ram_leaked_gib", 10.0, "memory_used_gib", 10.0),
        ("ram_leaked_gib", 64.0, "swap_used_gib", 2.8),
        ("disk_filled_gib", 100.0, "disk_free_gib", -100.0),
        ("disk_filled_gib", 5000.0, "disk_free_gib", -928.0),
        ("clock_offset_s", 90.0, "clock_offset_s", 90.0),
        ("open_files_leaked", 500.0, "open_files", 500.0),
        ("orphan_processes", 2.0, "ollama_processes", 2.0),
        ("processor_busy_share", 0.5, "processor_utilisation", 0.5),
        ("gpu_utilisation_floor", 1.0, "gpu_utilisation", 1.0),
    ],
)
def test_a_condition_is_seen_where_it_is_named(condition: str, value: float, column: str, change: float) -> None:
    bench = MachineBench(5.0)
    bench.node.add_runner("a")
    bench.set(52.0, **{condition: value}).run(100.0)
    before, after = bench.samples[:10], bench.samples[10:]
    assert mean(after, column) - mean(before, column) == pytest.approx(change, abs=0.02 * abs(change) + 0.1)


@pytest.mark.parametrize(
    ("condition", "column"),
    [
        ("corrected_error_rate_per_s", "gpu_errors_corrected"),
        ("uncorrected_error_rate_per_s", "gpu_errors_uncorrected"),
        ("gpu_fault_event_rate_per_s", "gpu_fault_events"),
        ("network_error_rate_per_s", "network_errors"),
        ("error_line_rate_per_s", "ollama_error_lines"),
    ],
)
def test_a_counter_runs_at_its_rate_and_keeps_what_it_has(condition: str, column: str) -> None:
    bench = MachineBench(5.0)
    bench.set(50.0, **{condition: 2.0}).set(1050.0, **{condition: 0.0}).run(1500.0)
    counts = [sample[column] for sample in bench.samples]
    assert counts[:9] == [0.0] * 9
    assert counts == sorted(counts)
    assert counts[-1] == pytest.approx(2000.0, abs=4 * math.sqrt(2000.0))
    assert counts[-1] == counts[-80]


def test_a_power_drop_at_full_utilisation_can_be_seen() -> None:
    bench = MachineBench(5.0)
    bench.set(300.0, gpu_power_factor=0.3).work(600.0).run(600.0)
    assert mean(bench.samples[-20:], "gpu_utilisation") > 0.95
    assert mean(bench.samples[-20:], "gpu_power_w") == pytest.approx(20.0 + 90.0, rel=0.05)


def test_a_load_reads_the_disk_and_a_failed_request_is_a_line_of_the_log() -> None:
    bench = MachineBench(1.0)
    bench.ask(2.0, "cold", "a", tokens=1000)
    bench.at(10.5, bench.node.kill_runner)
    bench.run(20.0)
    read_gib = sum(sample["disk_read_mib_per_s"] for sample in bench.samples) / 1024.0
    assert read_gib == pytest.approx(4.0, abs=0.02)
    assert [sample["ollama_error_lines"] for sample in bench.samples][8:12] == [0.0, 0.0, 1.0, 1.0]
    assert [sample["ollama_resident_models"] for sample in bench.samples][8:12] == [1.0, 1.0, 0.0, 0.0]


def test_what_nobody_can_read_there_is_no_number() -> None:
    def unread(**changes: Any) -> set[str]:
        bench = MachineBench(5.0, **changes)
        bench.run(6.0)
        return {name for name, value in bench.samples[0].items() if math.isnan(value)}

    kept_for_ever = {"ollama_oldest_expiry_s"}
    counters = {"gpu_errors_corrected", "gpu_errors_uncorrected"}
    memory = {"vram_used_gib", "vram_total_gib", "gpu_temperature_c"}
    speed = {"gpu_utilisation", "gpu_clock_mhz", "gpu_power_w"}
    assert unread() == kept_for_ever
    assert unread(error_counters=False) == kept_for_ever | counters
    assert unread(kind="apple") == kept_for_ever | counters | memory
    assert unread(kind="cpu") == kept_for_ever | counters | memory | speed


def test_a_dead_server_answers_no_question_and_the_machine_still_does() -> None:
    bench = MachineBench(5.0)
    bench.node.add_runner("a")
    bench.at(1.0, bench.node.kill_server)
    bench.run(6.0)
    sample = bench.samples[0]
    assert all(math.isnan(sample[name]) for name in ("ollama_resident_models", "ollama_vram_gib", "ollama_rss_gib"))
    assert sample["ollama_processes"] == 0.0
    assert (sample["vram_used_gib"], sample["vram_total_gib"]) == (0.0, 12.0)


def test_an_idle_model_shows_how_far_it_is_from_its_end() -> None:
    bench = MachineBench(5.0)
    bench.node.keep_alive_s = 300.0
    bench.node.add_runner("a")
    bench.run(11.0)
    assert [sample["ollama_oldest_expiry_s"] for sample in bench.samples] == [-295.0, -290.0]
