"""One generation on the node model, as the handler of its request waits for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twin.policy.vocabulary import AttemptError
from twin.sim.node import OllamaNode
from twin.sim.runner import Job

SHORTEST_SLEEP_S = 0.005
"""Tokens that come faster than this are sent several at a time."""
LONGEST_SLEEP_S = 0.05
"""A token may come sooner than was foreseen, because others left the batch; it is at most this late."""


class _WatchedJob(Job):
    """A job that says when its first token is known: that is when it gets its slot, or goes on after a pause."""

    __slots__ = ("_first_token_s", "_on_slot")

    def __init__(self, *arguments: Any, on_slot: Callable[[], None], **named: Any) -> None:
        self._on_slot = on_slot
        super().__init__(*arguments, **named)

    @property
    def first_token_s(self) -> float:
        """When the first token is there; nan as long as that is not known."""
        return self._first_token_s

    @first_token_s.setter
    def first_token_s(self, time_s: float) -> None:
        self._first_token_s = time_s
        self._on_slot()


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
        self,
        node: OllamaNode,
        model: str,
        prompt_tokens: int,
        output_tokens: int,
        context_tokens: int,
        content: int = 0,
    ) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self._told = 0
        self._ended_s = math.nan
        self.ended = False
        self.error: AttemptError = ""
        self.job = _WatchedJob(
            model,
            prompt_tokens,
            output_tokens,
            self._end,
            context_tokens=context_tokens,
            content=content,
            on_slot=self._wake_up,
        )
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
        return runner.tokens_of(self.job, self._node.clock.time())

    async def _sleep(self) -> None:
        """Wait for a slot, the end or the time of the next token, whichever is first."""
        self._wake = self._loop.create_future()
        delay_s = self._next_token_in_s()
        timer = self._loop.call_later(delay_s, self._wake_up) if math.isfinite(delay_s) else None
        try:
            await self._wake
        finally:
            if timer is not None:
                timer.cancel()
            self._wake = None

    def _next_token_in_s(self) -> float:
        """When to look again; infinite as long as it has no slot, for then it is told."""
        runner, job = self.job.runner, self.job
        if runner is None or math.isnan(job.joined_s):
            return math.inf
        if runner.paused:
            return LONGEST_SLEEP_S
        now = self._node.clock.time()
        if now < job.first_token_s:
            return job.first_token_s - now
        made = runner.clock_tokens - job.start_clock
        step_s = runner.step_s[runner.count - 1] * runner.slowdown
        next_s = max(0.0, runner.frozen_until_s - now) + (math.floor(made) + 1 - made) * step_s
        return min(max(next_s, SHORTEST_SLEEP_S), LONGEST_SLEEP_S)

    def _end(self, _job: Job, error: AttemptError) -> None:
        self.ended = True
        self.error = error
        self._ended_s = self._loop.time()
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
