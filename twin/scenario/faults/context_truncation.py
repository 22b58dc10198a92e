"""A node keeps less context than its clients need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class ContextTruncation(Fault):
    """Prompts longer than `context_tokens` lose their front on this node, without a word."""

    about = About(
        kind="context_truncation",
        identifier="F22",
        what="the node keeps a shorter context than the others (OLLAMA_CONTEXT_LENGTH, or less GPU memory)",
        symptom="status 200, and the answer is to the end of the prompt alone; prompt_eval_count stays at num_ctx",
        precursor="none beforehand; estimated prompt tokens above context_length of /api/ps",
        source="ollama/ollama issues 3839, 17427, 17889; the count as measured on Ollama 0.24",
        ended_by_restart=False,
    )
    kind: Literal["context_truncation"]
    context_tokens: Annotated[int, Field(ge=1, le=10_000_000, description="What the node keeps of a prompt.")] = 2048

    def onset(self) -> Iterator[Step]:
        """From now on prompts are cut."""
        yield Step(0.0, "set_condition", float(self.context_tokens), "context_limit_tokens")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
