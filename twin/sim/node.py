"""An Ollama node: server, scheduler with its two queues and its one loader, runners, memory.

As Ollama does it (facts and sources in docs/architecture.md): requests for a loaded model go straight to its runner and
wait there without bound; all others pass one loading routine, in order, and a head that cannot be served yet blocks those
behind it; `max_queue` bounds only these. A request with another context length reloads the model. A client that goes
away during a load aborts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from twin.policy.vocabulary import AttemptError
from twin.scenario.hardware import Hardware
from twin.sim.conditions import Conditions
from twin.sim.engine import Clock
from twin.sim.iteration import IterationRunner
from twin.sim.prefixes import SlotPrefixes
from twin.sim.runner import Job, Runner

VRAM_RECOVERY_S: Final = 0.75
"""Wait for the driver to give memory back after an unload; typically 0.5 to 1.5 s (Ollama's scheduler polls it)."""


@dataclass(frozen=True, slots=True)
class ModelOnNode:
    """What a node needs to know of a model: weights, memory when loaded, context length."""

    name: str
    size_gib: float
    memory_gib: float
    context_tokens: int
    slots: int | None = None  # None: as many as the node gives every model


class OllamaNode:
    """One node. Its clients are called back through `Job.on_end`."""

    def __init__(
        self,
        clock: Clock,
        name: str,
        hardware: Hardware,
        models: dict[str, ModelOnNode],
        slots: int,
        max_queue: int,
        keep_alive_s: float | None,
    ) -> None:
        self.clock = clock
        self.name = name
        self.hardware = hardware
        self.models = models
        self.slots = slots
        self.max_queue = max_queue
        self.keep_alive_s = keep_alive_s
        self.iteration_level = False
        self.alive = True
        self.started_s = 0.0
        self.generations = 0  # served to their end, by this and earlier server processes
        self.runners: dict[str, Runner] = {}
        self.pending: deque[Job] = deque()
        self.loading: Job | None = None
        self._load_version = 0
        self.loader_stuck = False
        self.slowdown = 1.0
        self.conditions = Conditions()
        self._load_failures_owed = 0.0
        self.remembers_prefixes = False  # to be set where prompts repeat what was there before
        self._dead_busy_s = 0.0  # of runners that are gone

    # -- requests -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Take a generation. The server must be alive; the job's `on_end` is called once, later, unless it hangs."""
        assert self.alive, f"{self.name} is dead: nobody listens there"
        now = self.clock.time()
        job.submitted_s = now
        runner = self.runners.get(job.model)
        if runner is not None and not self._needs_reload(runner, job) and not self._expired(runner, now):
            self._hand_over(runner, job)
            return
        if job.model not in self.models:
            self._end_later(job, "client_error")
        elif len(self.pending) >= self.max_queue:
            self._end_later(job, "overloaded")
        else:
            self.pending.append(job)
            self._load_next()

    def cancel(self, job: Job) -> None:
        """The client closed its connection."""
        job.abandoned = True
        runner = job.runner
        if runner is not None:
            runner.cancel(job)
            self._let_go(runner)
        elif job is self.loading:
            self.loading = None  # an impatient client aborts the load
            self._load_version += 1
            self._load_next()
        elif job in self.pending:
            self.pending.remove(job)
            self._load_next()

    def unload(self, model: str) -> None:
        """Let a model go once no client uses it (`keep_alive: 0`); then a hung runner is killed, too."""
        runner = self.runners.get(model)
        if runner is not None:
            runner.leaving = True
            self._let_go(runner)

    def let_go(self, model: str) -> None:
        """Nobody uses the model: it is gone at once."""
        self._drop(self.runners[model])

    def _let_go(self, runner: Runner) -> None:
        if runner.leaving and runner.alive and runner.is_unused():
            self._drop(runner)
            self._load_next()

    def jobs(self) -> Iterator[Job]:
        """All jobs that are here, in whatever state."""
        for runner in list(self.runners.values()):
            yield from runner.jobs()
        if self.loading is not None:
            yield self.loading
        yield from list(self.pending)

    def _needs_reload(self, runner: Runner, job: Job) -> bool:
        """A request that names no context wants the model's own, and so reloads what another one asked for."""
        return (job.context_tokens or self.models[job.model].context_tokens) != runner.context_tokens

    def _expired(self, runner: Runner, now: float) -> bool:
        idle = not runner.count and not runner.queue
        return self.keep_alive_s is not None and idle and now - runner.idle_since_s > self.keep_alive_s

    def _hand_over(self, runner: Runner, job: Job) -> None:
        runner.leaving = False  # somebody wants it again
        if job.output_tokens == 0:
            job.loaded_s = self.clock.time()
            self._end_later(job, "")
        else:
            runner.submit(job)

    def _end_later(self, job: Job, error: AttemptError) -> None:
        def end() -> None:
            if not job.abandoned:
                job.on_end(job, error)

        self.clock.call_at(self.clock.time(), end)

    # -- the one loading routine ----------------------------------------------------------------------------------

    def _load_next(self) -> None:
        """Serve the head of the pending queue as far as possible."""
        while self.pending and self.loading is None and not self.loader_stuck and self.alive:
            now = self.clock.time()
            job = self.pending[0]
            runner = self.runners.get(job.model)
            if runner is not None and (self._needs_reload(runner, job) or self._expired(runner, now)):
                if runner.count or runner.queue:
                    return  # the reload waits until the model is idle, and everybody behind waits with it
                self._drop(runner)
                runner = None
            if runner is not None:
                self.pending.popleft()
                self._hand_over(runner, job)
                continue
            model = self.models[job.model]
            evicted = self._make_room(model.memory_gib)
            if evicted is None:
                return  # nobody can be evicted yet
            self.pending.popleft()
            self.loading = job
            self._load_version += 1
            version = self._load_version
            took_s = self.hardware.runner_start_s + model.size_gib / self.hardware.load_gib_per_s
            took_s = took_s * self.slowdown + (VRAM_RECOVERY_S if evicted else 0.0)
            if self.conditions.disturbed and self._load_dies():
                self.clock.call_at(now + took_s / 2.0, partial(self._load_failed, version))
            else:
                self.clock.call_at(now + took_s, partial(self._loaded, version))

    def _make_room(self, need_gib: float) -> bool | None:
        """Evict idle runners until there is room. Whether one was evicted; None where there cannot be room yet."""
        evicted = False
        while self.hardware.vram_gib - self.vram_used_gib() < need_gib:
            idle = [runner for runner in self.runners.values() if not runner.count and not runner.queue]
            if not idle:
                return None
            self._drop(min(idle, key=lambda runner: (runner.idle_since_s, runner.model)))
            evicted = True
        return evicted

    def _loaded(self, version: int) -> None:
        if version != self._load_version or self.loading is None:
            return
        job = self.loading
        self.loading = None
        runner = self.add_runner(job.model, job.context_tokens)
        self._hand_over(runner, job)
        self._load_next()

    def _load_dies(self) -> bool:
        """Whether this load is one of the share that fails: spread evenly, so that no random draw is needed."""
        self._load_failures_owed += self.conditions.values["load_failure_share"]
        if self._load_failures_owed < 1.0 - 1e-9:
            return False
        self._load_failures_owed -= 1.0
        return True

    def _load_failed(self, version: int) -> None:
        if version != self._load_version or self.loading is None:
            return
        job = self.loading
        self.loading = None
        self._fail([job], "server_error")
        self._load_next()

    def add_runner(self, model: str, context_tokens: int = 0) -> Runner:
        """A runner with the model loaded (also for what is loaded when a run starts)."""
        known = self.models[model]
        scale = 1.0
        if self.hardware.reference_model_gib is not None:
            scale = known.size_gib / self.hardware.reference_model_gib
        prefill = self.hardware.prefill_tokens_per_s
        kind = IterationRunner if self.iteration_level else Runner
        runner = kind(
            self.clock,
            model,
            known.memory_gib,
            context_tokens or known.context_tokens,
            known.slots if known.slots is not None else self.slots,
            [step_ms / 1000.0 * scale for step_ms in self.hardware.decode_ms],
            scale / prefill if prefill is not None else 0.0,
            self._runner_idle,
        )
        runner.slowdown = self.slowdown
        if self.remembers_prefixes:
            runner.prefixes = SlotPrefixes()
        self.runners[model] = runner
        return runner

    def _runner_idle(self, runner: Runner) -> None:
        self._let_go(runner)
        if self.pending:
            self._load_next()

    def _drop(self, runner: Runner) -> list[Job]:
        self.runners.pop(runner.model, None)
        jobs = runner.kill()
        self._dead_busy_s += runner.busy_s
        return jobs

    # -- what can be read -----------------------------------------------------------------------------------------

    def vram_used_gib(self) -> float:
        """Memory of the loaded models."""
        return sum(runner.memory_gib for runner in self.runners.values())

    def resident(self) -> tuple[str, ...]:
        """The loaded models, as `/api/ps` lists them."""
        now = self.clock.time()
        return tuple(name for name, runner in self.runners.items() if not self._expired(runner, now))

    def busy_s(self) -> float:
        """Time that the GPU has worked so far."""
        now = self.clock.time()
        for runner in self.runners.values():
            runner.advance(now)
        return self._dead_busy_s + sum(runner.busy_s for runner in self.runners.values())

    # -- what is done to it: the primitive operations of `twin.scenario.faults.base` -----------------------------

    def kill_server(self) -> None:
        """The server and its runners die: streams break, what waited for a load is cut off."""
        if not self.alive:
            return
        self.alive = False
        jobs = list(self.jobs())
        for runner in list(self.runners.values()):
            self._drop(runner)
        self.pending.clear()
        self.loading = None
        self._load_version += 1
        self._fail(jobs, "reset")

    def start_server(self) -> None:
        """A new server process: nothing is loaded, and nothing is stuck."""
        if self.alive:
            return
        self.iteration_level = False
        self.alive = True
        self.started_s = self.clock.time()
        self.loader_stuck = False

    def kill_runner(self) -> None:
        """The runners die; also one that is being loaded."""
        jobs: list[Job] = []
        for runner in list(self.runners.values()):
            jobs += self._drop(runner)
        if self.loading is not None:
            jobs.append(self.loading)
            self.loading = None
            self._load_version += 1
        self._fail(jobs, "error_record")
        self._load_next()

    def pause_runner(self) -> None:
        """The runners stop executing."""
        for runner in self.runners.values():
            runner.pause()

    def resume_runner(self) -> None:
        """Those that still exist go on."""
        for runner in list(self.runners.values()):
            runner.resume()

    def stick_loader(self) -> None:
        """The loading routine stops for good."""
        self.loader_stuck = True
        if self.loading is not None:
            self.pending.appendleft(self.loading)
            self.loading = None
            self._load_version += 1

    def slow_gpu(self, factor: float) -> None:
        """Every step, prefill and load takes this many times as long."""
        self.slowdown = factor
        for runner in self.runners.values():
            runner.set_slowdown(factor)

    def conditions_changed(self) -> None:
        """A fault set a condition, or what it set was withdrawn."""

    def _fail(self, jobs: list[Job], error: AttemptError) -> None:
        """Jobs end where they are: without a first token as a status, after it in the stream."""
        for job in jobs:
            job.runner = None
            if not job.abandoned:
                job.on_end(job, "server_error" if error == "error_record" and not job.tokens else error)
