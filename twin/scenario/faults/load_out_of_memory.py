"""A load takes more memory than was predicted, and there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, merged, ramp


class LoadOutOfMemory(Fault):
    """Another program takes nearly all GPU memory that is free, and loads take `need_factor` times what the scheduler
    predicts (as after a rise of num_ctx): so they find room by its reckoning, and die. The loaded models are let go at
    the beginning, as for such a change; those that stay loaded would go on."""

    about = About(
        kind="load_out_of_memory",
        identifier="F01",
        what="the runner runs out of GPU memory while it loads a model that was predicted to fit",
        symptom="500 after part of the time of a load, each time; other nodes load the same model well",
        precursor="free GPU memory below what the model needs; another program's memory; a recent rise of num_ctx",
        source="ollama/ollama issues 8271, 4775, 9782",
        ended_by_restart=False,
        emerges="load_need_factor",
    )
    kind: Literal["load_out_of_memory"]
    need_factor: Annotated[
        float, Field(gt=1, le=10, description="What a load takes, in times of what is predicted.")
    ] = 2.0
    taken_share: Annotated[
        float, Field(gt=0, le=1, description="Of the GPU memory that is free, what the other program takes.")
    ] = 0.98

    def signs(self) -> Iterator[Step]:
        """The other program grows; the log has errors."""
        return merged(
            ramp("vram_grabbed_share", 0.0, 0.9 * self.taken_share, self.lead_s),
            ramp("error_line_rate_per_s", 0.0, 0.05, self.lead_s),
        )

    def onset(self) -> Iterator[Step]:
        """Memory is short, and models are to be loaded."""
        yield Step(0.0, "set_condition", self.taken_share, "vram_grabbed_share")
        yield Step(0.0, "set_condition", self.need_factor, "load_need_factor")
        yield Step(0.0, "expire_models")

    def ending(self) -> Iterator[Step]:
        """The other program ends; what was set is withdrawn."""
        yield from ()
