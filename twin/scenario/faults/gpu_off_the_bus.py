"""The GPU hangs, or falls off the bus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import ALL_GPUS, About, Fault, Step, merged, ramp


class GpuOffTheBus(Fault):
    """What runs on the GPU hangs or dies, and whatever wants it next fails at once. A new server process finds no GPU and
    loads models on the processor; only a reboot (the end of `duration_s`) brings the GPU back."""

    about = About(
        kind="gpu_off_the_bus",
        identifier="F09",
        what="the GPU stops answering its driver (Xid 79, a ring timeout)",
        symptom="running requests hang or fail, every next one fails within milliseconds; /api/tags stays green",
        precursor="Xid or amdgpu lines in the kernel's log minutes before; power that drops at full utilisation",
        source="ollama/ollama issues 17870, 6149, 7771, 12512; ROCm/legacy-rocm-build issue 6165",
        ended_by_restart=False,
    )
    kind: Literal["gpu_off_the_bus"]
    running: Annotated[Literal["hang", "fail"], Field(description="What becomes of the requests that are running.")] = (
        "hang"
    )

    def signs(self) -> Iterator[Step]:
        """Fault lines in the kernel's log, and hiccups."""
        return merged(
            ramp("gpu_fault_event_rate_per_s", 0.01, 0.2, self.lead_s),
            ramp("step_factor", 1.0, 1.3, self.lead_s),
            ramp("gpu_power_factor", 1.0, 0.7, self.lead_s),
        )

    def onset(self) -> Iterator[Step]:
        """It is gone."""
        yield Step(0.0, "pause_runner" if self.running == "hang" else "kill_runner")
        yield Step(0.0, "set_condition", 1.0, "gpu_lost")
        yield Step(0.0, "set_condition", ALL_GPUS, "gpus_lost")
        yield Step(0.0, "set_condition", 1.0, "gpu_unreadable")

    def ending(self) -> Iterator[Step]:
        """The machine is rebooted."""
        yield Step(0.0, "kill_server")
        yield Step(0.0, "start_server")
