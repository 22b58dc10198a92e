"""The pattern family: the signatures of the failure catalogue, as rules that a person can read.

Each rule looks at a few features and says how much they look like the beginning of its failure (0..1), how soon it would
come where that can be extrapolated, and why. The fusion calibrates what such a score is worth; nothing here is learnt.
"""

from __future__ import annotations

import math
from typing import Final

from twin.policy.predictor.features import PLACE
from twin.policy.predictor.statistical import CLASSES, fresh

NAN: Final = math.nan

VRAM_FREE: Final = PLACE["vram_free"]
VRAM_UNLISTED: Final = PLACE["vram_unlisted"]
RAM: Final = PLACE["ram_used"]
SWAP: Final = PLACE["swap_used"]
HEAT: Final = PLACE["heat_excess"]
TEMPERATURE: Final = PLACE["temperature"]
CLOCK: Final = PLACE["clock"]
POWER: Final = PLACE["power"]
UTILISATION: Final = PLACE["utilisation"]
DISK: Final = PLACE["disk_free"]
FILES: Final = PLACE["open_files"]
ODD: Final = PLACE["odd_processes"]
PACE: Final = PLACE["pace"]
PREFILL: Final = PLACE["prefill_pace"]
HIDDEN: Final = PLACE["hidden_wait"]
FAULT_LINES: Final = PLACE["gpu_fault_events.window"]
FAULT_LINES_FAST: Final = PLACE["gpu_fault_events.fast"]
UNCORRECTED: Final = PLACE["gpu_errors_uncorrected.window"]
CORRECTED: Final = PLACE["gpu_errors_corrected.window"]
ERROR_LINES: Final = PLACE["ollama_error_lines.window"]
ERROR_LINES_FAST: Final = PLACE["ollama_error_lines.fast"]
RAM_EXHAUSTED: Final = PLACE["ram_exhausted_s"]
LOAD_PATH: Final = PLACE["load_path"]
OVERDUE: Final = PLACE["expiry_overdue_s"]
LOADS: Final = PLACE["load_slowness"]
LOAD_AGE: Final = PLACE["load_age_s"]
PS: Final = PLACE["residency_latency_s"]
FAILURES: Final = PLACE["failures"]

DEVIATION: Final = 1
TREND: Final = 2
CHANGE: Final = 3
"""Offsets from a signal's own place."""

HOT_C: Final = 75.0
RECENT_LOAD_S: Final = 900.0
SLOWER_PATH: Final = 1.1
SLOWER: Final = 1.02
"""The fastest request of late against the normal, from which a node counts as slower."""


class Patterns:
    """The scores of one vector. `leads` are seconds until the failure where a rule can tell, else nan."""

    __slots__ = ("leads", "reasons", "scores")

    def __init__(self) -> None:
        self.scores: list[float] = [0.0] * len(CLASSES)
        self.leads: list[float] = [NAN] * len(CLASSES)
        self.reasons: list[str] = [""] * len(CLASSES)

    def _says(self, which: int, score: float, why: str, lead_s: float = NAN) -> None:
        score = min(score, 1.0)
        if score > self.scores[which]:
            self.scores[which] = score
            self.leads[which] = lead_s
            self.reasons[which] = why


def _exhausted_in(left: float, trend: float, horizon_s: float) -> float:
    """Seconds until nothing is left, by the trend over a horizon (what is gained or, if negative, lost)."""
    return left / -trend * horizon_s if trend < -1e-4 else math.inf


def look(vector: list[float], horizon_s: float) -> Patterns:
    """Hold every signature against a vector."""
    found = Patterns()
    # GPU memory: a staircase beyond what /api/ps lists, another program that grows, an orphan that holds some.
    unlisted, staircase = vector[VRAM_UNLISTED], vector[VRAM_UNLISTED + TREND]
    free = vector[VRAM_FREE]
    if staircase > 0.02 and vector[VRAM_UNLISTED + CHANGE] > 4.0:
        in_s = _exhausted_in(max(free, 0.0), -staircase, horizon_s)
        found._says(
            0,
            0.4 + 0.6 * min(1.0, horizon_s / max(in_s, 1.0)),
            f"GPU memory that /api/ps does not list grows by {100 * staircase:.0f} % of all in {horizon_s:.0f} s; "
            f"at this pace none is left in {in_s:.0f} s",
            in_s,
        )
    if vector[ODD] > 0.5 and unlisted > 0.1:
        found._says(
            0, 0.9, f"a process of Ollama that no model belongs to, and {100 * unlisted:.0f} % of GPU memory held"
        )
    if free < 0.03 and vector[VRAM_UNLISTED + DEVIATION] > 2.0:
        found._says(0, 0.8, f"{100 * free:.1f} % of GPU memory is free")
    # Main memory: a steady rise, then swap.
    rise = vector[RAM + TREND]
    if rise > 0.02 and vector[RAM + CHANGE] > 4.0:
        in_s = vector[RAM_EXHAUSTED]
        found._says(
            1,
            0.4 + 0.6 * min(1.0, horizon_s / max(in_s, 1.0)),
            f"main memory in use grows by {100 * rise:.0f} % of all in {horizon_s:.0f} s, to its end in {in_s:.0f} s",
            in_s,
        )
    if vector[SWAP] > 0.01 and vector[SWAP + TREND] > 0.005:
        found._says(1, 1.0, f"main memory is full, and {100 * vector[SWAP]:.0f} % of its size is in swap")
    # Heat: less of it is carried away; then the clock falls, then the pace.
    heat, pace = vector[HEAT], vector[PACE]
    if heat > 1.0 and vector[HEAT + DEVIATION] > 2.0 and vector[HEAT + CHANGE] > 4.0:
        found._says(2, 0.3 + 0.1 * heat, f"{heat:.0f} °C hotter than this node is at such power")
    if vector[CLOCK] < 0.97 and vector[TEMPERATURE] > HOT_C:
        found._says(2, 0.9, f"the clock is down to {100 * vector[CLOCK]:.0f} % at {vector[TEMPERATURE]:.0f} °C")
    decodes_slower = pace > SLOWER and vector[PACE + DEVIATION] > 2.0 and vector[PACE + CHANGE] > 4.0
    prefill = vector[PREFILL]
    prefills_slower = prefill > SLOWER and vector[PREFILL + DEVIATION] > 2.0 and vector[PREFILL + CHANGE] > 4.0
    slower = decodes_slower and prefills_slower  # a request that waits for others is slow in one of them
    if slower:
        pace = min(pace, prefill)
        why = f"even the fastest request takes {pace:.2f} times the normal time a token"
        found._says(2, 0.3 + 2.0 * (pace - 1.0), why)
        found._says(6, 0.3 + 2.0 * (pace - 1.0), why)
    # The GPU: lines in the kernel's log, errors, power that falls at full work.
    lines = fresh(vector[FAULT_LINES], vector[FAULT_LINES_FAST])
    if lines > 0.3:
        found._says(3, 0.4 + 0.2 * lines, f"{lines:.1f} lines of GPU faults in the kernel's log of late")
    if vector[UNCORRECTED] > 0.3:
        found._says(3, 0.9, "GPU memory errors that could not be corrected")
    if vector[CORRECTED] > 5.0:
        found._says(3, 0.4, f"{vector[CORRECTED]:.0f} corrected GPU memory errors of late")
    if vector[POWER] < 0.85 and vector[UTILISATION] > 0.5 and vector[POWER + CHANGE] < -6.0:
        found._says(3, 0.5, f"power falls to {100 * vector[POWER]:.0f} % of the usual at the same work")
    # The scheduler: what should have gone and has not, the lock, loads that get slower.
    if vector[OVERDUE] > 30.0:
        found._says(4, 0.5, f"a model is there {vector[OVERDUE]:.0f} s after its time")
    if vector[PS] > 0.5:
        found._says(4, 0.6, f"GET /api/ps took {vector[PS]:.1f} s")
    if vector[LOADS] > 1.3 and vector[LOAD_AGE] < RECENT_LOAD_S:
        found._says(4, 0.2 + 0.3 * vector[LOADS], f"the last load took {vector[LOADS]:.1f} times its normal time")
    path = vector[LOAD_PATH]
    if path > SLOWER_PATH and vector[LOAD_PATH + DEVIATION] > 2.0 and vector[LOAD_PATH + CHANGE] > 4.0:
        found._says(
            4, 0.3 + 0.5 * (path - 1.0), f"the load that probes the scheduler takes {path:.1f} times its normal time"
        )
    if vector[HIDDEN] > 1.0 and vector[HIDDEN + CHANGE] > 6.0:
        found._says(4, 0.3, f"{vector[HIDDEN]:.1f} s inside the node that no timing of Ollama's explains")
    # The disk.
    left, loss = vector[DISK], vector[DISK + TREND]
    if loss < -0.01 and vector[DISK + CHANGE] < -4.0:
        in_s = _exhausted_in(max(left, 0.0), loss, horizon_s)
        found._says(
            5, 0.4 + 0.6 * min(1.0, horizon_s / max(in_s, 1.0)), f"the disk is full in {in_s:.0f} s at this pace", in_s
        )
    if left < 0.1:
        found._says(5, 0.8, f"{100 * left:.0f} % of the disk space that was free is left")
    # Runners and the server.
    if vector[FAILURES] > 1.5:
        found._says(6, 0.2 + 0.1 * vector[FAILURES], f"{vector[FAILURES]:.0f} failed attempts or probes of late")
    errors = fresh(vector[ERROR_LINES], vector[ERROR_LINES_FAST])
    if errors > 1.5:
        found._says(6, 0.3, f"{errors:.0f} error lines in Ollama's log of late")
    if slower and vector[VRAM_UNLISTED + CHANGE] > 4.0:
        found._says(6, 0.8, "tokens come slower while GPU memory fills")
    if vector[FILES + CHANGE] > 12.0 and vector[FILES + TREND] > 10.0:
        found._says(7, 0.5, f"open files of the server grow by {vector[FILES + TREND]:.0f} in {horizon_s:.0f} s")
    return found
