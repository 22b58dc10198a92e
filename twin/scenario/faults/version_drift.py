"""A node runs a version of Ollama that counts prompt tokens differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class VersionDrift(Fault):
    """From now on the node's `prompt_eval_count` includes the tokens that were in its prompt cache already.

    What the workload calls prompt tokens are those that must be evaluated; `cached_share` of the whole prompt is cached.
    """

    about = About(
        kind="version_drift",
        identifier="F31",
        what="the node was upgraded: since 0.30.2 prompt_eval_count includes cached tokens",
        symptom="answers are right; prompt_eval_count, and every rate derived from it, are too high on this node",
        precursor="only once it is there: /api/version differs between nodes",
        source="ollama/ollama commit 35fa277fa; notes of ollama-herd, 2026-07-17",
        ended_by_restart=False,
    )
    kind: Literal["version_drift"]
    cached_share: Annotated[float, Field(gt=0, lt=1, description="Share of a whole prompt that is cached.")] = 0.6

    def onset(self) -> Iterator[Step]:
        """From now on cached tokens are counted."""
        yield Step(0.0, "set_condition", 1.0 / (1.0 - self.cached_share), "prompt_count_factor")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
