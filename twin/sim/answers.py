"""What becomes of an answer on a simulated node: right, wrong, cut short at the front, or without an end.

The simulation has no text. An answer has attributes instead: what it is in truth (`Job.answer`, for the record alone),
and what a client could measure of it (the count of evaluated prompt tokens, the share of tokens that repeat the one
before).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twin.sim.runner import Job, Runner

if TYPE_CHECKING:
    from twin.sim.node import OllamaNode

GIBBERISH: Final = "gibberish"
TRUNCATED_PROMPT: Final = "truncated_prompt"
RUNAWAY: Final = "runaway"

NO_LIMIT_TOKENS: Final = 1e9
"""The neutral value of the condition `context_limit_tokens`."""

RUNAWAY_TOKENS: Final = 1_000_000_000
"""Length of an answer that never ends: at 1 ms a token, eleven days."""

REPEAT_RATIOS: Final[tuple[float, ...]] = (
    *(0.004 * place for place in range(58)),
    *(0.25, 0.3, 0.36, 0.43, 0.52, 0.65),
)
"""Share of repeated tokens in sound answers: near none in most, and a lot in tables and lists, which look like
gibberish. An assumption; a request takes one by its number, so that no random draw is needed."""

GIBBERISH_REPEAT_RATIOS: Final[tuple[float, ...]] = (0.99, 0.97, 0.93, 1.0, 0.88, 0.96, 0.6, 0.98)
"""The same of gibberish ("GGGG ..."); one kind of it repeats whole words, and less."""


def repeat_ratio(request_id: int, answer: str) -> float:
    """Share of the answer's tokens that equal the one before, as a client could count it."""
    if answer == GIBBERISH:
        return GIBBERISH_REPEAT_RATIOS[request_id & 7]
    return REPEAT_RATIOS[request_id & 63]


class Share:
    """Of a row of things a share, spread evenly, so that no random draw is needed."""

    __slots__ = ("_owed",)

    def __init__(self) -> None:
        self._owed = 0.0

    def takes(self, share: float) -> bool:
        """Whether the next one belongs to the share."""
        self._owed += share
        if self._owed < 1.0 - 1e-9:
            return False
        self._owed -= 1.0
        return True


class Answers:
    """Looks at a node's jobs when a runner gets them, if anything is wrong there (`OllamaNode.shaping`)."""

    def __init__(self, node: OllamaNode) -> None:
        self.node = node
        self._garbled = Share()
        self._runaway = Share()

    def wanted(self) -> bool:
        """Whether jobs must be looked at at all."""
        values = self.node.conditions.values
        return (
            values["runaway_share"] > 0.0
            or values["context_limit_tokens"] < NO_LIMIT_TOKENS
            or any(runner.garbled_share for runner in self.node.runners.values())
        )

    def shape(self, runner: Runner, job: Job) -> None:
        """A runner gets a job: what its answer will be."""
        values = self.node.conditions.values
        context_tokens = min(runner.context_tokens, round(values["context_limit_tokens"]))
        if job.prompt_tokens > context_tokens:
            job.prompt_tokens = context_tokens  # the front of the prompt is dropped, without a word
            job.answer = TRUNCATED_PROMPT
        if runner.garbled_share and self._garbled.takes(runner.garbled_share):
            job.answer = GIBBERISH
        # Who asks for one token (num_predict: 1, as a probe does) gets one.
        if values["runaway_share"] and job.output_tokens > 1 and self._runaway.takes(values["runaway_share"]):
            job.output_tokens = RUNAWAY_TOKENS
            job.answer = RUNAWAY

    def garble(self, share: float) -> None:
        """The memory of the loaded models is corrupted: that share of their answers is gibberish, until a new load."""
        for runner in self.node.runners.values():
            runner.garbled_share = share
            for job in runner.jobs():
                if self._garbled.takes(share):
                    job.answer = GIBBERISH

    def prompt_eval_count(self, job: Job) -> int:
        """How many prompt tokens the node says that it evaluated."""
        return round(job.prompt_tokens * self.node.conditions.values["prompt_count_factor"])
