"""A runner's memory is corrupted, and it talks nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class Gibberish(Fault):
    """Of the answers of the models that are loaded this share is gibberish, until they are loaded anew. No error says so."""

    about = About(
        kind="gibberish",
        identifier="F21",
        what="the weights or the cache in GPU memory are corrupted (a driver error, a bad kernel)",
        symptom="status 200, done: true, and the text is one token again and again",
        precursor="none beforehand; then a high share of repeated tokens, as in some sound answers too",
        source="ollama/ollama issues 5641, 12142, 7123, 9028, 12512",
        ended_by_restart=True,
        ended_by_reload=True,
    )
    kind: Literal["gibberish"]
    share: Annotated[float, Field(gt=0, le=1, description="Share of the answers that are gibberish.")] = 1.0

    def onset(self) -> Iterator[Step]:
        """Corrupt what is loaded."""
        yield Step(0.0, "garble_runner", self.share)

    def ending(self) -> Iterator[Step]:
        """An operator notices at last, and has the models loaded again."""
        yield Step(0.0, "kill_runner")
