"""What is looked at of a node: one table of named features, and the state from which they are made.

Everything comes from observations: telemetry samples, ended attempts, probe results, results of actions. Without an agent
the features of the machine are nan, and the others are there all the same. A sample costs constant time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from twin.policy.predictor.track import Track
from twin.policy.views import BATCH_SIZES
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
TOKENS_MIN: Final = 8
PACES_MIN: Final = 5
PACES_KNOWN: Final = 500
"""Requests that a pace needs to be known at all, and the mean of how many of the last ones it is."""
RATIO_MAX: Final = 4.0
RATIO_TAUGHT: Final = 2.0
"""Slower than this many times teaches nothing of what is normal."""
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
    Signal("heat_excess", "°C", 1.0, "temperature beyond what this node's power of late usually gives"),
    Signal("clock", "ratio", 0.01, "clock at work, against the highest seen"),
    Signal("power", "ratio", 0.03, "power at this utilisation, against its normal"),
    Signal("utilisation", "share", 0.05, "of the GPUs"),
    Signal("processor", "share", 0.02, "processor time in use"),
    Signal("disk_free", "ratio", 0.003, "free disk space, against the most that was seen"),
    Signal("open_files", "count", 3.0, "open files of the server beyond those of its runners"),
    Signal("odd_processes", "count", 0.3, "processes of Ollama beyond the server and its loaded models"),
    Signal("pace", "ratio", 0.03, "seconds a token, against the node's normal for as many requests at once"),
    Signal("prefill_pace", "ratio", 0.03, "seconds a token of a prompt, against the node's normal"),
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
        "clock_max",
        "counted",
        "disk_max",
        "expiry_s",
        "failed",
        "heat_p",
        "heat_pp",
        "heat_pt",
        "heat_t",
        "heat_weight",
        "hidden_count",
        "hidden_s",
        "horizon_s",
        "latency_s",
        "load_normal",
        "load_s",
        "load_slowness",
        "pace_count",
        "pace_known",
        "pace_normal",
        "pace_sum",
        "power_normal",
        "power_s",
        "prefill_count",
        "prefill_known",
        "prefill_normal",
        "prefill_sum",
        "rate_fast",
        "rate_window",
        "residency_failed",
        "residency_s",
        "sampled_s",
        "samples",
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
        self.heat_weight = 0.0  # sums of an exponentially weighted regression of temperature on power
        self.heat_p = self.heat_t = self.heat_pp = self.heat_pt = 0.0
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
        self.pace_normal: list[float] = [0.0] * (BATCH_SIZES + 1)
        self.pace_known: list[int] = [0] * (BATCH_SIZES + 1)
        self.pace_sum = 0.0
        self.pace_count = 0
        self.prefill_normal = 0.0
        self.prefill_known = 0
        self.prefill_sum = 0.0
        self.prefill_count = 0

    # -- observations ---------------------------------------------------------------------------------------------

    def attempt_ended(self, now: float, ended: AttemptEnded, memory_gib: float, in_flight: int) -> None:
        """An attempt at the node ended, of a model of that size; so many others are there."""
        if ended.outcome == "succeeded":
            total_s = ended.total_duration_s
            if total_s > 0.0:
                load_s = ended.load_duration_s
                prefill_s = ended.prompt_eval_duration_s
                decode_s = ended.eval_duration_s
                self.hidden_s += total_s - load_s - prefill_s - decode_s
                self.hidden_count += 1
                if load_s > OVERHEAD_S and memory_gib > 0.0:
                    self._loaded(now, load_s / memory_gib)
                if ended.tokens >= TOKENS_MIN and decode_s > 0.0:
                    self._decoded(decode_s / ended.tokens / memory_gib, in_flight)
                if ended.prompt_eval_count >= TOKENS_MIN and prefill_s > 0.0:
                    self._evaluated(prefill_s / ended.prompt_eval_count / memory_gib)
        elif ended.outcome == "failed" and ended.error not in {"client_error", "aborted"}:
            self.failed += 1.0

    def _decoded(self, pace: float, in_flight: int) -> None:
        batch = in_flight if in_flight < BATCH_SIZES else BATCH_SIZES
        known = self.pace_known[batch]
        normal = self.pace_normal[batch]
        if known >= PACES_MIN:
            ratio = pace / normal
            ratio = ratio if ratio < RATIO_MAX else RATIO_MAX
            self.pace_sum += ratio
            self.pace_count += 1
            if ratio >= RATIO_TAUGHT:
                return
        if known < PACES_KNOWN:
            self.pace_known[batch] = known = known + 1
        self.pace_normal[batch] = normal + (pace - normal) / known

    def _evaluated(self, pace: float) -> None:
        known = self.prefill_known
        normal = self.prefill_normal
        if known >= PACES_MIN:
            ratio = pace / normal
            ratio = ratio if ratio < RATIO_MAX else RATIO_MAX
            self.prefill_sum += ratio
            self.prefill_count += 1
            if ratio >= RATIO_TAUGHT:
                return
        if known < PACES_KNOWN:
            self.prefill_known = known = known + 1
        self.prefill_normal = normal + (pace - normal) / known

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
        self._forget_requests()

    def look(self, now: float, values: dict[str, float] | None) -> None:
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
        pace = self.pace_sum / self.pace_count if self.pace_count else NAN
        tracks[13].add(pace, passed_s, fast, window, slow)
        pace = self.prefill_sum / self.prefill_count if self.prefill_count else NAN
        tracks[14].add(pace, passed_s, fast, window, slow)
        hidden_s = self.hidden_s / self.hidden_count if self.hidden_count else NAN
        tracks[15].add(hidden_s, passed_s, fast, window, slow)
        self._forget_requests()
        tracks[16].add(self.latency_s, passed_s, fast, window, slow)

    def _forget_requests(self) -> None:
        self.hidden_s = self.pace_sum = self.prefill_sum = 0.0
        self.hidden_count = self.pace_count = self.prefill_count = 0

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
        tracks[5].add(self._heat_excess(temperature_c, power_w, fast, slow), passed_s, fast, window, slow)
        clock = NAN
        if utilisation > WORKING:
            clock = values.get("gpu_clock_mhz", NAN)
            self.clock_max = max(self.clock_max, clock)
            clock = clock / self.clock_max if self.clock_max > 0.0 else NAN
        tracks[6].add(clock, passed_s, fast, window, slow)
        tracks[7].add(self._power(power_w, utilisation, slow), passed_s, fast, window, slow)
        tracks[8].add(utilisation, passed_s, fast, window, slow)
        tracks[9].add(values.get("processor_utilisation", NAN), passed_s, fast, window, slow)
        disk_gib = values.get("disk_free_gib", NAN)
        self.disk_max = max(self.disk_max, disk_gib)
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

    def _heat_excess(self, temperature_c: float, power_w: float, fast: float, slow: float) -> float:
        """Degrees beyond what the power of late gives on this node: the residual of a slow regression. A card answers to
        power as a first-order system, within about the fast window."""
        if power_w != power_w or temperature_c != temperature_c:
            return NAN
        power_s = self.power_s
        self.power_s = power_s = power_w if power_s != power_s else power_w + fast * (power_s - power_w)
        weight = self.heat_weight
        excess = NAN
        if weight > PACES_MIN:
            mean_p, mean_t = self.heat_p / weight, self.heat_t / weight
            spread = self.heat_pp / weight - mean_p * mean_p
            slope = (self.heat_pt / weight - mean_p * mean_t) / spread if spread > 1.0 else 0.0
            excess = temperature_c - mean_t - (slope if slope > 0.0 else 0.0) * (power_s - mean_p)
        self.heat_weight = slow * weight + 1.0
        self.heat_p = slow * self.heat_p + power_s
        self.heat_t = slow * self.heat_t + temperature_c
        self.heat_pp = slow * self.heat_pp + power_s * power_s
        self.heat_pt = slow * self.heat_pt + power_s * temperature_c
        return excess

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
                found.append(track.fast)
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
