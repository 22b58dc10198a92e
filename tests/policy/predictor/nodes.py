"""Telemetry of a sound node, and a small model of hand-made trees."""

from __future__ import annotations

from twin.policy.predictor.features import PLACE
from twin.policy.predictor.model import Ensemble, Fusion, Model
from twin.policy.predictor.statistical import CLASSES

SOUND = {
    "processor_utilisation": 0.1,
    "memory_used_gib": 10.0,
    "memory_total_gib": 64.0,
    "swap_used_gib": 0.0,
    "gpu_utilisation": 0.5,
    "vram_used_gib": 10.0,
    "vram_total_gib": 24.0,
    "gpu_temperature_c": 50.0,
    "gpu_clock_mhz": 2500.0,
    "gpu_power_w": 250.0,
    "gpu_fault_events": 0.0,
    "disk_free_gib": 500.0,
    "open_files": 64.0,
    "ollama_processes": 2.0,
    "ollama_resident_models": 1.0,
    "ollama_vram_gib": 10.0,
    "ollama_error_lines": 0.0,
}


def sample(**values: float) -> dict[str, float]:
    """A sound node's sample with some values changed."""
    return {**SOUND, **values}


def stump(feature: str, threshold: float, low: float, high: float, *, missing_left: bool = True) -> Ensemble:
    """One question."""
    return Ensemble(
        0.0, [0], [PLACE[feature], -1, -1], [threshold, low, high], [1, 0, 0], [2, 0, 0], [missing_left, False, False]
    )


def small_model() -> Model:
    """The trained part knows of GPU memory alone."""
    silent = Ensemble(-6.0, [], [], [], [], [], [])
    ensembles = [stump("vram_unlisted.trend", 0.05, -6.0, 3.0), *[silent] * (len(CLASSES) - 1)]
    fusion = {
        families: [
            Fusion(
                -6.0 if families != 4 else 0.0, 8.0 * (families & 1), 8.0 * bool(families & 2), 1.0 * bool(families & 4)
            )
        ]
        * len(CLASSES)
        for families in range(1, 8)
    }
    return Model("0" * 64, 300.0, 300.0, 20.0, ensembles, fusion, [100.0] * len(CLASSES))
