"""Ollama's rules of where a model goes: on one GPU, split over several, in part in main memory, or nowhere.

The simulated node's ledger (`twin/sim/memory.py`) and the placement at a run's start (`Cluster.spec`) use these same
rules, and `twin.policy.views.NodeView.free_gib` says what follows from them, so that what a policy thinks fits really
fits. Source: Ollama's scheduler, `server/sched.go`, versions 0.24 to 0.33.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from twin.policy.vocabulary import FIT_SHARE

MODELS_PER_GPU = 3
"""OLLAMA_MAX_LOADED_MODELS where nobody set it: this for each GPU; a machine without one counts as one."""

CONTEXT_TIERS: tuple[tuple[float, int], ...] = ((48.0, 262_144), (24.0, 32_768), (0.0, 4_096))
"""(GPU memory of the machine in GiB, num_ctx from there on) where nobody gives a context."""

TOLERANCE_GIB = 1e-9


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the memory of one loaded model lies."""

    vram_gib: tuple[float, ...]  # on each GPU; on a machine without one, its main memory stands for the only GPU
    ram_gib: float = 0.0  # in main memory beside it: layers that found no room on a GPU

    @property
    def total_gib(self) -> float:
        """All of it."""
        return sum(self.vram_gib) + self.ram_gib

    @property
    def offloaded_share(self) -> float:
        """The share that lies in main memory, 0 to 1."""
        return self.ram_gib / self.total_gib if self.ram_gib else 0.0

    @property
    def gpus(self) -> int:
        """How many GPUs have a part."""
        return sum(1 for gib in self.vram_gib if gib > 0.0)


def fit(need_gib: float, free_gib: Sequence[float], *, alone: bool) -> Placement | None:
    """Where a model of that need goes, wholly on GPUs; None where it does not fit.

    One GPU that holds it all, the emptiest, is preferred; else it is split over all, the emptiest first. A model beside
    others may take `FIT_SHARE` of what is free; one that is `alone` takes what it needs.
    """
    share = 1.0 if alone else FIT_SHARE
    best = max(range(len(free_gib)), key=lambda gpu: free_gib[gpu])
    if need_gib <= share * free_gib[best] + TOLERANCE_GIB:
        return Placement(tuple(need_gib if gpu == best else 0.0 for gpu in range(len(free_gib))))
    if need_gib <= share * math.fsum(max(0.0, gib) for gib in free_gib) + TOLERANCE_GIB:
        return _fill(need_gib, [share * gib for gib in free_gib])
    return None


def offload(need_gib: float, free_gib: Sequence[float], ram_free_gib: float) -> Placement | None:
    """As much on the GPUs as they hold, the rest in main memory; None where that has no room either."""
    placement = _fill(need_gib, free_gib)
    return placement if placement.ram_gib <= ram_free_gib + TOLERANCE_GIB else None


def _fill(need_gib: float, room_gib: Sequence[float]) -> Placement:
    parts = [0.0] * len(room_gib)
    left = need_gib
    for gpu in sorted(range(len(room_gib)), key=lambda gpu: -room_gib[gpu]):
        parts[gpu] = min(left, max(0.0, room_gib[gpu]))
        left -= parts[gpu]
    return Placement(tuple(parts), left if left > TOLERANCE_GIB else 0.0)


def context_tier(vram_gib: float) -> int:
    """Ollama's num_ctx on a machine with that much GPU memory, where nobody gives one."""
    return next(tokens for from_gib, tokens in CONTEXT_TIERS if vram_gib >= from_gib)
