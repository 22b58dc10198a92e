"""A world that is over in a moment, and rows of a world that never ran."""

from __future__ import annotations

import math

import numpy as np

from twin.learn.collect import Seen
from twin.learn.truth import Episode, Failure, Truth
from twin.policy.predictor.features import FEATURES
from twin.policy.predictor.statistical import CLASSES
from twin.scenario.schema import Scenario

SHORT = Scenario.model_validate(
    {
        "schema": 1,
        "name": "short",
        "claim": "A leak shows.",
        "cluster": {"nodes": 3, "hardware": "rtx-4090", "models": {"llama3.1:8b": {"replicas": 3}}},
        "workload": {
            "arrivals": {"kind": "poisson", "rate_rps": 0.3},
            "prompt_tokens": {"kind": "constant", "mean": 100},
            "output_tokens": {"kind": "constant", "mean": 50},
            "warmup_s": 60,
            "duration_s": 2400,
        },
        "policy": {"overrides": {"predictor.enabled": False}},
        "faults": [
            {"kind": "vram_leak", "at_s": 900, "lead_s": 400, "target": "node-0", "duration_s": 60},
            {"kind": "disk_full", "at_s": 1700, "lead_s": 300, "target": "node-1", "duration_s": 60},
            {"kind": "host_out_of_memory", "at_s": 1200, "lead_s": 300, "target": "node-2", "comes_to_nothing": True},
        ],
        "record": {"journal": False, "telemetry_period_s": 10},
    }
)


def failure(at_s: float, signs_s: float = math.nan, ended_s: float | None = None, kind: str = "vram_leak") -> Failure:
    """A failure of node n."""
    return Failure("n", kind, 0, at_s, at_s + 60.0 if ended_s is None else ended_s, signs_s)


def episode(began_s: float, ended_s: float, outcome: str) -> Episode:
    """Signs on node n that no failure followed."""
    return Episode("n", "vram_leak", began_s, ended_s, outcome)


def truth(
    failures: list[Failure] | None = None,
    episodes: list[Episode] | None = None,
    restarts: list[tuple[str, float]] | None = None,
) -> Truth:
    """What happened."""
    return Truth(failures or [], episodes or [], [], restarts or [])


def seen(what: Truth, length_s: float = 86_400.0, period_s: float = 20.0) -> Seen:
    """A day of one node, looked at every twenty seconds."""
    time_s = np.arange(0.0, length_s, period_s)
    rows = len(time_s)
    return Seen(
        "test",
        0,
        ["n"],
        np.zeros(rows, dtype=np.int16),
        time_s,
        np.zeros((rows, len(FEATURES)), dtype=np.float32),
        np.zeros((rows, 2 * len(CLASSES)), dtype=np.float32),
        np.full(rows, -1, dtype=np.int8),
        np.full(rows, np.nan),
        np.zeros(rows, dtype=bool),
        np.ones(rows, dtype=bool),
        what,
        length_s,
    )
