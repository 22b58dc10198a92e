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
TOKENS_MIN: Final = 8
PACES_MIN: Final = 8
PACES_KNOWN: Final = 500
"""Requests that a pace needs to be known at all, and over how many of the last ones it is learnt."""
COMPANY_RIDGE: Final = 0.01
"""Variance below which a number of requests at once, or prompt tokens of others for each own token, says nothing."""
PACE_SPREAD: Final = 0.01
SLOWER_SPREADS: Final = 1.0
"""No token teaches the regression more slowness than this, and three times as much speed: so it goes by the fast ones."""
PACE_MIN: Final = 0.1
"""Of the first pace seen: a regression that says less is not believed."""
RATIO_MAX: Final = 4.0
RATIO_TAUGHT: Final = 2.0
"""Slower than this many times teaches nothing of what is normal."""
SLOWER_TAUGHT: Final = 0.1
"""No request teaches more slowness than this: what waits behind others is slow for other reasons than the node's."""
FASTER_TAUGHT: Final = -0.5
MODELS_KNOWN: Final = 64
"""Models whose pace is learnt, on one node."""
SLOWNESS_KEPT: Final = 0.5
"""Of the slowness of loads, what the one before leaves."""
HEAT_SHORT: Final = 0.1
HEAT_LONG: Final = 0.6
"""Windows of the two means of power from which a temperature follows, in windows: together they give a first-order system
whose time constant lies between."""
TAUGHT: Final = 3.0
"""What is further than so many spreads from what is expected teaches no more than this."""
FAR: Final = 25.0
"""Where the two others are further than the root of this, in spreads, from what was seen, nothing is expected, and what
comes is learnt as it is: the first few of two hundred looks at a card that works, say."""
HEAT_SPREAD_C: Final = 0.3
HEAT_KNOWN: Final = 12.0
"""Samples after which a temperature can be expected."""
WATTS: Final = 1.0
"""Power that varies by less says nothing of heat."""
EXHAUSTED_MAX_S: Final = 7200.0
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
    Signal("vram_free", "share", 0.004, "GPU memory that is free; of main memory, where they share one"),
    Signal("vram_unlisted", "share", 0.004, "GPU memory in use beyond what /api/ps lists"),
    Signal("ram_used", "share", 0.003, "main memory in use; without what /api/ps lists, where the GPU shares it"),
    Signal("swap_used", "share", 0.002, "swap in use, of main memory"),
    Signal("temperature", "°C", 1.0, "of the hottest GPU"),
    Signal("heat_excess", "°C", 0.5, "temperature beyond what this node's power of late usually gives"),
    Signal("clock", "ratio", 0.01, "clock at work, against the highest seen"),
    Signal("power", "ratio", 0.03, "power at this utilisation, against its normal"),
    Signal("utilisation", "share", 0.05, "of the GPUs"),
    Signal("processor", "share", 0.02, "processor time in use"),
    Signal("disk_free", "ratio", 0.003, "free disk space, against the most that was seen"),
    Signal("open_files", "count", 3.0, "open files of the server beyond those of its runners"),
    Signal("odd_processes", "count", 0.3, "processes of Ollama beyond the server and its loaded models"),
    Signal("pace", "ratio", 0.01, "seconds a token of the fastest request of late, against the node's normal"),
    Signal("prefill_pace", "ratio", 0.01, "seconds a token of the fastest prompt of late, against the node's normal"),
    Signal("hidden_wait", "s", 0.1, "time inside the node that none of Ollama's timings names"),
    Signal("liveness_latency", "s", 0.005, "of GET /api/version"),
    Signal("load_path", "ratio", 0.02, "seconds of the load that probes the scheduler, against its normal on the node"),
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
    ("load_slowness", "seconds that loads took of late, against the node's normal for the model"),
    ("load_age_s", "time since that load"),
    ("residency_latency_s", "of the last GET /api/ps"),
    ("residency_failures", "GET /api/ps that gave nothing, in the window"),
    ("failures", "attempts and probes that failed, in the window"),
    ("in_flight", "requests at the node"),
    ("samples", "telemetry samples in the window"),
    ("vram_exhausted_s", "until no GPU memory is free, by the trend of what is not listed"),
    ("ram_exhausted_s", "until main memory is full, by its trend"),
    ("disk_exhausted_s", "until the disk is full, by its trend"),
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


class Normal:
    """What one kind of work usually takes, learnt by clipped steps: towards the usual, whatever a few others wait for."""

    __slots__ = ("known", "value")

    def __init__(self) -> None:
        self.known = 0
        self.value = 0.0

    def against(self, value: float) -> float:
        """A value as a multiple of the normal, which learns from it; nan before that is known."""
        known = self.known
        if known == 0:
            self.known = 1
            self.value = value
            return NAN
        ratio = value / self.value
        if ratio < RATIO_TAUGHT or known < PACES_MIN:
            taught = ratio - 1.0
            taught = taught if taught < SLOWER_TAUGHT else SLOWER_TAUGHT
            taught = taught if taught > FASTER_TAUGHT else FASTER_TAUGHT
            if known < PACES_KNOWN:
                self.known = known + 1
            self.value *= 1.0 + taught / self.known
        if known < PACES_MIN:
            return NAN
        return ratio if ratio < RATIO_MAX else RATIO_MAX


class Regression:
    """A slow regression of a value on two others, by exponentially weighted means and covariances. What is far from what was
    expected teaches little, so that a bad hour does not become the normal; where the two others are far from all that was
    seen nothing is expected, and all is learnt."""

    __slots__ = (
        "m1",
        "m2",
        "my",
        "s1y",
        "s2y",
        "s11",
        "s12",
        "s22",
        "spread",
        "weight",
    )

    def __init__(self, spread: float) -> None:
        self.spread = spread
        self.weight = 0.0
        self.m1 = self.m2 = self.my = 0.0  # means, and below them covariances
        self.s11 = self.s12 = self.s22 = self.s1y = self.s2y = 0.0

    def residual(
        self,
        x1: float,
        x2: float,
        y: float,
        keep: float,
        ridge: float,
        spread_min: float,
        known_min: float,
        taught_up: float,
    ) -> float:
        """How far `y` is from what is expected at `x1` and `x2`; nan: nothing is. It is learnt from. `keep`: the weight that
        the past keeps; `ridge`: variance below which `x1` and `x2` say nothing; `taught_up`: spreads that what is above
        teaches at most."""
        d1, d2, dy = x1 - self.m1, x2 - self.m2, y - self.my
        residual = NAN
        known = self.weight >= known_min
        self.weight = keep * self.weight + 1.0
        step = 1.0 / self.weight
        if known:
            s11, s22, s12 = self.s11 + ridge, self.s22 + ridge, self.s12
            determinant = s11 * s22 - s12 * s12
            if d1 * d1 * s22 - 2.0 * d1 * d2 * s12 + d2 * d2 * s11 <= FAR * determinant:
                slope1 = (self.s1y * s22 - self.s2y * s12) / determinant
                slope2 = (self.s2y * s11 - self.s1y * s12) / determinant
                residual = dy - slope1 * d1 - slope2 * d2
                spread = self.spread if self.spread > spread_min else spread_min
                taught = residual
                if residual > taught_up * spread:
                    taught = taught_up * spread
                elif residual < -TAUGHT * spread:
                    taught = -TAUGHT * spread
                dy += taught - residual
                away = residual if residual > 0.0 else -residual
                away = away if away < TAUGHT * spread else TAUGHT * spread
                self.spread += step * (away - self.spread)
        self.m1 += step * d1
        self.m2 += step * d2
        self.my += step * dy
        kept = 1.0 - step
        self.s11 = kept * (self.s11 + step * d1 * d1)
        self.s12 = kept * (self.s12 + step * d1 * d2)
        self.s22 = kept * (self.s22 + step * d2 * d2)
        self.s1y = kept * (self.s1y + step * d1 * dy)
        self.s2y = kept * (self.s2y + step * d2 * dy)
        return residual


class ModelPace:
    """What is normal for one model on one node: seconds a token by the company it is made in, of a prompt's token, of a
    load, and of a load that is a probe.

    A step of a batch takes longer with each sequence in it, and the prompt of another request stops the batch. So the
    seconds of a token are linear in the requests at once (the mean over the attempt) and in the prompt tokens of others for
    each own token; a tenth that is left is told from the company's noise.
    """

    __slots__ = ("decode", "load", "prefill", "probe", "unit_s")

    def __init__(self) -> None:
        self.decode = Regression(PACE_SPREAD)
        self.unit_s = 0.0  # the first pace seen: what the regression counts in
        self.prefill = Normal()
        self.load = Normal()
        self.probe = Normal()

    def against(self, token_s: float, company: float, beside: float) -> float:
        """The seconds of a token as a multiple of the normal in this company; nan before that is known."""
        if self.unit_s == 0.0:
            self.unit_s = token_s
        pace = token_s / self.unit_s
        known = self.decode.weight >= PACES_MIN
        keep = 1.0 - 1.0 / PACES_KNOWN
        residual = self.decode.residual(company, beside, pace, keep, COMPANY_RIDGE, PACE_SPREAD, 1.0, SLOWER_SPREADS)
        expected = pace - residual
        if not known or not expected >= PACE_MIN:
            return NAN
        ratio = pace / expected
        return ratio if ratio < RATIO_MAX else RATIO_MAX


class Heat:
    """What temperature a node's power gives, learnt on the node: a slow regression on two means of power.

    A GPU answers to power as a first-order system, so its temperature is linear in the power of late; between them two
    exponential means of different length cover its unknown time constant.
    """

    __slots__ = ("expected", "long_w", "short_w", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.short_w = self.long_w = NAN
        self.expected = Regression(1.0)

    def excess(self, temperature_c: float, power_w: float, passed_s: float, slow: float) -> float:
        """Degrees beyond what the power of late gives; nan where it cannot be told."""
        if power_w != power_w or temperature_c != temperature_c:
            return NAN
        if self.short_w != self.short_w:
            self.short_w = self.long_w = power_w
        else:
            self.short_w = power_w + math.exp(-passed_s / (HEAT_SHORT * self.window_s)) * (self.short_w - power_w)
            self.long_w = power_w + math.exp(-passed_s / (HEAT_LONG * self.window_s)) * (self.long_w - power_w)
        return self.expected.residual(
            self.short_w, self.long_w, temperature_c, slow, WATTS, HEAT_SPREAD_C, HEAT_KNOWN, TAUGHT
        )


class NodeFeatures:
    """The state of one node. `horizon_s` is what trends are extrapolated over."""

    __slots__ = (
        "clock_max",
        "counted",
        "disk_max",
        "expiry_s",
        "failed",
        "heat",
        "hidden_count",
        "hidden_s",
        "horizon_s",
        "latency_s",
        "load_path",
        "load_path_before",
        "load_s",
        "load_slowness",
        "out",
        "pace",
        "paces",
        "power_normal",
        "prefill_pace",
        "rate_fast",
        "rate_window",
        "residency_failed",
        "residency_s",
        "sampled_s",
        "samples",
        "shared",
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
        self.power_normal = NAN
        self.heat = Heat(window_s)
        self.clock_max = 0.0
        self.disk_max = 0.0
        self.expiry_s = NAN
        self.hidden_s = 0.0
        self.hidden_count = 0
        self.latency_s = NAN
        self.load_s = NAN
        self.load_slowness = NAN
        self.residency_s = NAN
        self.residency_failed = 0.0
        self.failed = 0.0
        self.samples = 0.0
        self.out = False  # of service, at the last look
        self.paces: dict[str, ModelPace] = {}
        self.pace = NAN  # of the fastest request since the last look
        self.prefill_pace = NAN
        self.load_path = NAN  # the fastest probe of it since the last look
        self.load_path_before = NAN  # and between the two looks before
        self.shared = False  # GPU and processor share main memory

    # -- observations ---------------------------------------------------------------------------------------------

    def attempt_ended(self, now: float, ended: AttemptEnded, company: float, prompt_tokens_beside: int) -> None:
        """An attempt at the node ended. `company`: requests at once, itself among them, in the mean over it;
        `prompt_tokens_beside`: of the requests that came meanwhile."""
        if ended.outcome == "succeeded":
            total_s = ended.total_duration_s
            if total_s > 0.0:
                load_s = ended.load_duration_s
                prefill_s = ended.prompt_eval_duration_s
                decode_s = ended.eval_duration_s
                self.hidden_s += total_s - load_s - prefill_s - decode_s
                self.hidden_count += 1
                paces = self._paces_of(ended.model)
                if paces is None:
                    return
                if load_s > OVERHEAD_S:
                    self._loaded(now, load_s, paces.load)
                if ended.tokens >= TOKENS_MIN and decode_s > 0.0:
                    steps = ended.tokens - 1.0  # the first token is the prompt's
                    ratio = paces.against(decode_s / steps, company, prompt_tokens_beside / steps)
                    if ratio == ratio and not ratio >= self.pace:
                        self.pace = ratio
                if ended.prompt_eval_count >= TOKENS_MIN and prefill_s > 0.0:
                    ratio = paces.prefill.against(prefill_s / ended.prompt_eval_count)
                    if ratio == ratio and not ratio >= self.prefill_pace:
                        self.prefill_pace = ratio
        elif ended.outcome == "failed" and ended.error not in {"client_error", "aborted"}:
            self.failed += 1.0

    def _paces_of(self, model: str) -> ModelPace | None:
        """None: too many models are known."""
        paces = self.paces.get(model)
        if paces is None and len(self.paces) < MODELS_KNOWN:
            self.paces[model] = paces = ModelPace()
        return paces

    def _loaded(self, now: float, took_s: float, normal: Normal) -> None:
        """Loads are rare: each counts, and is held against the ones before of the same model."""
        known = normal.known
        before = normal.value
        normal.against(took_s)
        ratio = took_s / before if known else 1.0
        slowness = self.load_slowness
        self.load_s = now
        self.load_slowness = ratio if slowness != slowness else ratio + SLOWNESS_KEPT * (slowness - ratio)

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
        elif result.kind == "load_path":
            paces = self._paces_of(result.model)
            if paces is not None:
                way_s = self.residency_s  # of what needs no load
                load_s = result.latency_s - way_s if way_s < result.latency_s else result.latency_s
                ratio = paces.probe.against(load_s)
                if ratio == ratio and not ratio >= self.load_path:
                    self.load_path = ratio

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

    def returns(self, in_service: bool) -> bool:
        """To be told before each look. Whether a node that was out of service is back: what was seen while it failed says
        nothing of what comes, so all begins anew."""
        was_out = self.out
        self.out = not in_service
        if was_out and in_service:
            self.restarted()
            return True
        return False

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
        if values is not None and values.get("ollama_resident_models", NAN) == 0.0:
            # What was slow was in a runner that is gone; of the next one it says little.
            tracks[13].rest(fast)
            tracks[14].rest(fast)
        tracks[13].add(self.pace, passed_s, fast, window, slow)
        tracks[14].add(self.prefill_pace, passed_s, fast, window, slow)
        hidden_s = self.hidden_s / self.hidden_count if self.hidden_count else NAN
        tracks[15].add(hidden_s, passed_s, fast, window, slow)
        self._forget_requests()
        tracks[16].add(self.latency_s, passed_s, fast, window, slow)
        path, before = self.load_path, self.load_path_before
        if values is not None and self._loads(values):
            path = NAN
        tracks[17].add(before if before < path else path, passed_s, fast, window, slow)
        self.load_path_before = path
        self.load_path = NAN

    def _loads(self, values: dict[str, float]) -> bool:
        """Whether another load is under way: a probe that waits for it says nothing."""
        processes = values.get("ollama_processes", NAN) - 1.0 - values.get("ollama_resident_models", NAN)
        return processes > 0.5

    def _forget_requests(self) -> None:
        self.hidden_s = 0.0
        self.hidden_count = 0
        self.pace = self.prefill_pace = NAN

    def _machine(self, values: dict[str, float], passed_s: float, fast: float, window: float, slow: float) -> None:
        tracks = self.tracks
        vram_gib = values.get("vram_used_gib", NAN)
        vram_total_gib = values.get("vram_total_gib", NAN)
        listed_gib = values.get("ollama_vram_gib", NAN)
        memory_gib = values.get("memory_total_gib", NAN)
        resident = values.get("ollama_resident_models", NAN)
        utilisation = values.get("gpu_utilisation", NAN)
        used_gib = values.get("memory_used_gib", NAN)
        if vram_total_gib != vram_total_gib and utilisation == utilisation:  # the GPU shares main memory
            vram_gib, vram_total_gib = used_gib, memory_gib
            used_gib -= listed_gib if listed_gib == listed_gib else 0.0  # a model that is loaded is no sign of a leak
            self.shared = True
        tracks[0].add(1.0 - vram_gib / vram_total_gib, passed_s, fast, window, slow)
        tracks[1].add((vram_gib - listed_gib) / vram_total_gib, passed_s, fast, window, slow)
        tracks[2].add(used_gib / memory_gib, passed_s, fast, window, slow)
        tracks[3].add(values.get("swap_used_gib", NAN) / memory_gib, passed_s, fast, window, slow)
        temperature_c = values.get("gpu_temperature_c", NAN)
        tracks[4].add(temperature_c, passed_s, fast, window, slow)
        power_w = values.get("gpu_power_w", NAN)
        tracks[5].add(self.heat.excess(temperature_c, power_w, passed_s, slow), passed_s, fast, window, slow)
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
        found.append(self._exhausted_s(1.0, 0, 1))
        found.append(self._exhausted_s(1.0, 0 if self.shared else -1, 2))
        found.append(self._exhausted_s(-1.0, 10, 10))
        return found

    def _exhausted_s(self, sign: float, left: int, moving: int) -> float:
        """Seconds until nothing is left, by the slope of the signal `moving`; `left` -1: what is left of it to 1."""
        track = self.tracks[moving]
        if not track.count:
            return NAN
        slope = sign * track.slope()
        rest = 1.0 - track.fast if left < 0 else self.tracks[left].fast
        rest = rest if rest > 0.0 else 0.0
        return rest / slope if rest < EXHAUSTED_MAX_S * slope else EXHAUSTED_MAX_S
