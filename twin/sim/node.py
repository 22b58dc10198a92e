"""An Ollama node: server, scheduler with its two queues and its one loader, runners, memory.

As Ollama does it (facts and sources in docs/architecture.md): requests for a loaded model go straight to its runner and
wait there without bound; all others pass one loading routine, in order, and a head that cannot be served yet blocks those
behind it; `max_queue` bounds only these. A request with another context length reloads the model. A client that goes
away during a load aborts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from twin.policy.vocabulary import NEVER_S, AttemptError
from twin.scenario.hardware import Hardware
from twin.scenario.memory import Placement
from twin.sim.answers import Answers
from twin.sim.conditions import Conditions
from twin.sim.engine import Clock
from twin.sim.hosts import Host
from twin.sim.iteration import IterationRunner
from twin.sim.malfunctions import Malfunctions
from twin.sim.memory import Memory
from twin.sim.model_files import REFUSED_S, ModelFiles
from twin.sim.prefixes import SlotPrefixes
from twin.sim.runner import Job, Runner
from twin.sim.stalls import Stalls


@dataclass(frozen=True, slots=True)
class ModelOnNode:
    """What a node needs to know of a model: weights, memory when loaded, context length."""

    name: str
    size_gib: float
    memory_gib: float
    context_tokens: int
    slots: int = 0  # that Ollama forces on it; 0: the node's


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
        max_models: int | None = None,
        return_s: Callable[[], float] | None = None,
        load_factor: Callable[[], float] | None = None,
        server_factor: Callable[[], float] | None = None,
    ) -> None:
        """`max_models` is OLLAMA_MAX_LOADED_MODELS; `return_s` draws how long the driver takes to give memory back,
        `load_factor` and `server_factor` by what a load, and the server with a request, take longer than their mean."""
        self.clock = clock
        self.name = name
        self.hardware = hardware
        self.models = models
        self.slots = slots
        self.max_queue = max_queue
        self.keep_alive_s = keep_alive_s
        self.on_silence: Callable[[], None] | None = None
        """Told when a runner stops by itself, or one that stood is gone."""
        self.on_emergence: Callable[[str, Runner | None], None] | None = None
        """Told when what a condition stands for came about (in that runner)."""
        self.iteration_level = False
        self.alive = True
        self.starting = False  # a new process runs, and does not answer so far
        self._start_version = 0
        self.started_s = 0.0
        self.deaths_s: list[float] = []  # of its server processes so far
        self.generations = 0  # served to their end, by this and earlier server processes
        self.runners: dict[str, Runner] = {}
        self.pending: deque[Job] = deque()
        self.arriving: list[Job] = []  # in the server's hands, before a runner or the loader has them
        self._server_s = hardware.server_ms / 1000.0
        self._joining_s = hardware.joining_ms / 1000.0
        self._joining_steps = hardware.joining_steps
        self.host: Host | None = None  # whose processor it shares with others
        self.loading: Job | None = None
        self._load_next_runs = False
        self.load_version = 0
        self._load_factor = load_factor
        self._server_factor = server_factor
        self.loader_stuck = False
        self.slowdown = 1.0
        self.clock_share = 1.0  # of the GPU's usual clock, which work keeps pace with
        self.conditions = Conditions()
        self.malfunctions = Malfunctions(self)
        self.intercepting = False  # some malfunction wants to see each request first
        self.memory = Memory(hardware, self.conditions, max_models, return_s)
        self.error_lines = 0  # of Ollama's log, one for each request that failed here
        self.session_s: dict[str, float] = {}  # keep_alive of a model's last request, where it is not the node's
        self._victim: Runner | None = None  # busy, and to go before the head of the queue is loaded
        self._room_at_s = 0.0  # when the memory of what went last is back
        self._read_gib = 0.0  # from the disk, by loads that are over
        self.reading_s = (0.0, 0.0)  # when the present load reads weights
        self.answers = Answers(self)
        self.shaping = False  # something is wrong with answers, so that each job must be looked at
        self.files = ModelFiles(self)
        self.stalls = Stalls(self)
        self.on_reload: Callable[[], None] | None = None  # told when a runner is gone
        self.remembers_prefixes = False  # to be set where prompts repeat what was there before
        self._dead_busy_s = 0.0  # of runners that are gone

    # -- requests -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Take a generation. The server must be alive; the job's `on_end` is called once, later, unless it hangs."""
        assert self.alive, f"{self.name} is dead: nobody listens there"
        now = self.clock.time()
        job.submitted_s = now
        if self.intercepting and self.malfunctions.intercepts(job):
            return
        if self._server_s > 0.0 or self._joining_s > 0.0 or self._joining_steps > 0.0:
            self.arriving.append(job)
            share = 1.0 if self.host is None else self.host.share_with(self)
            took_s = self._server_s * self.slowdown / share + self._joins_after_s(job)
            if self._server_factor is not None:
                took_s *= self._server_factor()
            self.clock.call_at(now + took_s, partial(self._arrived, job))
            return
        self._take(job, now)

    def _joins_after_s(self, job: Job) -> float:
        """How long a batch at work keeps a request from joining it."""
        runner = self.runners.get(job.model)
        if runner is None or not runner.count:
            return 0.0
        return (self._joining_s + self._joining_steps * runner.step_s[runner.count - 1]) * runner.slowdown

    def _arrived(self, job: Job) -> None:
        """The server has read the request, unless its client or the server is gone."""
        if job in self.arriving:
            self.arriving.remove(job)
            self._take(job, self.clock.time())

    def _take(self, job: Job, now: float) -> None:
        runner = self.runners.get(job.model)
        if runner is not None and not self._needs_reload(runner, job) and not self._expired(runner, now):
            self._hand_over(runner, job)
            return
        if job.model not in self.models:
            self._end_later(job, "client_error")
        elif self.conditions.disturbed and self.files.refusal():
            self._end_later(job, self.files.refusal(), REFUSED_S)
        elif len(self.pending) >= self.max_queue:
            self._end_later(job, "overloaded")
        else:
            self.pending.append(job)
            self._load_next()

    def submit_again(self, job: Job) -> None:
        """Take on a request that hung in the server since it was submitted."""
        submitted_s = job.submitted_s
        self.submit(job)
        job.submitted_s = submitted_s

    def cancel(self, job: Job) -> None:
        """The client closed its connection."""
        job.abandoned = True
        runner = job.runner
        if runner is not None:
            runner.cancel(job)
            self._let_go(runner)
        elif job is self.loading:
            self._stop_loading()  # an impatient client aborts the load
            self._load_next()
        elif job in self.pending:
            self.pending.remove(job)
            self._load_next()
        elif job in self.arriving:
            self.arriving.remove(job)
        else:
            self.malfunctions.forget(job)

    def unload(self, model: str) -> None:
        """Let a model go once no client uses it (`keep_alive: 0`); then a hung runner is killed, too."""
        runner = self.runners.get(model)
        if runner is not None:
            runner.leaving = True
            self._let_go(runner)

    def let_go(self, model: str) -> None:
        """Nobody uses the model: it is gone at once."""
        if not self.malfunctions.sticks(self.runners[model]):
            self._drop(self.runners[model], long_ago=True)

    def _let_go(self, runner: Runner) -> None:
        goes = (runner.leaving or runner.expired) and runner.alive and runner.is_unused()
        if goes and not self.malfunctions.sticks(runner):
            self._drop(runner)
            self._load_next()

    def jobs(self) -> Iterator[Job]:
        """All jobs that are here, in whatever state."""
        for runner in list(self.runners.values()):
            yield from runner.jobs()
        if self.loading is not None:
            yield self.loading
        yield from list(self.pending)
        yield from list(self.arriving)
        yield from list(self.malfunctions.blocked)

    def _needs_reload(self, runner: Runner, job: Job) -> bool:
        """A request that names no context wants the model's own, and so reloads what another one asked for."""
        return (job.context_tokens or self.models[job.model].context_tokens) != runner.context_tokens

    def _expired(self, runner: Runner, now: float) -> bool:
        idle = not runner.count and not runner.queue
        return (
            self.keep_alive_s is not None
            and idle
            and not runner.stopping
            and now - runner.idle_since_s > self.keep_alive_s
        )

    def _hand_over(self, runner: Runner, job: Job) -> None:
        runner.leaving = False  # somebody wants it again
        if job.output_tokens == 0:
            job.loaded_s = self.clock.time()
            self._end_later(job, "")
        else:
            if self.shaping or job.prompt_tokens > runner.context_tokens:
                self.answers.shape(runner, job)
            runner.submit(job)
            self._tell_host()

    def _tell_host(self) -> None:
        if self.host is not None:
            self.host.look()

    def _end_later(self, job: Job, error: AttemptError, after_s: float = 0.0) -> None:
        def end() -> None:
            if not job.abandoned:
                job.on_end(job, error)

        self.clock.call_at(self.clock.time() + after_s, end)

    # -- the one loading routine ----------------------------------------------------------------------------------

    def _load_next(self) -> None:
        """Serve the head of the pending queue as far as possible. What that sets off may ask for it again: the loop that
        runs sees to it, since another one within it would take the head from under its hands."""
        if self._load_next_runs:
            return
        self._load_next_runs = True
        try:
            self._serve_pending()
        finally:
            self._load_next_runs = False

    def _serve_pending(self) -> None:
        while self.pending and self.loading is None and self.alive:
            if self.loader_stuck or self.malfunctions.lock_held:
                return
            now = self.clock.time()
            job = self.pending[0]
            self._let_expired_go(now)
            runner = self.runners.get(job.model)
            if runner is not None and self._needs_reload(runner, job):
                if runner.count or runner.queue or self.malfunctions.sticks(runner):
                    return  # the reload waits until the model is idle, and everybody behind waits with it
                self._drop(runner)
                runner = None
            if runner is not None:
                self.pending.popleft()
                self._hand_over(runner, job)
                continue
            self._room_at_s = max(self._room_at_s, now + self.memory.clean_up_s(job.model))
            placement = self._room_for(job)
            if placement is None and self.runners:
                return  # nobody can be evicted yet
            self.pending.popleft()
            if placement is None:
                self._fail([job], "server_error")  # "model requires more system memory than is available"
                continue
            self._start_loading(job, placement)

    def _room_for(self, job: Job) -> Placement | None:
        """Evict until there is room; None while the one that has to go is busy, or where all have gone in vain."""
        need_gib = self.need_gib(job.model, job.context_tokens)
        while True:
            placement = self.memory.fit(need_gib, max(self.clock.time(), self._room_at_s))
            if placement is not None or not self.runners or not self._evict():
                return placement

    def _evict(self) -> bool:
        """Unload the idle runner with the shortest session; where all are busy, the one with the shortest has to go first,
        whoever else becomes idle before it. Equal sessions go by name."""
        victim = self._victim
        if victim is None or not victim.alive:
            default_s = NEVER_S if self.keep_alive_s is None else self.keep_alive_s
            busy = [
                (bool(runner.count or runner.queue), self.session_s.get(runner.model, default_s), runner.model)
                for runner in self.runners.values()
            ]
            victim = self._victim = self.runners[min(busy)[2]]
        if victim.count or victim.queue or self.malfunctions.sticks(victim):
            return False
        self._victim = None
        self._drop(victim)
        return True

    def need_gib(self, model: str, context_tokens: int = 0) -> float:
        """Memory of the model with that context (0: its own): its KV cache grows with it."""
        known = self.models[model]
        cache_gib = known.memory_gib - known.size_gib
        return known.size_gib + cache_gib * (context_tokens or known.context_tokens) / known.context_tokens

    def _let_expired_go(self, now: float) -> None:
        """Models that were idle for longer than their keep-alive have been unloaded, some while ago."""
        if self.keep_alive_s is not None:
            for runner in [each for each in self.runners.values() if self._expired(each, now)]:
                if not self.malfunctions.sticks(runner):
                    self._drop(runner, long_ago=True)

    def _start_loading(self, job: Job, placement: Placement) -> None:
        now = self.clock.time()
        self._victim = None
        self.loading = job
        self.memory.take(job.model, placement)
        self.load_version += 1
        speed_gib_per_s = self.hardware.load_gib_per_s
        if self.conditions.disturbed:
            speed_gib_per_s *= self.conditions.values["load_speed_factor"]
        pace = self.slowdown if self._load_factor is None else self.slowdown * self._load_factor()
        begin_s = max(now, self._room_at_s) + self.hardware.runner_start_s * pace
        ends_s = begin_s + self.models[job.model].size_gib / speed_gib_per_s * pace
        self.reading_s = (begin_s, ends_s)
        lives_s = self.malfunctions.load_lives_s(job.model, ends_s - now) if self.conditions.disturbed else None
        if self.conditions.disturbed and self.files.incompatible():
            lives_s = begin_s - now
        self.stalls.load_begun()
        if lives_s is not None:
            self.clock.call_at(now + lives_s, partial(self.load_failed, self.load_version))
        else:
            self.clock.call_at(ends_s, partial(self.loaded, self.load_version))

    def _stop_loading(self) -> Job:
        """The present load is over, without a runner."""
        job = self.loading
        assert job is not None
        self._read_gib = self.read_gib()
        self.loading = None
        self.load_version += 1
        self.memory.abandon(job.model)
        return job

    def loaded(self, version: int) -> None:
        """The load of that version has read all its weights, unless it was given up or stood still."""
        if version != self.load_version or self.loading is None or self.stalls.hold():
            return
        job = self.loading
        self._read_gib = self.read_gib()
        self.loading = None
        runner = self._new_runner(job.model, job.context_tokens)
        self._hand_over(runner, job)
        if self.memory.ram_is_exhausted():
            self._out_of_memory()
        self._load_next()

    def load_failed(self, version: int) -> None:
        """The load of that version dies."""
        if version != self.load_version or self.loading is None:
            return
        self._fail([self._stop_loading()], "server_error")
        self._load_next()

    def add_runner(self, model: str, context_tokens: int = 0) -> Runner:
        """A runner with the model loaded, as when a run starts. It takes what room there is."""
        self.memory.put(model, self.need_gib(model, context_tokens), self.clock.time())
        return self._new_runner(model, context_tokens)

    def _new_runner(self, model: str, context_tokens: int) -> Runner:
        known = self.models[model]
        scale = self.memory.slowdown(model)
        if self.hardware.reference_model_gib is not None:
            scale *= known.size_gib / self.hardware.reference_model_gib
        prefill = self.hardware.prefill_tokens_per_s
        kind = IterationRunner if self.iteration_level else Runner
        runner = kind(
            self.clock,
            model,
            self.need_gib(model, context_tokens),
            context_tokens or known.context_tokens,
            known.slots or self.slots,
            [step_ms / 1000.0 * scale for step_ms in self.hardware.decode_ms],
            scale / prefill if prefill is not None else 0.0,
            self._runner_idle,
        )
        runner.prefill_growth_s = scale * self.hardware.prefill_growth_us / 1e6
        if self.remembers_prefixes:
            runner.prefixes = SlotPrefixes()
        self.runners[model] = runner
        self.malfunctions.loaded(runner)
        return runner

    def _runner_idle(self, runner: Runner) -> None:
        self._tell_host()
        self._let_go(runner)
        if self.pending:
            self._load_next()

    def _drop(self, runner: Runner, *, crashed: bool = False, long_ago: bool = False) -> list[Job]:
        """A runner goes: stopped by the server, which then waits for its memory (or has, `long_ago`), or dead by itself."""
        self.runners.pop(runner.model, None)
        if crashed:
            self.memory.lose(runner.model)
        else:
            now = self.clock.time()
            wait_s = self.memory.release(runner.model, now)
            if not long_ago:
                self._room_at_s = max(now, self._room_at_s) + wait_s
        jobs = runner.kill()
        self._tell_host()
        self._dead_busy_s += runner.busy_s
        if runner.paused and self.on_silence is not None:
            self.on_silence()
        if self.on_reload is not None:
            self.on_reload()
        return jobs

    def pace(self) -> float:
        """Times that a step or a prefill takes as long as on a sound machine."""
        pace = self.slowdown * self.conditions.values["step_factor"] / self.clock_share
        return pace if self.host is None else pace / self.host.share

    # -- what can be read -----------------------------------------------------------------------------------------

    def vram_used_gib(self) -> float:
        """GPU memory of the models that are loaded or being loaded."""
        return self.memory.vram_of_models_gib

    def read_gib(self) -> float:
        """What loads have read from the disk so far."""
        if self.loading is None:
            return self._read_gib
        begin_s, end_s = self.reading_s
        now = self.clock.time() if self.stalls.since_s is None else self.stalls.since_s
        share = min(1.0, max(0.0, (now - begin_s) / (end_s - begin_s)))
        return self._read_gib + share * self.models[self.loading.model].size_gib

    def resident(self) -> tuple[str, ...]:
        """The loaded models, as `/api/ps` lists them."""
        now = self.clock.time()
        return tuple(name for name, runner in self.runners.items() if not self._expired(runner, now))

    def busy_s(self) -> float:
        """Time that the GPU has worked so far."""
        now = self.clock.time()
        busy_s = self._dead_busy_s
        for runner in self.runners.values():
            runner.advance(now)
            busy_s += runner.busy_s
        return busy_s

    # -- what is done to it: the primitive operations of `twin.scenario.faults.base` -----------------------------

    def kill_server(self) -> None:
        """The server and its runners die: streams break, what waited for a load is cut off."""
        self.starting = False
        if not self.alive:
            return
        self.alive = False
        self.deaths_s.append(self.clock.time())
        jobs = list(self.jobs())
        self.malfunctions.server_ended()
        if self.loading is not None:
            self._stop_loading()
        for runner in list(self.runners.values()):
            self._drop(runner, crashed=True)
        self.pending.clear()
        self.arriving.clear()
        self.memory.server_ended()
        self._room_at_s = 0.0
        self._victim = None
        self._fail(jobs, "reset")

    def start_server(self) -> None:
        """A new server process: nothing is loaded, and nothing is stuck."""
        if self.alive or self.starting:
            return
        added_s = self.conditions.values["start_added_s"] if self.conditions.disturbed else 0.0
        if added_s > 0.0:
            self.starting = True
            self._start_version += 1
            self.clock.call_at(self.clock.time() + added_s, partial(self._started, self._start_version))
            return
        self._serve()

    def _started(self, version: int) -> None:
        if self.starting and version == self._start_version:
            self._serve()

    def _serve(self) -> None:
        self.starting = False
        self.alive = True
        self.started_s = self.clock.time()
        self.loader_stuck = False

    def kill_runner(self) -> None:
        """The runners die; also one that is being loaded."""
        jobs: list[Job] = []
        for runner in list(self.runners.values()):
            if not self.malfunctions.sticks(runner):
                jobs += self._drop(runner, crashed=True)
        if self.loading is not None:
            jobs.append(self._stop_loading())
        self._fail(jobs, "error_record")
        self._load_next()

    def runner_dies(self, runner: Runner) -> None:
        """One runner dies by itself, if it is still there."""
        if runner.alive:
            self._fail(self._drop(runner, crashed=True), "error_record")
            self._load_next()

    def answer(self, job: Job, error: AttemptError) -> None:
        """End a job that no runner has."""
        self._end_later(job, error)

    def go_on(self) -> None:
        """What blocked the loading routine may be gone."""
        self._load_next()

    def pause_runner(self) -> None:
        """The runners stop executing."""
        for runner in self.runners.values():
            runner.pause()
        self._tell_host()

    def resume_runner(self) -> None:
        """Those that still exist go on."""
        for runner in list(self.runners.values()):
            runner.resume()
        self._tell_host()

    def stick_loader(self) -> None:
        """The loading routine stops for good."""
        self.loader_stuck = True
        if self.loading is not None:
            self.pending.appendleft(self._stop_loading())

    def garble_runner(self, share: float) -> None:
        """The loaded models' memory is corrupted: that share of their answers is gibberish until they are loaded anew."""
        self.answers.garble(share)
        self.shaping = self.answers.wanted()

    def slow_gpu(self, factor: float) -> None:
        """Every step, prefill and load takes this many times as long."""
        self.slowdown = factor
        self.keep_pace()

    def expire_models(self) -> None:
        """Every loaded model's `keep_alive` runs out: it goes when it is idle, also if somebody wants it before."""
        for runner in list(self.runners.values()):
            runner.expired = True
            self._let_go(runner)

    def set_clock_share(self, share: float) -> None:
        """The GPU's clock is this share of the usual; work keeps pace with it."""
        self.clock_share = share
        self.keep_pace()

    def keep_pace(self) -> None:
        """The runners take the node's pace."""
        for runner in self.runners.values():
            runner.set_slowdown(self.pace())

    def conditions_changed(self) -> None:
        """A fault set a condition, or what it set was withdrawn."""
        self.shaping = self.answers.wanted()
        self.stalls.conditions_changed()
        self.malfunctions.conditions_changed()
        if self.memory.ram_is_exhausted():
            self._out_of_memory()
        self._load_next()

    def _out_of_memory(self) -> None:
        """Main memory and swap are full: the kernel kills who has most of it, until there is some."""
        while self.memory.ram_is_exhausted() and self.memory.placements:
            model = self.memory.largest_in_ram()
            runner = self.runners.get(model)
            jobs = self._drop(runner, crashed=True) if runner is not None else [self._stop_loading()]
            self._fail(jobs, "error_record")

    def _fail(self, jobs: list[Job], error: AttemptError) -> None:
        """Jobs end where they are: without a first token as a status, after it in the stream."""
        self.error_lines += len(jobs)
        for job in jobs:
            job.runner = None
            if not job.abandoned:
                job.on_end(job, "server_error" if error == "error_record" and not job.tokens else error)
