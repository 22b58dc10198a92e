"""Slots and memory are never exceeded, and nothing has memory that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twin.sim.checkers.base import Checker

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class Capacity(Checker):
    """Looks at each sample."""

    name = "capacity_and_vram_never_exceeded"

    def on_sample(self, now: float, simulation: Simulation) -> None:
        """Every node, every runner."""
        for node in simulation.nodes.values():
            memory = node.memory
            for gpu in range(node.hardware.gpus):
                used_gib = sum([placement.vram_gib[gpu] for placement in memory.placements.values()])
                if used_gib > node.hardware.vram_gib + 1e-9:
                    self.violated(
                        now, f"{node.name} uses {used_gib:.2f} GiB of {node.hardware.vram_gib:g} of GPU {gpu}"
                    )
            if len(memory.placements) != len(node.runners) + (node.loading is not None):
                what = f"{node.name} has {len(node.runners)} runners and memory for {len(memory.placements)}"
                self.violated(now, what)
            for runner in node.runners.values():
                if runner.count > runner.slots:
                    self.violated(now, f"{node.name} decodes {runner.count} sequences in {runner.slots} slots")
