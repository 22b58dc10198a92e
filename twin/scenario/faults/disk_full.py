"""The disk with the models is full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, ramp


class DiskFull(Fault):
    """What is free fills up over `lead_s`; then somebody pulls the node's models anew, and there is no room for it."""

    about = About(
        kind="disk_full",
        identifier="F25",
        what="the disk with the models fills up",
        symptom="/api/pull and /api/create end with no space left on device; what is there is loaded and served",
        precursor="free space falls, below the size of the next pull",
        source="no good report found: an assumption from file systems in general",
        ended_by_restart=False,
    )
    kind: Literal["disk_full"]
    filled_share: Annotated[float, Field(gt=0, le=1, description="Share of the free space that is taken.")] = 1.0

    def signs(self) -> Iterator[Step]:
        """It fills up."""
        return ramp("disk_filled_share", 0.0, 0.95 * self.filled_share, self.lead_s)

    def onset(self) -> Iterator[Step]:
        """Full; and a pull of each model."""
        yield Step(0.0, "set_condition", self.filled_share, "disk_filled_share")
        yield Step(0.0, "pull_models")

    def ending(self) -> Iterator[Step]:
        """Somebody clears up."""
        yield from ()
