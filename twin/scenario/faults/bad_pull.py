"""Downloads of models are damaged on their way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class BadPull(Fault):
    """Somebody pulls the node's models anew, and this share of the pulls ends with another digest. Answers stay right."""

    about = About(
        kind="bad_pull",
        identifier="F24",
        what="the line to the registry, or a cache on the way, damages what is downloaded",
        symptom="/api/pull ends with digest mismatch, file must be downloaded again; the model that was there goes on",
        precursor="only while it lasts: network errors, pulls that failed before",
        source="ollama/ollama issues 941, 9846, 8105, 11831, 1650",
        ended_by_restart=False,
    )
    kind: Literal["bad_pull"]
    share: Annotated[float, Field(gt=0, le=1, description="Share of the pulls that are damaged.")] = 1.0

    def onset(self) -> Iterator[Step]:
        """From now on pulls are damaged; and there is one of each model."""
        yield Step(0.0, "set_condition", self.share, "pull_damaged_share")
        yield Step(0.0, "pull_models")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
