"""The yardstick of the analytic clock: a runner that simulates every iteration of its batch, one event each.

An iteration lets in who waits, evaluates their prompts, and gives every sequence one token. So a request that comes while an
iteration runs waits for its end, which the analytic clock (`runner.py`) leaves out; that, and rounding to whole steps, is
what the two differ by. `ollamamax bench` prints the difference and the cost.
"""

from __future__ import annotations

from heapq import heappop, heappush

from twin.policy.vocabulary import NEVER_S
from twin.sim.runner import TOLERANCE_TOKENS, Job, Runner


class IterationRunner(Runner):
    """One loaded model, iteration by iteration."""

    def advance(self, now: float) -> None:
        """Count the time that the batch was busy; tokens are made by `fire` alone."""
        if self.count and not self.paused:
            self.busy_s += now - self._last_s
        self._last_s = now

    def submit(self, job: Job) -> None:
        """Take a job; it joins when the present iteration ends."""
        now = self._clock.time()
        job.runner = self
        job.loaded_s = now
        self.queue.append(job)
        self._rearm(now)

    def fire(self) -> None:
        """An iteration ends."""
        now = self._clock.time()
        if now < self._armed_s or not self.alive or self.paused:
            return
        self._armed_s = NEVER_S
        self.advance(now)
        self.clock_tokens += 1.0
        ended: list[Job] = []
        while self.active and self.active[0][0] <= self.clock_tokens + TOLERANCE_TOKENS:
            ended.append(heappop(self.active)[2])
        self._leave(ended)
        self._rearm(now)
        self._hand_back(now, ended)

    def _fill(self, now: float) -> None:
        """Nobody joins in the middle of an iteration."""

    def _rearm(self, now: float) -> None:
        """Begin the next iteration, unless one is under way."""
        if self.paused or self._armed_s != NEVER_S:
            return
        decoding = self.count
        prefill_s = 0.0
        while self.queue and self.count < self.slots:
            job = self.queue.popleft()
            prompt_tokens = job.prompt_tokens
            if self.prefixes is not None:
                prompt_tokens -= self.prefixes.take(job.session, job.shared_tokens, self.slots - self.count)
            own_s = self._prompt_s(job, prompt_tokens)
            prefill_s += own_s
            decoding += own_s == 0.0  # without a prompt to evaluate it decodes at once
            self.count += 1
            job.joined_s = now
            job.start_clock = self.clock_tokens
            job.finish_clock = self.clock_tokens + job.output_tokens
            self._sequence += 1
            heappush(self.active, (job.finish_clock, self._sequence, job))
        if not self.count:
            return
        took_s = (prefill_s + (self.step_s[decoding - 1] if decoding else 0.0)) * self.slowdown
        for _, _, job in list(self.active):
            if job.start_clock == self.clock_tokens:
                job.first_token_s = now + took_s
                if self.on_join is not None:
                    self.on_join(self, job)
        self._armed_s = now + took_s
        self._clock.wake_at(self._armed_s, self)
