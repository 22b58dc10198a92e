"""A runner: the process that holds one loaded model and decodes a batch of sequences.

The analytic clock. All sequences of a batch advance together, one token a step, and a step takes `step_s[n - 1]` with `n`
sequences. So a runner needs only one counter, the tokens that a sequence which was always there would have got
(`clock_tokens`): a sequence that joins at clock 100 and wants 50 more tokens ends when the clock reads 150, whoever else
comes and goes. Joins and ends change the clock's speed, and are the only events. A prefill stops the batch for its
time: the clock stands still until `frozen_until_s`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from twin.policy.vocabulary import NEVER_S, AttemptError
from twin.sim.engine import Clock, Timer
from twin.sim.prefixes import SlotPrefixes

TOLERANCE_TOKENS: Final = 1e-6
"""A sequence this close to its end has ended: floating point does not hit ends exactly."""


class Job:
    """One generation at a node. `output_tokens` 0: the model is to be loaded, and no more."""

    __slots__ = (
        "abandoned",
        "answer",
        "content",
        "context_tokens",
        "finish_clock",
        "first_token_s",
        "joined_s",
        "loaded_s",
        "model",
        "on_end",
        "on_slot",
        "output_tokens",
        "owner",
        "prompt_tokens",
        "runner",
        "session",
        "shared_tokens",
        "start_clock",
        "submitted_s",
        "tokens",
    )

    def __init__(
        self,
        model: str,
        prompt_tokens: int,
        output_tokens: int,
        on_end: Callable[[Job, AttemptError], None],
        owner: object = None,
        context_tokens: int = 0,
        content: int = 0,
        session: int = 0,
        shared_tokens: int = 0,
    ) -> None:
        self.model = model
        self.content = content  # stands for the prompt: the same in every attempt of a request; 0: nothing special
        self.session = session  # 0: none
        self.shared_tokens = shared_tokens  # of the prompt: those that repeat what the session had before
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.context_tokens = context_tokens
        self.on_end = on_end
        self.owner = owner
        self.on_slot: Callable[[], None] | None = None  # told when `first_token_s` is known, or has moved
        self.abandoned = False  # nobody listens any more
        self.runner: Runner | None = None
        self.submitted_s = math.nan
        self.loaded_s = math.nan  # when a runner had it
        self.joined_s = math.nan  # when it got a slot
        self.first_token_s = math.nan  # known from then on
        self.start_clock = 0.0
        self.finish_clock = 0.0
        self.tokens = 0  # made by its end
        self.answer = "right"  # in truth; see `answers.py`


class Runner(Timer):
    """One loaded model."""

    __slots__ = (
        "_armed_s",
        "_clock",
        "_last_s",
        "_on_idle",
        "_paused_at_s",
        "_sequence",
        "active",
        "alive",
        "busy_s",
        "clock_tokens",
        "context_tokens",
        "count",
        "expired",
        "frozen_until_s",
        "garbled_share",
        "idle_since_s",
        "leaving",
        "memory_gib",
        "model",
        "on_join",
        "paused",
        "prefill_growth_s",
        "prefill_s_per_token",
        "prefixes",
        "queue",
        "slots",
        "slowdown",
        "step_s",
        "stopping",
    )

    def __init__(
        self,
        clock: Clock,
        model: str,
        memory_gib: float,
        context_tokens: int,
        slots: int,
        step_s: list[float],
        prefill_s_per_token: float,
        on_idle: Callable[[Runner], None],
    ) -> None:
        self._clock = clock
        self._on_idle = on_idle
        self.on_join: Callable[[Runner, Job], None] | None = None  # told of who gets a slot, while something is amiss
        self.model = model
        self.memory_gib = memory_gib
        self.context_tokens = context_tokens
        self.slots = slots
        self.step_s = (step_s + [step_s[-1]] * slots)[:slots]  # by sequences in the batch, less one
        self.prefill_s_per_token = prefill_s_per_token
        self.prefill_growth_s = 0.0  # that a token takes longer for each before it
        self.prefixes: SlotPrefixes | None = None  # None: no prompt repeats another, so nothing is kept account of
        self.slowdown = 1.0
        self.alive = True
        self.leaving = False  # to be let go once nobody uses it
        self.expired = False  # to be let go at its next idle moment, whoever wants it before
        self.stopping = False  # it was to die, and does not
        self.paused = False
        self.garbled_share = 0.0  # of its answers are gibberish
        self._paused_at_s = 0.0
        self.active: list[tuple[float, int, Job]] = []  # heap by finish_clock
        self.count = 0
        self.queue: deque[Job] = deque()  # without bound, as in Ollama
        self.clock_tokens = 0.0
        self.frozen_until_s = 0.0
        self.idle_since_s = clock.time()
        self.busy_s = 0.0
        self._last_s = clock.time()
        self._armed_s = NEVER_S
        self._sequence = 0

    # -- time -----------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Bring the clock up to date."""
        last_s = self._last_s
        if self.count and not self.paused:
            self.busy_s += now - last_s
            start_s = self.frozen_until_s if self.frozen_until_s > last_s else last_s
            if now > start_s:
                self.clock_tokens += (now - start_s) / (self.step_s[self.count - 1] * self.slowdown)
        self._last_s = now

    def _arm(self, now: float) -> None:
        """Have the next end looked at in time. What was armed earlier stays, and finds nothing to do."""
        if not self.count or self.paused:
            return
        start_s = self.frozen_until_s if self.frozen_until_s > now else now
        left = self.active[0][0] - self.clock_tokens
        due_s = start_s + left * self.step_s[self.count - 1] * self.slowdown if left > 0.0 else start_s
        if self._armed_s <= now or due_s < self._armed_s:
            self._armed_s = due_s
            self._clock.wake_at(due_s, self)

    def fire(self) -> None:
        """The next sequence may have ended."""
        now = self._clock.time()
        if now < self._armed_s or not self.alive or self.paused:
            return
        self._armed_s = NEVER_S
        self.advance(now)
        reached = self.clock_tokens + TOLERANCE_TOKENS
        ended: list[Job] = []
        if now >= self.frozen_until_s:
            while self.active and self.active[0][0] <= reached:
                ended.append(heappop(self.active)[2])
        if ended:
            self._leave(ended)
            self._fill(now)
        self._rearm(now)
        self._hand_back(now, ended)

    def _leave(self, ended: list[Job]) -> None:
        """Their slots are free, with what their conversations may use again."""
        self.count -= len(ended)
        if self.prefixes is not None:
            for job in ended:
                self.prefixes.give(job.session, job.prompt_tokens + job.output_tokens)

    def _hand_back(self, now: float, ended: list[Job]) -> None:
        """Tell whoever waits for them."""
        for job in ended:
            job.runner = None
            job.tokens = job.output_tokens
            job.on_end(job, "")
        if ended and not self.count:
            self._idle(now)

    def _rearm(self, now: float) -> None:
        if self.count and not self.paused:
            self._armed_s = NEVER_S
            self._arm(now)

    # -- work -----------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Take a job: at once where a slot is free, else in the queue."""
        now = self._clock.time()
        job.runner = self
        job.loaded_s = now
        if self.count < self.slots and not self.queue:
            self.advance(now)
            self._join(now, job)
            self._arm(now)
        else:
            self.queue.append(job)

    def _join(self, now: float, job: Job) -> None:
        job.joined_s = now
        prompt_tokens = job.prompt_tokens
        if self.prefixes is not None:
            prompt_tokens -= self.prefixes.take(job.session, job.shared_tokens, self.slots - self.count)
        prefill_s = self._prompt_s(job, prompt_tokens) * self.slowdown
        begin_s = self._paused_at_s if self.paused else now  # `resume` moves what begins in a pause to its end
        start_s = self.frozen_until_s if self.frozen_until_s > begin_s else begin_s
        self.frozen_until_s = start_s + prefill_s
        self.count += 1
        if prefill_s > 0.0:
            job.first_token_s = self.frozen_until_s  # the prompt's last step gives the first token
            job.start_clock = self.clock_tokens - 1.0
        else:
            job.first_token_s = start_s + self.step_s[self.count - 1] * self.slowdown
            job.start_clock = self.clock_tokens
        job.finish_clock = job.start_clock + job.output_tokens
        self._sequence += 1
        heappush(self.active, (job.finish_clock, self._sequence, job))
        if self.on_join is not None:
            self.on_join(self, job)
        if job.on_slot is not None:
            job.on_slot()

    def _prompt_s(self, job: Job, prompt_tokens: int) -> float:
        """How long the last so many tokens of its prompt take on a sound machine; those before need not be evaluated."""
        took_s = prompt_tokens * self.prefill_s_per_token
        if self.prefill_growth_s > 0.0:
            before = job.prompt_tokens - prompt_tokens
            took_s += 0.5 * self.prefill_growth_s * (job.prompt_tokens * job.prompt_tokens - before * before)
        return took_s

    def _fill(self, now: float) -> None:
        while self.queue and self.count < self.slots:
            self._join(now, self.queue.popleft())

    def _idle(self, now: float) -> None:
        self.idle_since_s = now
        self._on_idle(self)

    def cancel(self, job: Job) -> None:
        """The client closed its connection: the sequence leaves the batch (a paused runner notices later)."""
        if job in self.queue:
            self.queue.remove(job)
            job.runner = None
            return
        if self.paused:
            return
        now = self._clock.time()
        self.advance(now)
        if self.prefixes is not None:
            self.prefixes.give(job.session, job.prompt_tokens + job.tokens)
        self.active = [entry for entry in self.active if entry[2] is not job]
        heapify(self.active)
        self.count = len(self.active)
        job.runner = None
        self._fill(now)
        self._rearm(now)
        if not self.count:
            self._idle(now)

    def tokens_of(self, job: Job, now: float) -> int:
        """How many tokens of a job exist by now."""
        if math.isnan(job.joined_s):
            return 0
        self.advance(now)
        if not (self._paused_at_s if self.paused else now) >= job.first_token_s:
            return 0
        return max(1, min(job.output_tokens, math.floor(self.clock_tokens - job.start_clock + TOLERANCE_TOKENS)))

    @property
    def taken(self) -> int:
        """How many requests have got a slot since it started."""
        return self._sequence

    def shorten(self, job: Job, tokens: int) -> None:
        """A running job is to end after that many tokens. To be called as it gets its slot."""
        self.active = [entry for entry in self.active if entry[2] is not job]
        job.output_tokens = tokens
        job.finish_clock = job.start_clock + tokens
        self.active.append((job.finish_clock, self._sequence, job))
        heapify(self.active)

    def is_unused(self) -> bool:
        """Whether no client holds it: a paused runner may still have the work of those that went away."""
        return not self.queue and all(entry[2].abandoned for entry in self.active)

    def jobs(self) -> Iterator[Job]:
        """All jobs, running and queued."""
        yield from [entry[2] for entry in self.active]
        yield from list(self.queue)

    # -- what is done to it ---------------------------------------------------------------------------------------

    def set_slowdown(self, factor: float) -> None:
        """Every step and prefill from now on takes this many times as long, what is left of those under way too."""
        now = self._clock.time()
        self.advance(now)
        if factor == self.slowdown:
            return
        since_s = self._paused_at_s if self.paused else now
        if self.frozen_until_s > since_s:
            times = factor / self.slowdown
            self.frozen_until_s = since_s + (self.frozen_until_s - since_s) * times
            for _, _, job in self.active:
                if job.first_token_s > since_s:
                    job.first_token_s = since_s + (job.first_token_s - since_s) * times
                    if job.on_slot is not None:
                        job.on_slot()
        self.slowdown = factor
        self._rearm(now)

    def pause(self) -> None:
        """Stop executing."""
        if not self.paused:
            now = self._clock.time()
            self.advance(now)
            self.paused = True
            self._paused_at_s = now
            self._armed_s = NEVER_S

    def resume(self) -> None:
        """Go on executing; jobs that were abandoned meanwhile leave."""
        if not self.paused:
            return
        now = self._clock.time()
        stood_s = now - self._paused_at_s
        self.paused = False
        self._last_s = now
        if self.frozen_until_s > self._paused_at_s:
            self.frozen_until_s += stood_s
        for _, _, job in self.active:
            if job.first_token_s > self._paused_at_s:
                job.first_token_s += stood_s
                if job.on_slot is not None:
                    job.on_slot()
        self.active = [entry for entry in self.active if not entry[2].abandoned]
        heapify(self.active)
        self.count = len(self.active)
        self._fill(now)
        self._rearm(now)
        if not self.count:
            self._idle(now)

    def kill(self) -> list[Job]:
        """Die; the jobs that were in it."""
        now = self._clock.time()
        jobs = list(self.jobs())
        for job in jobs:
            job.tokens = self.tokens_of(job, now)
        self.alive = False
        self.active = []
        self.queue.clear()
        self.count = 0
        return jobs
