"""The memory of one node: which model lies where, what others took, and what the driver has not given back yet.

The rules are those of `twin/scenario/memory.py`; this module keeps the state. Sizes are GiB; lists go by GPU (a machine
without one has its part of main memory in the place of the only GPU).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from twin.scenario.draws import stream
from twin.scenario.hardware import Hardware
from twin.scenario.memory import MODELS_PER_GPU, Placement, fit, offload
from twin.sim.conditions import Conditions

RECOVERY_POLL_S: Final = 0.25
RECOVERY_LIMIT_S: Final = 5.0
RECOVERED_SHARE: Final = 0.75
"""After an unload Ollama asks the driver every 250 ms, for at most 5 s, whether 75 % of the runner's memory is back
(`waitForVRAMRecovery` in `server/sched.go`; "typically 0.5 to 1.5 s"). Shared memory (apple, cpu) needs no wait. A runner
that crashed has given its memory back before, so that the wait for it always takes the whole 5 s (issue 11997)."""

USUAL_RETURN_S: Final = 1.0
"""Time in which a driver gives a runner's memory back, steadily; the wait for 75 % of it is then 0.75 s."""

SYSTEM_RAM_GIB: Final = 2.0
SERVER_RAM_GIB: Final = 0.2
RUNNER_RAM_GIB: Final = 0.6
"""Main memory of the operating system, the Ollama server, and of a runner beside the model itself. Assumptions."""


RETURN_RANGE_S: Final = (0.67, 2.0)
"""A simulated driver's time, evenly drawn: the waits that follow are the usual 0.5 to 1.5 s."""


class ReturnTimes:
    """How long the driver of one node takes to give memory back, unload by unload."""

    def __init__(self, seed: int, node: str) -> None:
        self._seed = seed
        self._node = node
        self._stream: np.random.Generator | None = None

    def next_s(self) -> float:
        """The next one."""
        if self._stream is None:  # most nodes never unload anything
            self._stream = stream(self._seed, f"memory:{self._node}")
        return float(self._stream.uniform(*RETURN_RANGE_S))


class Returning:
    """Memory of a runner that is gone, which the driver gives back steadily."""

    __slots__ = ("begin_s", "return_s", "vram_gib")

    def __init__(self, vram_gib: tuple[float, ...], begin_s: float, return_s: float) -> None:
        self.vram_gib = vram_gib
        self.begin_s = begin_s
        self.return_s = return_s

    def share_left(self, now: float) -> float:
        """What is not back yet, 1 to 0."""
        return max(0.0, 1.0 - (now - self.begin_s) / self.return_s)


class Memory:
    """The ledger. A model is in it from the beginning of its load until its runner is gone."""

    def __init__(
        self,
        hardware: Hardware,
        conditions: Conditions,
        max_models: int | None = None,
        return_s: Callable[[], float] | None = None,
    ) -> None:
        """`return_s` gives the time that the driver takes after each unload; absent: always the usual."""
        self.hardware = hardware
        self.conditions = conditions
        self.max_models = max_models or MODELS_PER_GPU * hardware.gpus
        self.placements: dict[str, Placement] = {}
        self.leaked_gib = 0.0  # on each GPU, by unloads of this server process
        self.grabbed_gib: list[float] = []  # on each GPU, by others that took what was free; see `grab`
        self.ram_grabbed_gib = 0.0  # the same of main memory
        self.crashed: set[str] = set()  # models whose runner died without the scheduler's knowing
        self.vram_of_models_gib = 0.0  # the sum of `size_vram` in `/api/ps`
        self.ram_of_models_gib = 0.0  # main memory that models have, on a machine of shared memory all of them
        self._returning: list[Returning] = []
        self._return_s = return_s
        self._own_vram = hardware.has_gpu_memory
        self._main_memory_gib = hardware.main_memory_gib

    # -- what is free ---------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """The sums follow the placements."""
        vram = ram = 0.0
        for placement in self.placements.values():
            vram += sum(placement.vram_gib)
            ram += placement.ram_gib if self._own_vram else placement.total_gib
        self.vram_of_models_gib = vram
        self.ram_of_models_gib = ram

    def total_taken_gib(self, now: float) -> float:
        """What is in use on all GPUs together, by anyone."""
        if self._returning or self.grabbed_gib:
            return math.fsum(self.taken_gib(now))
        return self.vram_of_models_gib + self._others_gib() * self.hardware.gpus

    def vram_listed_gib(self) -> float:
        """What `/api/ps` says that they have."""
        if self.conditions.disturbed and self.conditions.values["ps_claims_gpu"]:
            return sum(placement.total_gib for placement in self.placements.values())
        return self.vram_of_models_gib

    def taken_gib(self, now: float) -> list[float]:
        """What is in use on each GPU by anyone: models, other programs, leaks, what is not given back yet."""
        others_gib = self._others_gib()
        taken = [others_gib] * self.hardware.gpus
        for placement in self.placements.values():
            for gpu, gib in enumerate(placement.vram_gib):
                taken[gpu] += gib
        for gpu, gib in enumerate(self.grabbed_gib):
            taken[gpu] += gib
        if self._returning:
            self._returning = [each for each in self._returning if each.share_left(now) > 0.0]
            for each in self._returning:
                for gpu, gib in enumerate(each.vram_gib):
                    taken[gpu] += gib * each.share_left(now)
        return taken

    def free_gib(self, now: float) -> list[float]:
        """Room on each GPU; negative where more is promised than there is."""
        return [self.hardware.vram_gib - gib for gib in self.taken_gib(now)]

    def _others_gib(self) -> float:
        if not self.conditions.disturbed:
            return self.leaked_gib
        values = self.conditions.values
        return self.leaked_gib + values["vram_leaked_gib"] + values["vram_foreign_gib"]

    def ram_needed_gib(self) -> float:
        """Main memory that all programs together want; above what there is, swap is used."""
        need_gib = SYSTEM_RAM_GIB + SERVER_RAM_GIB + RUNNER_RAM_GIB * len(self.placements) + self.ram_of_models_gib
        if self.conditions.disturbed:
            need_gib += self.conditions.values["ram_leaked_gib"] + self.ram_grabbed_gib
        return need_gib

    def ram_free_gib(self) -> float:
        """Main memory without swap, as far as it is not wanted."""
        return self._main_memory_gib - self.ram_needed_gib()

    def ram_is_exhausted(self) -> bool:
        """Whether main memory and swap together are not enough: the kernel kills."""
        return self.ram_needed_gib() > self._main_memory_gib + self.hardware.swap_gib

    def grab(self, share: float, now: float) -> None:
        """Others take that share of the GPU memory that is free now, and keep it; what they had before counts as free."""
        free_gib = self.free_gib(now)
        had_gib = self.grabbed_gib or [0.0] * len(free_gib)
        grabbed = [share * max(0.0, free + had) for free, had in zip(free_gib, had_gib, strict=True)]
        self.grabbed_gib = grabbed if share > 0.0 else []

    def grab_ram(self, share: float) -> None:
        """A process takes that share of the main memory and swap that is free now; above 1, more than there is."""
        had_gib = self.ram_grabbed_gib
        free_gib = self.hardware.main_memory_gib + self.hardware.swap_gib - self.ram_needed_gib() + had_gib
        self.ram_grabbed_gib = share * max(0.0, free_gib)

    # -- loading and letting go -----------------------------------------------------------------------------------

    def fit(self, need_gib: float, now: float) -> Placement | None:
        """Where one more model goes; None where others must go before. With nothing else loaded it always goes somewhere,
        if need be in part into main memory, unless that has no room."""
        alone = not self.placements
        if len(self.placements) >= self.max_models:
            return None
        free_gib = self.free_gib(now)
        lost = int(self.conditions.values["gpus_lost"]) if self.conditions.disturbed else 0
        if lost:
            free_gib = [0.0 if gpu >= len(free_gib) - lost else gib for gpu, gib in enumerate(free_gib)]
        placement = fit(need_gib, free_gib, alone=alone)
        blind = lost >= len(free_gib)  # it takes the machine for one without a GPU
        if placement is None and self._own_vram and (alone or blind):
            placement = offload(need_gib, free_gib, self.ram_free_gib())
        return placement

    def take(self, model: str, placement: Placement) -> None:
        """A load begins."""
        self.placements[model] = placement
        self.crashed.discard(model)
        self._changed()

    def put(self, model: str, need_gib: float, now: float) -> Placement:
        """A model that is simply there: at a run's start, or where nobody asked for room. Where it does not fit, the rest
        is in main memory."""
        free_gib = self.free_gib(now)
        placement = fit(need_gib, free_gib, alone=True) or offload(need_gib, free_gib, math.inf)
        assert placement is not None, "main memory without bound holds everything"
        self.take(model, placement)
        return placement

    def release(self, model: str, now: float) -> float:
        """A runner was stopped by its server; the time in which the server waits for its memory."""
        placement = self._remove(model)
        if placement is None or not self.hardware.has_gpu_memory or not placement.gpus:
            return 0.0
        return_s = self._return_s() if self._return_s is not None else USUAL_RETURN_S
        if self.conditions.disturbed:
            return_s += self.conditions.values["vram_return_added_s"]
            self.leaked_gib += self.conditions.values["vram_leaked_gib_per_unload"]
        polls = math.ceil(RECOVERED_SHARE * return_s / RECOVERY_POLL_S - 1e-9)
        if polls * RECOVERY_POLL_S <= RECOVERY_LIMIT_S:
            # What is missing then is back before the next runner has started and wants it.
            return polls * RECOVERY_POLL_S
        self._returning.append(Returning(placement.vram_gib, now, return_s))
        return RECOVERY_LIMIT_S

    def lose(self, model: str) -> None:
        """A runner died by itself; its memory is back at once, and the scheduler does not know."""
        placement = self._remove(model)
        if placement is not None and self.hardware.has_gpu_memory and placement.gpus:
            self.crashed.add(model)

    def abandon(self, model: str) -> None:
        """A load ended before its runner was there."""
        self._remove(model)

    def _remove(self, model: str) -> Placement | None:
        placement = self.placements.pop(model, None)
        self._changed()
        return placement

    def clean_up_s(self, model: str) -> float:
        """Before it loads a model anew, the scheduler clears away its dead runner; how long it waits for its memory."""
        if model in self.crashed:
            self.crashed.discard(model)
            return RECOVERY_LIMIT_S
        return 0.0

    def server_ended(self) -> None:
        """The server process and its runners are gone, and with them all that they held or leaked."""
        self.placements.clear()
        self._changed()
        self._returning.clear()
        self.crashed.clear()
        self.leaked_gib = 0.0

    def largest_in_ram(self) -> str:
        """The model that has most of main memory: whom the kernel kills. Empty where none is loaded."""
        if not self.placements:
            return ""
        own = not self.hardware.has_gpu_memory
        return max(
            self.placements, key=lambda m: (self.placements[m].ram_gib if not own else self.placements[m].total_gib, m)
        )

    # -- speed ----------------------------------------------------------------------------------------------------

    def slowdown(self, model: str) -> float:
        """How many times as long a step of the model takes as on one GPU that holds it all."""
        placement = self.placements[model]
        factor = 1.0 + self.hardware.split_cost * max(0, placement.gpus - 1)
        if placement.ram_gib and self.hardware.has_gpu_memory:
            share = placement.offloaded_share
            factor = (1.0 - share) * factor + share * self.hardware.cpu_slowdown
        return factor
