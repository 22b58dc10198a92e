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
from twin.sim.memory import RUNNER_RAM_GIB, SERVER_RAM_GIB

if TYPE_CHECKING:
    from twin.sim.node import OllamaNode

POWER_OF_CLOCK: Final = 3.0
THROTTLE_MARGIN_C: Final = 0.5
"""Below the limit by no more than this, the clock is still held down: else it would swing between looks."""
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

NOISES: Final = 9
"""Independent noises in a sample."""
SAMPLES_PER_DRAW: Final = 64

NAN: Final = math.nan


class Machine:
    """One machine. `values` of `sample` go in the order of `twin.record.telemetry_columns`; nan: nobody can read it."""

    def __init__(self, node: OllamaNode, seed: int) -> None:
        hardware = node.hardware
        self.node = node
        self._memory = node.memory
        self._thermal = hardware.thermal
        self._conditions = node.conditions
        self._stream = stream(seed, f"machine:{node.name}")
        self._noise: list[list[float]] = []
        self._counter_stream: np.random.Generator | None = None
        self._counters_name = (seed, f"machine:{node.name}:counters")
        self._kind = hardware.kind
        self._own_vram = hardware.has_gpu_memory
        self._gpus = hardware.gpus
        self._cores = hardware.cores
        self._vram_total_gib = hardware.total_vram_gib
        self._ram_total_gib = hardware.main_memory_gib
        self._swap_total_gib = hardware.swap_gib
        self._counts_errors = hardware.error_counters and self._own_vram
        self.booted_s = -LONGEST_UPTIME_S * float(self._stream.random())
        thermal = self._thermal
        self._idle_w = thermal.idle_w
        self._work_w = thermal.full_w - thermal.idle_w
        self._resistance = thermal.resistance_c_per_w
        self._ambient_c = thermal.ambient_c
        self._throttle_c = thermal.throttle_c
        self._clock_mhz = thermal.clock_mhz
        self._idle_clock_mhz = thermal.idle_clock_mhz
        self.temperature_c = self._ambient_c + self._resistance * self._idle_w
        self.power_w = self._idle_w  # of one GPU, mean since the last look
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
        self.utilisation = min(1.0, (busy_s - self._busy_s) / (passed_s * self._gpus))
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
        air_c = self._ambient_c
        resistance = self._resistance
        work_w = self._work_w * self.utilisation  # at the usual clock
        highest_share = 1.0
        if values is not None:
            air_c += values["ambient_added_c"]
            resistance /= max(values["cooling_factor"], 1e-6)
            highest_share = min(1.0, max(values["gpu_clock_factor"], 1e-3))
            work_w *= values["gpu_power_factor"]
        share = self.clock_share
        self.power_w = self._idle_w + (work_w if share == 1.0 else work_w * share**POWER_OF_CLOCK)
        end_c = air_c + resistance * self.power_w
        decay = math.exp(-passed_s / self._thermal.time_constant_s)
        temperature_c = end_c + (self.temperature_c - end_c) * decay
        share = highest_share
        if temperature_c > self._throttle_c - THROTTLE_MARGIN_C and work_w > 0.0:
            carried_w = (self._throttle_c - air_c) / resistance - self._idle_w
            allowed = (carried_w / work_w) ** (1.0 / POWER_OF_CLOCK) if carried_w > 0.0 else 0.0
            lowest = min(self._thermal.lowest_clock_share, highest_share)
            share = min(highest_share, max(lowest, allowed))
            if allowed >= lowest:  # the clock is regulated within milliseconds, and keeps the limit
                temperature_c = min(temperature_c, self._throttle_c)
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
        memory = self._memory
        values = self._conditions.values if self._conditions.disturbed else None
        if not self._noise:
            self._noise = self._stream.standard_normal((SAMPLES_PER_DRAW, NOISES)).tolist()
        n_cpu, n_ram, n_gpu, n_temperature, n_clock, n_power, n_disk, n_files, n_offset = self._noise.pop()
        utilisation = shown = self.utilisation
        runners = len(node.runners)
        loading = node.loading is not None

        read_gib = node.read_gib()
        read_mib_per_s = 0.2 * abs(n_disk)
        if read_gib != self._read_gib and passed_s > 0.0:
            read_mib_per_s += (read_gib - self._read_gib) * 1024.0 / passed_s
            self._read_gib = read_gib

        ram_of_models_gib = memory.ram_of_models_gib
        cores = RUNNER_CORES * (utilisation * self._gpus + loading)
        if ram_of_models_gib and self._kind != "apple" and utilisation * self._cores > cores:
            cores = utilisation * self._cores
        processor = BASE_PROCESSOR_SHARE + cores / self._cores + 0.005 * n_cpu
        ram_gib = memory.ram_needed_gib() + 0.05 * n_ram
        if self._kind == "apple":  # GPU and processor share it: what others hold for the GPU is in use there, too
            ram_gib += memory.total_taken_gib(now) - memory.vram_of_models_gib
        files = SERVER_FILES + RUNNER_FILES * runners + abs(n_files)
        processes = 1.0 + runners + loading if node.alive else 0.0
        offset_s = CLOCK_JITTER_S * n_offset
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
        if self._kind != "cpu" and readable:
            gpu_utilisation = shown + 0.01 * n_gpu if 0.0 < shown < 1.0 else shown
            gpu_utilisation = 0.0 if gpu_utilisation < 0.0 else gpu_utilisation if gpu_utilisation < 1.0 else 1.0
            clock_mhz = self._idle_clock_mhz + 5.0 * abs(n_clock)
            if shown > 0.0:
                awake = 4.0 * shown if shown < 0.25 else 1.0  # the clock stays up for a while after each burst of work
                clock_mhz += (self._clock_mhz * self.clock_share - self._idle_clock_mhz) * awake
            power_w = self.power_w * self._gpus * (1.0 + 0.02 * n_power)
        if self._own_vram and readable:
            temperature_c = float(round(self.temperature_c + 0.5 * n_temperature))
            vram_total_gib = self._vram_total_gib
            vram_gib = memory.total_taken_gib(now)
            vram_gib = min(vram_gib, vram_total_gib)
            if self._counts_errors:
                corrected = float(self.corrected_errors)
                uncorrected = float(self.uncorrected_errors)
        resident = vram_of_models_gib = expiry_s = rss_gib = open_files = NAN
        if node.alive:
            resident = float(runners)
            vram_of_models_gib = 0.0 if self._kind == "cpu" else memory.vram_listed_gib()
            rss_gib = SERVER_RAM_GIB + RUNNER_RAM_GIB * runners + ram_of_models_gib
            open_files = float(round(files))
            if node.keep_alive_s is not None:
                expiry_s = self._oldest_expiry_s(now, node.keep_alive_s)
        return (
            0.0 if processor < 0.0 else processor if processor < 1.0 else 1.0,
            ram_gib if ram_gib < self._ram_total_gib else self._ram_total_gib,
            self._ram_total_gib,
            0.0 if ram_gib <= self._ram_total_gib else min(self._swap_total_gib, ram_gib - self._ram_total_gib),
            gpu_utilisation,
            vram_gib,
            vram_total_gib,
            temperature_c,
            clock_mhz,
            power_w,
            corrected,
            uncorrected,
            float(self.fault_events),
            node.files.disk_free_gib(),
            read_mib_per_s,
            float(self.network_errors),
            open_files,
            processes,
            rss_gib,
            resident,
            vram_of_models_gib,
            expiry_s,
            float(node.error_lines + self.logged_errors),
            now - self.booted_s,
            offset_s,
        )

    def _oldest_expiry_s(self, now: float, keep_alive_s: float) -> float:
        """now - the oldest `expires_at`; a model that is in use has none, and one that is kept for ever is not asked."""
        node = self.node
        oldest_s = NAN
        for runner in node.runners.values():
            if not runner.count and not runner.queue:
                over_s = now - runner.idle_since_s - node.session_s.get(runner.model, keep_alive_s)
                if not over_s <= oldest_s:
                    oldest_s = over_s
        return oldest_s
