"""What is looked at of a node: one table of named features, and the state from which they are made.

Everything comes from observations: telemetry samples, ended attempts, probe results, results of actions. Without an agent
the features of the machine are nan, and the others are there all the same. A sample costs constant time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from twin.policy.predictor.track import Track
from twin.policy.vocabulary import AttemptEnded, ProbeResult

NAN: Final = math.nan
FAST_SHARE: Final = 0.2
"""The fast window, in windows."""
SLOW_WINDOWS: Final = 12.0
"""The slow window, which says what is normal."""
GAP_WINDOWS: Final = 2.0
"""Without a sample for so long the trend begins anew."""
WORKING: Final = 0.25
"""GPU utilisation from which the clock says something."""
OVERHEAD_S: Final = 0.05
"""A load below this is none: Ollama says some milliseconds for a model that is loaded."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One tracked signal. Four features come of it: NAME, NAME.deviation, NAME.trend, NAME.change."""

    name: str
    unit: str
    floor: float  # the smallest spread that is believed
    meaning: str


SIGNALS: Final[tuple[Signal, ...]] = (
    Signal("vram_free", "share", 0.004, "GPU memory that is free"),
    Signal("vram_unlisted", "share", 0.004, "GPU memory in use beyond what /api/ps lists"),
    Signal("ram_used", "share", 0.003, "main memory in use"),
    Signal("swap_used", "share", 0.002, "swap in use, of main memory"),
    Signal("temperature", "°C", 1.0, "of the hottest GPU"),
    Signal("heat_resistance", "ratio", 0.03, "temperature above 20 °C for the power of late, against its normal"),
    Signal("clock", "ratio", 0.01, "clock at work, against the highest seen"),
    Signal("power", "ratio", 0.03, "power at this utilisation, against its normal"),
    Signal("utilisation", "share", 0.05, "of the GPUs"),
    Signal("processor", "share", 0.02, "processor time in use"),
    Signal("disk_free", "ratio", 0.003, "free disk space, against the most that was seen"),
    Signal("open_files", "count", 3.0, "open files of the server beyond those of its runners"),
    Signal("odd_processes", "count", 0.3, "processes of Ollama beyond the server and its loaded models"),
    Signal("pace", "ratio", 0.03, "seconds a token, against the node's normal"),
    Signal("hidden_wait", "s", 0.1, "time inside the node that none of Ollama's timings names"),
    Signal("liveness_latency", "s", 0.005, "of GET /api/version"),
)
RATES: Final[tuple[tuple[str, str], ...]] = (
    ("gpu_errors_corrected", "GPU memory errors that were corrected"),
    ("gpu_errors_uncorrected", "GPU memory errors that were not"),
    ("gpu_fault_events", "lines of GPU faults in the kernel's log"),
    ("network_errors", "packets in error"),
    ("ollama_error_lines", "error lines in Ollama's log"),
)
"""Counters: events in the fast window and in the window, with exponential weights."""

PLAIN: Final[tuple[tuple[str, str], ...]] = (
    ("expiry_overdue_s", "how long a model has been there that should have gone"),
    ("load_slowness", "seconds a GiB of the latest load, against the node's normal"),
    ("load_age_s", "time since that load"),
    ("residency_latency_s", "of the last GET /api/ps"),
    ("residency_failures", "GET /api/ps that gave nothing, in the window"),
    ("failures", "attempts and probes that failed, in the window"),
    ("in_flight", "requests at the node"),
    ("samples", "telemetry samples in the window"),
)

OF_A_SIGNAL: Final = 4
FIRST_RATE: Final = len(SIGNALS) * OF_A_SIGNAL
FIRST_PLAIN: Final = FIRST_RATE + 2 * len(RATES)


def feature_names() -> tuple[str, ...]:
    """The names of the features in the order of a vector."""
    names: list[str] = []
    for signal in SIGNALS:
        names += [signal.name, f"{signal.name}.deviation", f"{signal.name}.trend", f"{signal.name}.change"]
    for name, _ in RATES:
        names += [f"{name}.fast", f"{name}.window"]
    names += [name for name, _ in PLAIN]
    return tuple(names)


FEATURES: Final[tuple[str, ...]] = feature_names()
PLACE: Final[dict[str, int]] = {name: place for place, name in enumerate(FEATURES)}


class NodeFeatures:
    """The state of one node. `horizon_s` is what trends are extrapolated over."""

    __slots__ = (
        "counted",
        "disk_max",
        "clock_max",
        "expiry_s",
        "failed",
        "hidden_count",
        "hidden_s",
        "horizon_s",
        "latency_s",
        "load_normal",
        "load_s",
        "load_slowness",
        "power_normal",
        "power_s",
        "rate_fast",
        "rate_window",
        "residency_failed",
        "residency_s",
        "resistance_normal",
        "samples",
        "sampled_s",
        "tracks",
        "updated_s",
        "window_s",
    )

    def __init__(self, window_s: float, horizon_s: float) -> None:
        self.window_s = window_s
        self.horizon_s = horizon_s
        self.tracks: list[Track] = [Track(signal.floor) for signal in SIGNALS]
        self.counted: list[float] = [NAN] * len(RATES)
        self.rate_fast: list[float] = [0.0] * len(RATES)
        self.rate_window: list[float] = [0.0] * len(RATES)
        self.updated_s = NAN  # when the windows were last moved on
        self.sampled_s = NAN  # the last telemetry sample
        self.power_s = NAN  # power of late
        self.power_normal = NAN
        self.resistance_normal = NAN
        self.clock_max = 0.0
        self.disk_max = 0.0
        self.expiry_s = NAN
        self.hidden_s = 0.0
        self.hidden_count = 0
        self.latency_s = NAN
        self.load_s = NAN
        self.load_slowness = NAN
        self.load_normal = NAN
        self.residency_s = NAN
        self.residency_failed = 0.0
        self.failed = 0.0
        self.samples = 0.0

    # -- observations ---------------------------------------------------------------------------------------------

    def attempt_ended(self, now: float, ended: AttemptEnded, memory_gib: float) -> None:
        """An attempt at the node ended, of a model of that size."""
        if ended.outcome == "succeeded":
            total_s = ended.total_duration_s
            if total_s > 0.0:
                load_s = ended.load_duration_s
                self.hidden_s += total_s - load_s - ended.prompt_eval_duration_s - ended.eval_duration_s
                self.hidden_count += 1
                if load_s > OVERHEAD_S and memory_gib > 0.0:
                    self._loaded(now, load_s / memory_gib)
        elif ended.outcome == "failed" and ended.error != "client_error" and ended.error != "aborted":
            self.failed += 1.0

    def _loaded(self, now: float, pace: float) -> None:
        normal = self.load_normal
        self.load_s = now
        if normal != normal:
            self.load_normal = pace
            self.load_slowness = 1.0
            return
        self.load_slowness = pace / normal
        if pace < 2.0 * normal:
            self.load_normal = normal + 0.2 * (pace - normal)

    def answered(self, result: ProbeResult) -> None:
        """A probe was answered, or was not."""
        if result.kind == "liveness":
            if result.ok:
                self.latency_s = result.latency_s
        elif result.kind == "residency":
            self.residency_s = result.latency_s
            if not result.ok:
                self.residency_failed += 1.0
        elif not result.ok:
            self.failed += 1.0

    def restarted(self) -> None:
        """A new server process: trends begin anew."""
        for track in self.tracks:
            track.forget_trend()
        for place in range(len(self.rate_fast)):
            self.rate_fast[place] = 0.0
            self.rate_window[place] = 0.0
            self.counted[place] = NAN
        self.failed = self.residency_failed = 0.0
        self.expiry_s = self.load_slowness = NAN
        self.hidden_s = 0.0
        self.hidden_count = 0

    def look(self, now: float, values: dict[str, float] | None, pace: float) -> None:
        """Move the windows on, with a telemetry sample or (None) without one."""
        passed_s = now - self.updated_s
        tracks = self.tracks
        if passed_s != passed_s:
            passed_s = 0.0
        elif passed_s <= 0.0:
            return
        elif passed_s > GAP_WINDOWS * self.window_s:
            for track in tracks:
                track.forget_trend()
            passed_s = 0.0
        self.updated_s = now
        window_s = self.window_s
        fast = math.exp(-passed_s / (FAST_SHARE * window_s))
        window = math.exp(-passed_s / window_s)
        slow = math.exp(-passed_s / (SLOW_WINDOWS * window_s))
        self.failed *= window
        self.residency_failed *= window
        self.samples *= window
        if values is not None:
            self.samples += 1.0
            self.sampled_s = now
            self._machine(values, passed_s, fast, window, slow)
        tracks[13].add(pace, passed_s, fast, window, slow)
        hidden_s = self.hidden_s / self.hidden_count if self.hidden_count else NAN
        tracks[14].add(hidden_s, passed_s, fast, window, slow)
        self.hidden_s = 0.0
        self.hidden_count = 0
        tracks[15].add(self.latency_s, passed_s, fast, window, slow)

    def _machine(self, values: dict[str, float], passed_s: float, fast: float, window: float, slow: float) -> None:
        tracks = self.tracks
        vram_gib = values.get("vram_used_gib", NAN)
        vram_total_gib = values.get("vram_total_gib", NAN)
        listed_gib = values.get("ollama_vram_gib", NAN)
        memory_gib = values.get("memory_total_gib", NAN)
        resident = values.get("ollama_resident_models", NAN)
        utilisation = values.get("gpu_utilisation", NAN)
        tracks[0].add(1.0 - vram_gib / vram_total_gib, passed_s, fast, window, slow)
        tracks[1].add((vram_gib - listed_gib) / vram_total_gib, passed_s, fast, window, slow)
        tracks[2].add(values.get("memory_used_gib", NAN) / memory_gib, passed_s, fast, window, slow)
        tracks[3].add(values.get("swap_used_gib", NAN) / memory_gib, passed_s, fast, window, slow)
        temperature_c = values.get("gpu_temperature_c", NAN)
        tracks[4].add(temperature_c, passed_s, fast, window, slow)
        power_w = values.get("gpu_power_w", NAN)
        tracks[5].add(self._heat_resistance(temperature_c, power_w, fast, slow), passed_s, fast, window, slow)
        clock = NAN
        if utilisation > WORKING:
            clock = values.get("gpu_clock_mhz", NAN)
            if clock > self.clock_max:
                self.clock_max = clock
            clock = clock / self.clock_max if self.clock_max > 0.0 else NAN
        tracks[6].add(clock, passed_s, fast, window, slow)
        tracks[7].add(self._power(power_w, utilisation, slow), passed_s, fast, window, slow)
        tracks[8].add(utilisation, passed_s, fast, window, slow)
        tracks[9].add(values.get("processor_utilisation", NAN), passed_s, fast, window, slow)
        disk_gib = values.get("disk_free_gib", NAN)
        if disk_gib > self.disk_max:
            self.disk_max = disk_gib
        tracks[10].add(disk_gib / self.disk_max if self.disk_max > 0.0 else NAN, passed_s, fast, window, slow)
        tracks[11].add(values.get("open_files", NAN) - 24.0 * resident, passed_s, fast, window, slow)
        tracks[12].add(values.get("ollama_processes", NAN) - 1.0 - resident, passed_s, fast, window, slow)
        self.expiry_s = values.get("ollama_oldest_expiry_s", NAN)
        for place in range(len(RATES)):
            counter = values.get(RATES[place][0], NAN)
            before = self.counted[place]
            more = counter - before if counter > before else 0.0  # a counter that fell was started anew
            self.rate_fast[place] = fast * self.rate_fast[place] + more
            self.rate_window[place] = window * self.rate_window[place] + more
            if counter == counter:
                self.counted[place] = counter

    def _heat_resistance(self, temperature_c: float, power_w: float, fast: float, slow: float) -> float:
        """Degrees for each watt of late, against the node's normal. A card answers to power within about the fast window."""
        if power_w != power_w or temperature_c != temperature_c:
            return NAN
        power_s = self.power_s
        self.power_s = power_s = power_w if power_s != power_s else power_w + fast * (power_s - power_w)
        if power_s <= 0.0:
            return NAN
        resistance = (temperature_c - 20.0) / power_s
        normal = self.resistance_normal
        if normal != normal or normal <= 0.0:
            self.resistance_normal = resistance
            return 1.0
        if self.tracks[5].count > 6:
            weight = 1.0 - slow
        else:
            weight = 0.3
        self.resistance_normal = normal + weight * (resistance - normal)
        return resistance / normal

    def _power(self, power_w: float, utilisation: float, slow: float) -> float:
        """Watts for each share of work, against the node's normal; only while it works."""
        if not utilisation > WORKING or power_w != power_w:
            return NAN
        each_w = power_w / (0.1 + utilisation)
        normal = self.power_normal
        if normal != normal:
            self.power_normal = each_w
            return 1.0
        weight = 1.0 - slow if self.tracks[7].count > 6 else 0.3
        self.power_normal = normal + weight * (each_w - normal)
        return each_w / normal

    # -- the vector -----------------------------------------------------------------------------------------------

    def vector(self, now: float, in_flight: int) -> list[float]:
        """The features now, in the order of `FEATURES`; nan: not known."""
        found: list[float] = []
        horizon_s = self.horizon_s
        for track in self.tracks:
            if track.count:
                found.append(track.last)
                found.append(track.deviation())
                found.append(track.slope() * horizon_s)
                found.append(track.change())
            else:
                found.append(NAN)
                found.append(NAN)
                found.append(NAN)
                found.append(NAN)
        for place in range(len(RATES)):
            found.append(self.rate_fast[place])
            found.append(self.rate_window[place])
        found.append(self.expiry_s)
        found.append(self.load_slowness)
        found.append(now - self.load_s)
        found.append(self.residency_s)
        found.append(self.residency_failed)
        found.append(self.failed)
        found.append(float(in_flight))
        found.append(self.samples)
        return found
