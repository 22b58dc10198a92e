"""Which prompts a node does not survive.

A marginal GPU lets its runner die in the prefill of a long prompt, with all that runs beside it (ollama/ollama issue 12472);
short ones work, so no restart mends anything, and nobody else needs to do without the node. A runner's death is put down to
the longest prompt that had no token yet. Where each of several deaths had a longer one than all that the node has survived
since the first, and that would hardly come by chance, prompts from the shortest of these on go to other nodes for an hour.
"""

from __future__ import annotations

from math import comb
from typing import Any, Final

from twin.policy.views import ClusterView, Replica
from twin.policy.vocabulary import NEVER_S

DEATHS_MIN: Final = 2
CHANCE_MAX: Final = 0.01
"""Were deaths no matter of length, k of them would be longer than n survivors in one of C(n + k, k) orders."""

ONE_DEATH_S: Final = 0.25
"""Attempts that break within this time broke with one runner."""

KEPT_S: Final = 3600.0
"""Then it is tried again."""


class Suspicion:
    """What a replica has died of, and survived since."""

    __slots__ = ("deaths", "longest_survived", "survived", "until_s", "when_s")

    def __init__(self) -> None:
        self.deaths: list[int] = []  # tokens of the longest prompt, of each
        self.when_s = -NEVER_S  # the last
        self.survived = 0
        self.longest_survived = 0
        self.until_s = -NEVER_S  # a limit is in force

    def limit(self) -> int:
        """The shortest prompt that kills; 0: length explains nothing."""
        count = len(self.deaths)
        if count < DEATHS_MIN or min(self.deaths) <= self.longest_survived:
            return 0
        return min(self.deaths) if comb(self.survived + count, count) * CHANCE_MAX >= 1.0 else 0


class PromptLimits:
    """Watches deaths, and tells the pools which prompts to keep from whom."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.enabled: bool = view.parameters.router.prompt_limits and view.by_model
        self.suspected: dict[tuple[str, str], Suspicion] = {}  # node and model

    def died(self, now: float, replica: Replica, prompt_tokens: int) -> None:
        """An attempt without a token so far broke with its runner."""
        if not self.enabled:
            return
        suspicion = self.suspected.setdefault((replica.node.name, replica.model.name), Suspicion())
        if now - suspicion.when_s < ONE_DEATH_S and suspicion.deaths:
            suspicion.deaths[-1] = max(suspicion.deaths[-1], prompt_tokens)
        else:
            suspicion.deaths.append(prompt_tokens)
        suspicion.when_s = now
        self._judge(now, replica, suspicion)

    def survived(self, now: float, replica: Replica, prompt_tokens: int) -> None:
        """A request ended well. Only asked while somebody is suspected."""
        suspicion = self.suspected.get((replica.node.name, replica.model.name))
        if suspicion is None:
            return
        suspicion.survived += 1
        suspicion.longest_survived = max(suspicion.longest_survived, prompt_tokens)
        # A death that has been outlived by a longer prompt was of something else.
        suspicion.deaths = [tokens for tokens in suspicion.deaths if tokens > suspicion.longest_survived]
        if suspicion.deaths:
            self._judge(now, replica, suspicion)
        else:
            self._forget(replica)

    def _judge(self, now: float, replica: Replica, suspicion: Suspicion) -> None:
        limit = suspicion.limit()
        limits, bit = replica.pool.prompt_limits, replica.node.bit
        if not limit:
            limits.pop(bit, None)
        elif limits.get(bit) != limit:
            limits[bit] = limit
            suspicion.until_s = now + KEPT_S

    def _forget(self, replica: Replica) -> None:
        del self.suspected[(replica.node.name, replica.model.name)]
        replica.pool.prompt_limits.pop(replica.node.bit, None)

    def look(self, now: float) -> None:
        """Let go the limits whose time is over."""
        for (name, model), suspicion in list(self.suspected.items()):
            if -NEVER_S < suspicion.until_s <= now:
                self._forget(self.view.nodes[name].replicas[model])

    def snapshot(self, now: float) -> list[list[Any]]:
        """The limits in force, as plain data: node, model, tokens, seconds left."""
        return [
            [node, model, it.limit(), it.until_s - now]
            for (node, model), it in sorted(self.suspected.items())
            if it.limit()
        ]

    def restore(self, now: float, known: list[list[Any]]) -> None:
        """Go on from a snapshot."""
        for name, model, limit, left_s in known:
            node = self.view.nodes.get(name)
            replica = node.replicas.get(model) if node is not None else None
            if replica is None or not self.enabled:
                continue
            suspicion = self.suspected[(str(name), str(model))] = Suspicion()
            suspicion.deaths = [int(limit)] * DEATHS_MIN
            suspicion.survived = round(1.0 / CHANCE_MAX)
            suspicion.until_s = now + float(left_s)
            replica.pool.prompt_limits[replica.node.bit] = int(limit)
