"""A marginal GPU: a long prompt kills the runner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step, merged, ramp


class LongPromptCrash(Fault):
    """A prompt of more than `tokens` kills the runner half way through its evaluation, with all that runs beside it."""

    about = About(
        kind="long_prompt_crash",
        identifier="F02",
        what="a marginal GPU fails under the evaluation of a long prompt, and the runner dies",
        symptom="500 before the first token for long prompts, an error record for what ran beside them; short ones work",
        precursor="lines of GPU faults in the kernel's log; earlier crashes of the same node and model",
        source="ollama/ollama issue 12472",
        ended_by_restart=False,
        emerges="fatal_prompt_tokens",
    )
    kind: Literal["long_prompt_crash"]
    tokens: Annotated[int, Field(ge=1, description="The longest prompt that it survives.")] = 300

    def signs(self) -> Iterator[Step]:
        """The kernel's log tells of faults that were recovered from, more and more of them."""
        return merged(
            ramp("gpu_fault_event_rate_per_s", 0.0, 0.05, self.lead_s),
            ramp("error_line_rate_per_s", 0.0, 0.02, self.lead_s),
        )

    def onset(self) -> Iterator[Step]:
        """From now on long prompts kill."""
        yield Step(0.0, "set_condition", self.tokens, "fatal_prompt_tokens")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
