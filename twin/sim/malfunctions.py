"""What goes wrong inside one simulated node while conditions are set. A sound node pays nothing for it.

The node calls in at a few places only: `intercepts` where a request comes in (while `OllamaNode.intercepting`), `joined`
where one gets a slot (while `Runner.on_join`), `load_lives_s` where a load begins, `sticks` where a runner is to die.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from twin.policy.vocabulary import AttemptError
from twin.sim.runner import Job, Runner

if TYPE_CHECKING:
    from twin.sim.node import OllamaNode

FAILS_AT_ONCE_S: Final = 0.02
"""Time after which a load dies that finds its GPU gone. (An assumption: a process starts, asks the driver, and ends.)"""

RUN_TIME_GIB: Final = 0.05
"""GPU memory that a runner allocates for each running sequence beside what it took when it was loaded. An assumption: the
compute buffers of llama.cpp are allocated at the load, drivers' own and growing ones are not."""

SPREAD: Final = 0x9E3779B1
"""2^32 / golden ratio: multiplied with it, numbers in a row spread evenly over 32 bits (Knuth, volume 3, 6.4)."""


def is_struck(content: int, share: float) -> bool:
    """Whether a prompt is one of that share of all prompts; the same prompt always is, or never."""
    return content != 0 and (content * SPREAD & 0xFFFFFFFF) < share * 4294967296.0


class Malfunctions:
    """The mechanisms that `node.conditions` drive."""

    def __init__(self, node: OllamaNode) -> None:
        self.node = node
        self.lock_held = False  # the server's lock on what is loaded: nothing passes that needs it
        self.blocked: list[Job] = []  # requests that hang inside the server
        self._started_without_gpu = False  # the server: it does not ask a GPU that it did not find
        self._grabbed_share = 0.0
        self._ram_grabbed_share = 0.0
        self._load_failures_owed = 0.0
        self._silent_ends_owed = 0.0

    # -- where the node calls in ----------------------------------------------------------------------------------

    def intercepts(self, job: Job) -> bool:
        """Take a request away before the server looks at what is loaded."""
        node = self.node
        runner = node.runners.get(job.model)
        if self.lock_held or (runner is not None and runner.stopping):
            self.blocked.append(job)
            return True
        if self._gpu_fails() and runner is not None:
            node.answer(job, "server_error")
            return True
        return False

    def joined(self, runner: Runner, job: Job) -> None:
        """A request got its slot; what it does there."""
        values = self.node.conditions.values
        clock = self.node.clock
        if job.prompt_tokens > values["fatal_prompt_tokens"]:
            self._emerged("fatal_prompt_tokens", runner)
            clock.call_at((clock.time() + job.first_token_s) / 2.0, partial(self.node.runner_dies, runner))
        elif is_struck(job.content, values["fatal_request_share"]):
            self._emerged("fatal_request_share", runner)
            clock.call_at((clock.time() + job.first_token_s) / 2.0, partial(self.node.runner_dies, runner))
        elif values["vram_grabbed_share"] and self._exceeds_vram(runner):
            clock.call_at(clock.time(), partial(self._gpu_out_of_memory, runner))
        if runner.taken >= values["hang_after_requests"]:
            clock.call_at(clock.time(), partial(self._hang, runner))
        if values["silent_end_share"] and job.output_tokens > 1:
            self._silent_ends_owed += values["silent_end_share"]
            if self._silent_ends_owed > 1.0 - 1e-9:
                self._silent_ends_owed -= 1.0
                job.on_end = partial(_ends_silently, job.on_end)
                runner.shorten(job, math.ceil(job.output_tokens / 2.0))

    def load_lives_s(self, model: str, took_s: float) -> float | None:
        """After how long a load of that length dies; None: it does not. The share that dies is spread evenly, so that no
        random draw is needed."""
        values = self.node.conditions.values
        if self._gpu_fails():
            return FAILS_AT_ONCE_S
        if self.node.files.incompatible():
            return self.node.hardware.runner_start_s
        if values["load_need_factor"] > 1.0 and self._takes_too_much(model, values["load_need_factor"]):
            self._emerged("load_need_factor", None)
            return took_s / 2.0
        self._load_failures_owed += values["load_failure_share"]
        if self._load_failures_owed < 1.0 - 1e-9:
            return None
        self._load_failures_owed -= 1.0
        return took_s / 2.0

    def sticks(self, runner: Runner) -> bool:
        """Whether a runner that is to die now does not: it hangs in the kernel, and the server waits for it."""
        values = self.node.conditions.values
        if not values["runner_unkillable"]:
            return False
        if not runner.stopping:
            runner.stopping = True
            self._emerged("runner_unkillable", runner)
        self.lock_held = bool(values["unload_holds_lock"])
        self._watch()
        return True

    def loaded(self, runner: Runner) -> None:
        """A runner is there."""
        if self.node.conditions.disturbed and self.node.memory.placements[runner.model].ram_gib:
            self._emerged("vram_return_added_s", runner)
        runner.slowdown = self.node.pace()
        runner.on_join = self._on_join()

    def forget(self, job: Job) -> None:
        """A client gave up that may hang here."""
        if job in self.blocked:
            self.blocked.remove(job)

    def server_ended(self) -> None:
        """Nothing is stuck in a server that is no more, and the next one takes the machine as it finds it."""
        self._started_without_gpu = bool(self.node.conditions.values["gpu_lost"])
        self.blocked.clear()
        self.lock_held = False
        self._watch()

    # -- what conditions change -----------------------------------------------------------------------------------

    def conditions_changed(self) -> None:
        """Have the node call in where it must, and end what is no longer so."""
        values = self.node.conditions.values
        self.node.keep_pace()
        on_join = self._on_join()
        for runner in self.node.runners.values():
            runner.on_join = on_join
        if not values["runner_unkillable"]:
            self._let_die()
        if not values["gpu_lost"]:
            self._started_without_gpu = False
        self._grab(values)
        self._watch()

    def _grab(self, values: dict[str, float]) -> None:
        memory = self.node.memory
        if values["vram_grabbed_share"] != self._grabbed_share:
            self._grabbed_share = values["vram_grabbed_share"]
            memory.grab(self._grabbed_share, self.node.clock.time())
        if values["ram_grabbed_share"] != self._ram_grabbed_share:
            self._ram_grabbed_share = values["ram_grabbed_share"]
            memory.grab_ram(self._ram_grabbed_share)
            if self._ram_grabbed_share > 1.0:
                self._host_out_of_memory(in_server=bool(values["ram_leak_in_server"]))

    def _host_out_of_memory(self, *, in_server: bool) -> None:
        """The kernel kills the process that leaks, and its leak goes with it."""
        memory = self.node.memory
        if not memory.ram_is_exhausted():
            return
        memory.ram_grabbed_gib = 0.0
        largest = memory.largest_in_ram()
        if in_server:
            self.node.kill_server()
        elif largest in self.node.runners:
            self.node.runner_dies(self.node.runners[largest])

    def _gpu_fails(self) -> bool:
        return bool(self.node.conditions.values["gpu_lost"]) and not self._started_without_gpu

    def _takes_too_much(self, model: str, factor: float) -> bool:
        """Whether a load that has begun wants more than is there."""
        memory = self.node.memory
        free_gib = memory.free_gib(self.node.clock.time())
        parts = memory.placements[model].vram_gib
        return any((factor - 1.0) * part > free + 1e-9 for part, free in zip(parts, free_gib, strict=True))

    def _exceeds_vram(self, runner: Runner) -> bool:
        """Whether what its batch needs now is not there on one of its GPUs."""
        memory = self.node.memory
        free_gib = memory.free_gib(self.node.clock.time())
        parts = memory.placements[runner.model].vram_gib
        return any(
            part > 0.0 and RUN_TIME_GIB * runner.count > free for part, free in zip(parts, free_gib, strict=True)
        )

    def _gpu_out_of_memory(self, runner: Runner) -> None:
        """The runner dies of it, and the server lets every loaded model go ("runtime OOM detected")."""
        if runner.alive:
            self._emerged("vram_grabbed_share", runner)
            self.node.runner_dies(runner)
            self.node.expire_models()

    def _on_join(self) -> Callable[[Runner, Job], None] | None:
        values = self.node.conditions.values
        amiss = (
            values["fatal_request_share"] > 0.0
            or values["fatal_prompt_tokens"] < math.inf
            or values["silent_end_share"] > 0.0
            or values["hang_after_requests"] < math.inf
            or values["vram_grabbed_share"] > 0.0
        )
        return self.joined if amiss else None

    def _watch(self) -> None:
        stopping = any(runner.stopping for runner in self.node.runners.values())
        self.node.intercepting = self.lock_held or stopping or self._gpu_fails()

    def _let_die(self) -> None:
        """The kernel lets go of what was stuck; the requests that hung go on."""
        stuck = [runner for runner in self.node.runners.values() if runner.stopping]
        blocked, self.blocked = self.blocked, []
        self.lock_held = False
        self._watch()
        for runner in stuck:
            self.node.runner_dies(runner)
        for job in blocked:
            self.node.submit_again(job)
        if stuck:
            self.node.go_on()

    def _hang(self, runner: Runner) -> None:
        if not runner.alive or runner.paused:
            return
        runner.pause()
        self._emerged("hang_after_requests", runner)
        if self.node.on_silence is not None:
            self.node.on_silence()

    def _emerged(self, condition: str, runner: Runner | None) -> None:
        if self.node.on_emergence is not None:
            self.node.on_emergence(condition, runner)


def _ends_silently(on_end: Callable[[Job, AttemptError], None], job: Job, error: AttemptError) -> None:
    """In place of a job's own `on_end`: where it would end well, the terminal record is missing."""
    on_end(job, error or "no_terminal_record")
