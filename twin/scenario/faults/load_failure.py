"""Models cannot be loaded: the runner dies while it loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, merged, ramp


class LoadFailure(Fault):
    """Of the loads on the node this share dies half way through; what is loaded goes on."""

    about = About(
        kind="load_failure",
        identifier="F01",
        what="the runner dies while it loads a model (too little memory, a driver error)",
        symptom="500 after part of the time of a load, for models that are not loaded; loaded models work",
        precursor="free VRAM below what the model needs; other processes' VRAM; earlier failures of the same model",
        source="ollama/ollama issues 8271, 4775, 9782",
        ended_by_restart=False,
    )
    kind: Literal["load_failure"]
    share: Annotated[float, Field(gt=0, le=1, description="Share of the loads that die.")] = 1.0

    def signs(self) -> Iterator[Step]:
        """Other programs take the GPU's memory, the log has errors, and now and then a load fails."""
        return merged(
            ramp("vram_grabbed_share", 0.0, 0.9, self.lead_s),
            ramp("error_line_rate_per_s", 0.0, 0.05, self.lead_s),
            ramp("load_failure_share", 0.0, self.share / 4.0, self.lead_s),
        )

    def onset(self) -> Iterator[Step]:
        """From now on loads die."""
        yield Step(0.0, "set_condition", self.share, "load_failure_share")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
