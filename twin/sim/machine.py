"""The machine under one node: what an agent beside its Ollama could read, and how heat takes the clock down.

Nothing here runs by itself. The machine is looked at once a sampling period; `sample` brings it up to date from what
the runners have worked since, and lets the clock that follows hold until it is looked at again. So it costs no event, and
a throttle answers within a period.

Heat. A GPU's temperature follows its power as a first-order system, `T' = (T_end - T) / time constant` with
`T_end = air + resistance x power`; over a period of constant power that has the exact solution used here. At `throttle_c`
the clock falls until the power is what the cooling carries away there; dynamic power goes with the third power of the
clock, since voltage falls with it (P = C V^2 f). Steps and prefills take as many times longer as the clock is lower, which
is right for prefills and an upper bound for decoding.

Noise. Each node has streams of its own by name, so that a fault on one shifts no draw of another. What is counted or
reported exactly (memory of a GPU, counters) has no noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from twin.scenario.draws import stream
from twin.scenario.hardware import Hardware
from twin.sim.memory import RUNNER_RAM_GIB, SERVER_RAM_GIB

if TYPE_CHECKING:
    from twin.sim.node import OllamaNode

POWER_OF_CLOCK: Final = 3.0
CLOCK_STEP: Final = 0.01
"""A change of the clock below this share is not passed on to the runners."""

BASE_PROCESSOR_SHARE: Final = 0.02
RUNNER_CORES: Final = 1.0
"""A runner keeps one core busy while its GPU works (llama.cpp polls), and a load one more; layers in main memory all."""

SERVER_FILES: Final = 40
RUNNER_FILES: Final = 24
LONGEST_UPTIME_S: Final = 30 * 86_400.0
CLOCK_JITTER_S: Final = 0.002
"""Assumptions: what a quiet Linux machine with NTP and an Ollama server has of each."""

NOISE: Final = 9
"""Independent noises in a sample."""
SAMPLES_PER_DRAW: Final = 64

NAN: Final = math.nan


class Machine:
    """One machine. `values` of `sample` go in the order of `twin.record.telemetry_columns`; nan: nobody can read it."""

    def __init__(self, node: OllamaNode, seed: int) -> None:
        self.node = node
        self.hardware: Hardware = node.hardware
        self._thermal = self.hardware.thermal
        self._conditions = node.conditions
        self._stream = stream(seed, f"machine:{node.name}")
        self._noise: list[list[float]] = []
        self._counter_stream: np.random.Generator | None = None
        self._counters_name = (seed, f"machine:{node.name}:counters")
        self.booted_s = -LONGEST_UPTIME_S * float(self._stream.random())
        self.temperature_c = self._thermal.ambient_c + self._thermal.resistance_c_per_w * self._thermal.idle_w
        self.power_w = self._thermal.idle_w  # of one GPU, mean since the last look
        self.clock_share = 1.0  # of the usual at work
        self.utilisation = 0.0  # mean of the GPUs since the last look
        self.corrected_errors = 0
        self.uncorrected_errors = 0
        self.fault_events = 0
        self.network_errors = 0
        self.logged_errors = 0  # error lines of Ollama's log that no request of ours caused
        self._looked_s = node.clock.time()
        self._busy_s = 0.0
        self._read_gib = 0.0

    # -- the mechanism --------------------------------------------------------------------------------------------

    def look(self, now: float) -> float:
        """Bring the machine up to date; the time since the last look."""
        node = self.node
        passed_s = now - self._looked_s
        busy_s = node.busy_s()
        if passed_s <= 0.0:
            return 0.0
        self.utilisation = min(1.0, (busy_s - self._busy_s) / (passed_s * self.hardware.gpus))
        self._busy_s = busy_s
        self._looked_s = now
        disturbed = self._conditions.disturbed
        self._heat(passed_s, self._conditions.values if disturbed else None)
        if disturbed:
            self._count(passed_s)
        share = self.clock_share
        if abs(share - node.clock_share) > CLOCK_STEP or (share == 1.0) is not (node.clock_share == 1.0):
            node.set_clock_share(share)
        return passed_s

    def _heat(self, passed_s: float, values: dict[str, float] | None) -> None:
        """Temperature after `passed_s` of this work, and the clock from now on."""
        thermal = self._thermal
        air_c = thermal.ambient_c
        resistance = thermal.resistance_c_per_w
        highest_share = 1.0
        power_factor = 1.0
        if values is not None:
            air_c += values["ambient_added_c"]
            resistance /= max(values["cooling_factor"], 1e-6)
            highest_share = min(1.0, max(values["gpu_clock_factor"], 1e-3))
            power_factor = values["gpu_power_factor"]
        work_w = (thermal.full_w - thermal.idle_w) * self.utilisation * power_factor  # at the usual clock
        self.power_w = thermal.idle_w + work_w * self.clock_share**POWER_OF_CLOCK
        decay = math.exp(-passed_s / thermal.time_constant_s)
        end_c = air_c + resistance * self.power_w
        temperature_c = end_c + (self.temperature_c - end_c) * decay
        share = highest_share
        if temperature_c > thermal.throttle_c - 0.5 and work_w > 0.0:
            carried_w = (thermal.throttle_c - air_c) / resistance - thermal.idle_w
            allowed = (carried_w / work_w) ** (1.0 / POWER_OF_CLOCK) if carried_w > 0.0 else 0.0
            lowest = min(thermal.lowest_clock_share, highest_share)
            share = min(highest_share, max(lowest, allowed))
            if allowed >= lowest:  # the clock is regulated within milliseconds, and keeps the limit
                temperature_c = min(temperature_c, thermal.throttle_c)
        self.temperature_c = temperature_c
        self.clock_share = share

    def _count(self, passed_s: float) -> None:
        """Events of the counters that a condition makes run."""
        values = self._conditions.values
        self.corrected_errors += self._events(values["corrected_error_rate_per_s"] * passed_s)
        self.uncorrected_errors += self._events(values["uncorrected_error_rate_per_s"] * passed_s)
        self.fault_events += self._events(values["gpu_fault_event_rate_per_s"] * passed_s)
        self.network_errors += self._events(values["network_error_rate_per_s"] * passed_s)
        self.logged_errors += self._events(values["error_line_rate_per_s"] * passed_s)

    def _events(self, mean: float) -> int:
        if mean <= 0.0:
            return 0
        if self._counter_stream is None:
            self._counter_stream = stream(*self._counters_name)
        return int(self._counter_stream.poisson(mean))

    # -- what can be read -----------------------------------------------------------------------------------------

    def sample(self, now: float) -> tuple[float, ...]:
        """What an agent reads now, in the order of the columns."""
        passed_s = self.look(now)
        node = self.node
        hardware = self.hardware
        thermal = self._thermal
        memory = node.memory
        values = self._conditions.values if self._conditions.disturbed else None
        if not self._noise:
            self._noise = self._stream.standard_normal((SAMPLES_PER_DRAW, NOISE)).tolist()
        n_cpu, n_ram, n_gpu, n_temperature, n_clock, n_power, n_disk, n_files, n_offset = self._noise.pop()
        utilisation = self.utilisation
        share = self.clock_share
        runners = len(node.runners)
        loading = node.loading is not None

        read_gib = node.read_gib()
        read_mib_per_s = (read_gib - self._read_gib) * 1024.0 / passed_s if passed_s > 0.0 else 0.0
        self._read_gib = read_gib

        cores = RUNNER_CORES * (utilisation * hardware.gpus + (1.0 if loading else 0.0))
        ram_gib = memory.ram_in_models_gib()
        if ram_gib > 0.0 and hardware.kind != "apple":
            cores = max(cores, utilisation * hardware.cores)
        processor = BASE_PROCESSOR_SHARE + cores / hardware.cores + 0.005 * n_cpu
        need_gib = memory.ram_needed_gib() + 0.05 * n_ram
        total_gib = hardware.main_memory_gib
        swap_gib = need_gib - total_gib
        files = SERVER_FILES + RUNNER_FILES * runners + abs(n_files)
        processes = 1 + runners + loading if node.alive else 0
        offset_s = CLOCK_JITTER_S * n_offset
        shown = utilisation
        if values is not None:
            processor += values["processor_busy_share"]
            files += values["open_files_leaked"]
            processes += int(values["orphan_processes"])
            offset_s += values["clock_offset_s"]
            shown = max(shown, values["gpu_utilisation_floor"])

        gpu_utilisation = temperature_c = clock_mhz = power_w = vram_gib = vram_total_gib = corrected = uncorrected = (
            NAN
        )
        readable = values is None or not values["gpu_unreadable"]
        if hardware.kind != "cpu" and readable:
            gpu_utilisation = min(1.0, max(0.0, shown + 0.01 * n_gpu * (shown > 0.0)))
            working_mhz = thermal.clock_mhz * share
            clock_mhz = thermal.idle_clock_mhz + (working_mhz - thermal.idle_clock_mhz) * min(1.0, 4.0 * shown)
            clock_mhz = max(0.0, clock_mhz + 5.0 * n_clock)
            power_w = max(0.0, self.power_w * hardware.gpus * (1.0 + 0.02 * n_power))
        if hardware.has_gpu_memory and readable:
            temperature_c = float(round(self.temperature_c + 0.5 * n_temperature))
            vram_total_gib = hardware.total_vram_gib
            vram_gib = min(vram_total_gib, math.fsum(memory.taken_gib(now)))
            if hardware.error_counters:
                corrected = float(self.corrected_errors)
                uncorrected = float(self.uncorrected_errors)
        resident = vram_of_models = expiry_s = rss_gib = open_files = NAN
        if node.alive:
            resident = float(runners)
            vram_of_models = memory.vram_listed_gib() if hardware.kind != "cpu" else 0.0
            rss_gib = SERVER_RAM_GIB + RUNNER_RAM_GIB * runners + ram_gib
            open_files = float(round(files))
            expiry_s = self._oldest_expiry_s(now)
        return (
            min(1.0, max(0.0, processor)),
            min(total_gib, need_gib),
            total_gib,
            min(hardware.swap_gib, swap_gib) if swap_gib > 0.0 else 0.0,
            gpu_utilisation,
            vram_gib,
            vram_total_gib,
            temperature_c,
            clock_mhz,
            power_w,
            corrected,
            uncorrected,
            float(self.fault_events) if hardware.kind != "apple" else NAN,
            node.files.disk_free_gib(),
            max(0.0, read_mib_per_s + 0.2 * abs(n_disk)),
            float(self.network_errors),
            open_files,
            float(processes),
            rss_gib,
            resident,
            vram_of_models,
            expiry_s,
            float(node.error_lines + self.logged_errors),
            now - self.booted_s,
            offset_s,
        )

    def _oldest_expiry_s(self, now: float) -> float:
        """now - the oldest `expires_at`; a model that is in use or kept for ever has none."""
        node = self.node
        if node.keep_alive_s is None:
            return NAN
        oldest_s = NAN
        for runner in node.runners.values():
            if not runner.count and not runner.queue:
                over_s = now - runner.idle_since_s - node.session_s.get(runner.model, node.keep_alive_s)
                if not over_s <= oldest_s:
                    oldest_s = over_s
        return oldest_s
