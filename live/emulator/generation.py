"""One generation on the node model, as the handler of its request waits for it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from twin.policy.vocabulary import AttemptError
from twin.sim.node import OllamaNode
from twin.sim.runner import Job

POLL_S = 0.01
"""How often a generation that runs is asked for new tokens."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Ollama's account of a generation that ended well, in seconds."""

    total_s: float
    load_s: float  # until a runner had it; the wait for a slot is in none of the parts
    prompt_eval_s: float
    eval_s: float


class Generation:
    """A job of the node, from its start. Whoever no longer waits for it must `cancel` it."""

    def __init__(
        self, node: OllamaNode, model: str, prompt_tokens: int, output_tokens: int, context_tokens: int
    ) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self._told = 0
        self._ended_s = math.nan
        self.ended = False
        self.error: AttemptError = ""
        self.job = Job(model, prompt_tokens, output_tokens, self._end, context_tokens=context_tokens)
        node.submit(self.job)

    async def more(self) -> range:
        """Wait for something new; the indices of the tokens that came. May be empty only at the end."""
        while True:
            made = self._made()
            if made > self._told or self.ended:
                new = range(self._told, made)
                self._told = made
                return new
            await self._sleep()

    def cancel(self) -> None:
        """The client went away; does nothing after the end."""
        if not self.ended:
            self.ended = True
            self._node.cancel(self.job)

    def timings(self) -> Timings:
        """Ollama's account of it; only after a good end."""
        job = self.job
        loaded_s = job.loaded_s - job.submitted_s
        if not job.output_tokens:
            return Timings(self._ended_s - job.submitted_s, loaded_s, 0.0, 0.0)
        return Timings(
            self._ended_s - job.submitted_s,
            loaded_s,
            job.first_token_s - job.joined_s,  # as Ollama measures it, with the prefills of others that came between
            self._ended_s - job.first_token_s,
        )

    def _made(self) -> int:
        if self.ended:
            return self.job.tokens
        runner = self.job.runner
        if runner is None or runner.paused:
            return self._told
        return runner.tokens_of(self.job, self._node.clock.now)

    async def _sleep(self) -> None:
        """Wait for the end, the first token or the next poll, whichever is first."""
        first_token_s = self.job.first_token_s - self._loop.time()
        self._wake = self._loop.create_future()
        timer = self._loop.call_later(first_token_s if 0.0 < first_token_s < POLL_S else POLL_S, _set, self._wake)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None

    def _end(self, _job: Job, error: AttemptError) -> None:
        self.ended = True
        self.error = error
        self._ended_s = self._loop.time()
        if self._wake is not None:
            _set(self._wake)


def _set(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
