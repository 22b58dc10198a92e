"""Clients call a model by several of its names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class ModelAliases(Fault):
    """This share of the requests names its model `NAME:latest` (or `library/NAME:TAG`), which Ollama takes for the same."""

    about = About(
        kind="model_aliases",
        identifier="G02",
        what="clients use several names for one model",
        symptom="a gateway that takes names as they are has two queues and two counts for one model, or knows no such model",
        precursor="none",
        source="notes of ollama-herd, 2026-03-22",
        ended_by_restart=False,
        part="clients",
    )
    kind: Literal["model_aliases"]
    share: Annotated[float, Field(gt=0, le=1, description="Share of the requests with another name.")] = 0.5

    def onset(self) -> Iterator[Step]:
        """From now on some use another name."""
        yield Step(0.0, "set_condition", self.share, "alias_share")

    def ending(self) -> Iterator[Step]:
        """From then on all use the same."""
        yield from ()
