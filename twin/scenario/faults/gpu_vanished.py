"""The GPU vanishes from the container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import ALL_GPUS, About, Fault, Step


class GpuVanished(Fault):
    """New loads see no GPU, and go to main memory; what is loaded goes on. Only a restart of the container brings the GPU
    back (here: of the service)."""

    about = About(
        kind="gpu_vanished",
        identifier="F08",
        what="the container loses its GPU (NVML: unknown error), hours or days after its start",
        symptom="loaded models work; each one that is loaded anew is many times slower; /api/ps may still say 100 % GPU",
        precursor="only once it is there: the agent can read the GPU no more",
        source="ollama/ollama issues 8594, 10257, 14658, 3930, 12323; docs/troubleshooting.mdx (Linux docker)",
        ended_by_restart=True,
    )
    kind: Literal["gpu_vanished"]
    models_expire: Annotated[
        bool, Field(description="The loaded models are let go at that time, so that they are loaded anew.")
    ] = True
    ps_lies: Annotated[bool, Field(description="/api/ps says that they lie in GPU memory all the same.")] = True

    def onset(self) -> Iterator[Step]:
        """It is gone."""
        yield Step(0.0, "set_condition", ALL_GPUS, "gpus_lost")
        yield Step(0.0, "set_condition", 1.0, "gpu_unreadable")
        if self.ps_lies:
            yield Step(0.0, "set_condition", 1.0, "ps_claims_gpu")
        if self.models_expire:
            yield Step(0.0, "expire_models")

    def ending(self) -> Iterator[Step]:
        """Somebody restarts the container."""
        yield Step(0.0, "kill_server")
        yield Step(0.0, "start_server")
