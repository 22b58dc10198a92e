"""The statistical family: how far signals are from what is normal for this very node, by class of failure.

A class's score is the largest of its signals' change-point sums and smoothed residuals, in spreads, brought to 0..1:
1 - 2^(-spreads / 6). Nothing is learnt beforehand; what is normal is learnt on the node, and drifts with it.
"""

from __future__ import annotations

from typing import Final

from twin.policy.forecast import FailureClass
from twin.policy.predictor.features import PLACE, SIGNALS

CLASSES: Final[tuple[FailureClass, ...]] = (
    "gpu_memory",
    "host_memory",
    "overheating",
    "gpu_fault",
    "scheduler_stuck",
    "disk_full",
    "runner_failure",
    "server_failure",
)
"""The order of classes wherever scores are lists."""

HALF_SPREADS: Final = 6.0
COUNTER_SPREADS: Final = 4.0
"""An event of a counter that stands still on a sound machine is worth so many spreads."""
FRESH: Final = 10.0
"""Events of the fast window are worth so many of the window's at most: twice what a steady rate has. So what a failure left
in a counter is forgotten a few minutes after the last event, and not in a quarter of an hour."""

_WATCHED: Final[tuple[tuple[int, str, float], ...]] = (
    (0, "vram_unlisted", 1.0),
    (0, "vram_free", -1.0),
    (1, "ram_used", 1.0),
    (1, "swap_used", 1.0),
    (2, "heat_excess", 1.0),
    (2, "clock", -1.0),
    (2, "pace", 1.0),
    (2, "prefill_pace", 1.0),
    (3, "power", -1.0),
    (3, "pace", 1.0),
    (4, "hidden_wait", 1.0),
    (4, "load_path", 1.0),
    (5, "disk_free", -1.0),
    (6, "pace", 1.0),
    (6, "prefill_pace", 1.0),
    (6, "odd_processes", 1.0),
    (7, "open_files", 1.0),
    (7, "liveness_latency", 1.0),
    (7, "ram_used", 1.0),
)
_COUNTED: Final[tuple[tuple[int, str], ...]] = (
    (3, "gpu_fault_events.window"),
    (3, "gpu_errors_uncorrected.window"),
    (6, "ollama_error_lines.window"),
    (6, "failures"),
)

WATCHED_CLASS: Final[list[int]] = [row[0] for row in _WATCHED]
WATCHED_CHANGE: Final[list[int]] = [PLACE[f"{row[1]}.change"] for row in _WATCHED]
WATCHED_DEVIATION: Final[list[int]] = [PLACE[f"{row[1]}.deviation"] for row in _WATCHED]
WATCHED_SIGN: Final[list[float]] = [row[2] for row in _WATCHED]
WATCHED_WORDS: Final[list[str]] = [
    f"{next(signal.meaning for signal in SIGNALS if signal.name == row[1])} {'up' if row[2] > 0.0 else 'down'}"
    for row in _WATCHED
]
COUNTED_CLASS: Final[list[int]] = [row[0] for row in _COUNTED]
COUNTED_PLACE: Final[list[int]] = [PLACE[row[1]] for row in _COUNTED]
COUNTED_FAST: Final[list[int]] = [PLACE.get(row[1].replace(".window", ".fast"), PLACE[row[1]]) for row in _COUNTED]
COUNTED_WORDS: Final[list[str]] = [row[1].partition(".")[0].replace("_", " ") for row in _COUNTED]


def scores(vector: list[float], threshold: float) -> list[float]:
    """One score for each class; below `threshold` it counts as nothing."""
    spreads = [0.0] * len(CLASSES)
    for place in range(len(WATCHED_CLASS)):
        spread = _spread(vector, place)
        spreads[WATCHED_CLASS[place]] = max(spreads[WATCHED_CLASS[place]], spread)
    for place in range(len(COUNTED_CLASS)):
        spread = COUNTER_SPREADS * counted(vector, place)
        spreads[COUNTED_CLASS[place]] = max(spreads[COUNTED_CLASS[place]], spread)
    found: list[float] = []
    for spread in spreads:
        score = 1.0 - 2.0 ** (-spread / HALF_SPREADS)
        found.append(score if score >= threshold else 0.0)
    return found


def counted(vector: list[float], place: int) -> float:
    """Events of late, fewer soon after the last."""
    return fresh(vector[COUNTED_PLACE[place]], vector[COUNTED_FAST[place]])


def fresh(window: float, fast: float) -> float:
    """Events of the window, as far as the fast one has some, too."""
    most = FRESH * fast
    return most if most < window else window


def _spread(vector: list[float], place: int) -> float:
    """How far a signal is off, in the direction that is bad, in spreads; 0 where it is not known."""
    sign = WATCHED_SIGN[place]
    change = sign * vector[WATCHED_CHANGE[place]]
    deviation = sign * vector[WATCHED_DEVIATION[place]]
    change = max(change, deviation)
    return change if change > 0.0 else 0.0


def reason(vector: list[float], which: int) -> str:
    """The signal that speaks loudest for a class, in words; empty where none does."""
    most = 0.0
    words = ""
    for place in range(len(WATCHED_CLASS)):
        if WATCHED_CLASS[place] == which:
            spread = _spread(vector, place)
            if spread > most:
                most = spread
                words = f"{WATCHED_WORDS[place]}: {spread:.0f} spreads beyond this node's normal"
    for place in range(len(COUNTED_CLASS)):
        if COUNTED_CLASS[place] == which:
            spread = COUNTER_SPREADS * counted(vector, place)
            if spread > most:
                most = spread
                words = f"{COUNTED_WORDS[place]}: {counted(vector, place):.1f} of late"
    return words
