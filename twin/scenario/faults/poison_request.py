"""Requests that kill whatever runner takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, Target


class PoisonRequest(Fault):
    """A share of the prompts kills the runner half way through their evaluation, again in each attempt, on every node
    that has the defect (by default all: it is in the version of Ollama)."""

    about = About(
        kind="poison_request",
        identifier="F02",
        what="a prompt trips a failed assertion in the runner, wherever it is tried",
        symptom="500 before the first token for one request, on each node in turn; an error record for what ran beside it",
        precursor="none before the first; then the same request in every crash",
        source="ollama/ollama issue 12472; seen on real nodes (GGML_ASSERT)",
        ended_by_restart=False,
        emerges="fatal_request_share",
    )
    kind: Literal["poison_request"]
    target: Annotated[Target, Field(description="The nodes with the defect: a name, random, random(N), all.")] = "all"
    share: Annotated[float, Field(gt=0, le=1, description="Share of the prompts that kill.")] = 0.002

    def onset(self) -> Iterator[Step]:
        """From now on such prompts come."""
        yield Step(0.0, "set_condition", self.share, "fatal_request_share")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
