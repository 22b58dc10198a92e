"""Foreign clients: they ask a node directly, so that the gateway neither sees nor bounds what they do there."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from twin.policy.vocabulary import AttemptError
from twin.scenario.faults.base import ForeignClients
from twin.sim.engine import Clock
from twin.sim.node import OllamaNode
from twin.sim.runner import Job

ARRIVE_WITHIN_S: Final = 1.0
"""The clients make their first requests at random times of this span."""

THEIR_MODELS: Final = "x-foreign"
"""Of models with equal keep_alive Ollama evicts the first by name (`ByDurationAndName` in `server/sched.go`): so theirs
stay, and the cluster's go."""


class ForeignLoad:
    """A closed loop of clients at one node, from its making until `stop`."""

    def __init__(self, clock: Clock, node: OllamaNode, clients: ForeignClients, draws: np.random.Generator) -> None:
        self.clock = clock
        self.node = node
        self.clients = clients
        self._draws = draws
        self._models = self._their_models()
        self._jobs: dict[int, Job] = {}
        self._asked = 0
        self._stopped = False
        for client, after_s in enumerate(draws.uniform(0.0, ARRIVE_WITHIN_S, clients.clients).tolist()):
            clock.call_at(clock.time() + after_s, partial(self._ask, client))

    def stop(self) -> None:
        """They all hang up, those that wait first: no load begins for one that is about to go."""
        self._stopped = True
        if self.node.alive:
            jobs = sorted(self._jobs.values(), key=lambda job: job is self.node.loading)
            for job in jobs:
                self.node.cancel(job)
        self._jobs.clear()

    def _their_models(self) -> list[str]:
        node = self.node
        first = next(iter(node.models.values()))
        if self.clients.own_models == "none":
            return [first.name]
        count = 1
        if self.clients.own_models == "too_many":
            count = math.floor(node.hardware.vram_gib / first.memory_gib) + 2
        own = [replace(first, name=f"{THEIR_MODELS}-{number}") for number in range(1, count + 1)]
        node.models = node.models | {model.name: model for model in own}  # only this node has them on its disk
        return [model.name for model in own]

    def _ask(self, client: int) -> None:
        if self._stopped:
            return
        if not self.node.alive:
            self._think(client)
            return
        model = self._models[self._asked % len(self._models)]
        self._asked += 1
        them = self.clients
        job = self._jobs[client] = Job(
            model, them.prompt_tokens, them.output_tokens, self._ended, client, them.context_tokens
        )
        self.node.submit(job)
        if them.patience_s < math.inf:
            self.clock.call_at(self.clock.time() + them.patience_s, partial(self._out_of_patience, client, job))

    def _out_of_patience(self, client: int, job: Job) -> None:
        if self._jobs.get(client) is job:
            if self.node.alive:
                self.node.cancel(job)
            del self._jobs[client]
            self._ask(client)

    def _ended(self, job: Job, _error: AttemptError) -> None:
        client = job.owner
        assert isinstance(client, int)
        if self._jobs.get(client) is job:
            del self._jobs[client]
            self._think(client)

    def _think(self, client: int) -> None:
        think_s = float(self._draws.exponential(self.clients.think_s))
        self.clock.call_at(self.clock.time() + think_s, partial(self._ask, client))
