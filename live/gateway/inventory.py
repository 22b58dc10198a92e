"""What the nodes have, as one view: the merged answers to `/api/tags`, `/api/ps` and `/v1/models`.

All nodes are asked at once. Once one has answered, the others get a moment more, and who says nothing by then is left
out and named in a header: a node that hangs must not hang a list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from live.controller.discovery import BYTES_PER_GIB, LOADED_PER_STORED, other_names
from live.controller.driver import PolicyDriver
from live.controller.runners import digest_of, is_made, look_alikes, place_of, runner_of, size_of
from live.gateway.dialect import JsonObject, dumps, loads_record
from live.gateway.reads import Reads
from live.gateway.upstream import AttemptFailed
from twin.policy.model_names import ModelNames, canonical
from twin.policy.vocabulary import NodeInventory

_log = structlog.get_logger()

PATIENCE_S = 1.0
"""How long the others are waited for when one node has answered."""
REFRESH_MIN_S = 1.0
"""An inventory this young is not asked for again in the background."""
LOOK_GAP_S = 0.25
"""Between two looks because of models that nobody knows: who asks for one waits, and makes the nodes no work."""


@dataclass(slots=True)
class Gathered:
    """What the nodes answered to one question."""

    answers: dict[str, JsonObject] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # node: why it says nothing

    def headers(self) -> dict[str, str]:
        """Who answered, and who did not."""
        headers = {"X-OllamaMax-Nodes": ",".join(self.answers)}
        if self.missing:
            headers["X-OllamaMax-Nodes-Missing"] = ",".join(self.missing)
        return headers

    def reasons(self) -> str:
        """Why the missing are missing, in one line."""
        return "; ".join(f"{node}: {why}" for node, why in self.missing.items())


class Inventory:
    """Asks all nodes, remembers what they have, and tells the policy."""

    def __init__(self, reads: Reads, names: ModelNames, driver: PolicyDriver, slots: int) -> None:
        self._reads = reads
        self._names = names
        self._driver = driver
        self._slots = slots
        self._stored: dict[str, set[str]] = {}  # node: canonical names
        self._shared: dict[str, tuple[str, ...]] = {}  # node: the models that have a place together
        self._runners: dict[str, str] = {}  # digest of a model: what tells its runner from others'
        self._made: set[str] = set()  # digests of models that were made from others
        self._others: dict[str, str] = {}  # canonical names of a model beside the one that it is called by
        self._context: dict[str, int] = {}  # the cluster's name: the smallest context with which it is loaded
        self._asked_s = -REFRESH_MIN_S
        self._refreshing: asyncio.Task[None] | None = None
        self._next_look: asyncio.Task[None] | None = None  # that has not begun yet
        self._looks: set[asyncio.Task[None]] = set()

    def context_of(self, model: str) -> int:
        """The context with which a model of the cluster is loaded, in tokens; 0 where nobody knows."""
        return self._context.get(model, 0)

    def holders(self, model: str) -> list[str]:
        """The nodes that had the model on their disk when they were last asked."""
        name = canonical(self.spelt(model))
        return [node for node in self._reads.nodes if name in self._stored.get(node, ())]

    def unheard(self) -> list[str]:
        """The nodes that have never said what they have."""
        return [node for node in self._reads.nodes if node not in self._stored]

    def spelt(self, model: str) -> str:
        """The name as the cluster spells it: to Ollama small letters and capitals are one."""
        folded = canonical(model.casefold())
        return next((name for name in self._names if canonical(name.casefold()) == folded), model)

    async def knows(self, model: str) -> bool:
        """Whether any node has the model; where it is new they are asked, and answer as things are by now."""
        if self.spelt(model) in self._names:
            return True
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().create_task(self._look_in_a_moment())
            self._looks.add(self._next_look)
            self._next_look.add_done_callback(self._looks.discard)
        await asyncio.shield(self._next_look)
        return self.spelt(model) in self._names

    async def _look_in_a_moment(self) -> None:
        """One look for all who ask at about the same time: it begins after each of them has asked."""
        await asyncio.sleep(self._asked_s + LOOK_GAP_S - time.monotonic())
        self._next_look = None
        await self.refresh()

    def refresh_soon(self) -> None:
        """Ask in the background, unless that was done a moment ago."""
        if self._refreshing is None and time.monotonic() - self._asked_s >= REFRESH_MIN_S:
            self._asked_s = time.monotonic()
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_quietly())

    async def close(self) -> None:
        """End what runs in the background."""
        tasks = [*self._looks, *([self._refreshing] if self._refreshing is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def keep(self, period_s: float) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await self._refresh_quietly()
            await asyncio.sleep(period_s if self._stored else min(period_s, REFRESH_MIN_S))

    async def _refresh_quietly(self) -> None:
        try:
            gathered, _ = await asyncio.gather(self._list(), self.loaded())
            if await self._look_up(gathered):  # that takes time: the list may have changed
                gathered = await self._list()
            self._take_in(gathered)
        except Exception as error:  # noqa: BLE001
            _log.error("inventory_failed", error=repr(error), exc_info=error)
        finally:
            self._refreshing = None

    async def refresh(self) -> Gathered:
        """Ask the nodes what they have stored and loaded."""
        tags, _ = await asyncio.gather(self.tags(), self.loaded())
        return tags

    async def tags(self) -> Gathered:
        """`/api/tags` of all nodes."""
        gathered = await self._list()
        self._take_in(gathered)
        return gathered

    async def _list(self) -> Gathered:
        self._asked_s = time.monotonic()
        return await self.gather("/api/tags", "models")

    def _take_in(self, gathered: Gathered) -> None:
        joined = not gathered.missing and self._join(gathered)
        for node, answer in gathered.answers.items():
            self._learn(node, answer["models"], anew=joined)
        self._forget(complete=not gathered.missing)

    async def _look_up(self, gathered: Gathered) -> bool:
        """Ask what models are made of that look alike, each once and one after the other; whether any was asked for.

        Not where a client waits: a node that hangs would have it wait. The first that does not answer ends it for now.
        """
        listed = {digest_of(model) for answer in gathered.answers.values() for model in answer["models"]}
        self._runners = {digest: runner for digest, runner in self._runners.items() if digest in listed}
        self._made &= listed
        asked = False
        for node, answer in gathered.answers.items():
            models = {model["name"]: model for model in answer["models"]}
            for name in look_alikes(models):
                digest = digest_of(models[name])
                if digest in self._runners:
                    continue
                asked = True
                try:
                    shown = await self._reads.ask_node(node, "POST", "/api/show", dumps({"model": name}))
                    if shown.status == 200:
                        said = loads_record(shown.body)
                        self._runners[digest] = runner_of(said) or digest
                        if is_made(said):
                            self._made.add(digest)
                except (AttemptFailed, ValueError) as error:
                    _log.info("model_not_shown", node=node, model=name, why=str(error))
                    return True
        return asked

    async def loaded(self) -> Gathered:
        """`/api/ps` of all nodes."""
        gathered = await self.gather("/api/ps", "models")
        contexts: dict[str, int] = {}
        for answer in gathered.answers.values():
            for model in answer["models"]:
                tokens = model.get("context_length")
                if type(tokens) is int and tokens > 0:
                    name = self._names.of(model["name"])
                    contexts[name] = min(tokens, contexts.get(name, tokens))
        self._context.update(contexts)
        return gathered

    async def having_loaded(self, model: str) -> tuple[list[str], Gathered]:
        """The nodes that have a model of the cluster loaded now, and what all said of that."""
        gathered = await self.loaded()
        nodes = {
            node: {self._names.of(each["name"]) for each in answer["models"]}
            for node, answer in gathered.answers.items()
        }
        return [node for node, names in nodes.items() if model in names], gathered

    async def gather(self, path: str, key: str) -> Gathered:
        """Ask all nodes for a list; only objects that have a name are taken from it."""
        tasks = {node: asyncio.create_task(self._ask(node, path, key)) for node in self._reads.nodes}
        gathered = Gathered()
        try:
            pending: set[asyncio.Task[JsonObject]] = set(tasks.values())
            timeout_s: float | None = None
            while pending:
                done, pending = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                if any(task.exception() is None for task in done):
                    timeout_s = PATIENCE_S
        finally:
            for task in tasks.values():
                task.cancel()
            results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for node, result in zip(tasks, results, strict=True):
            if isinstance(result, AttemptFailed):
                gathered.missing[node] = f"{result.error}: {result.detail}"
            elif isinstance(result, BaseException):
                gathered.missing[node] = "it does not answer"
            else:
                gathered.answers[node] = result
        return gathered

    async def _ask(self, node: str, path: str, key: str) -> JsonObject:
        answer = await self._reads.ask_node(node, "GET", path)
        if answer.status != 200:
            raise AttemptFailed("server_error", f"status {answer.status}")
        try:
            fields = orjson.loads(answer.body)  # to the letter: what it has is written again for clients
        except ValueError as error:
            raise AttemptFailed("error_record", f"what is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise AttemptFailed("error_record", "JSON that is not an object")
        listed = fields.get(key)
        if listed is None:  # an empty list of Go's
            listed = []
        if not isinstance(listed, list):
            raise AttemptFailed("error_record", f"an answer whose {key} is no list")
        name = "id" if key == "data" else "name"
        fields[key] = [each for each in listed if isinstance(each, dict) and isinstance(each.get(name), str)]
        return fields

    def _join(self, gathered: Gathered) -> bool:
        """See which names are names of one model; whether that has changed."""
        runners = {
            node: {canonical(model["name"]): self._runner(model) for model in answer["models"]}
            for node, answer in gathered.answers.items()
        }
        models = [model for answer in gathered.answers.values() for model in answer["models"]]
        made = {canonical(model["name"]) for model in models if digest_of(model) in self._made}
        others = other_names(runners, {canonical(name) for name in self._names}, made)
        if others == self._others:
            return False
        for name in self._others.keys() - others.keys():
            self._names.add(name, of=name)
        for name, of in others.items():
            self._names.add(name, of=self._names.of(of))
        self._others = others
        _log.info("one_model_of_several_names", names=others)
        return True

    def _runner(self, model: JsonObject) -> str:
        digest = digest_of(model)
        return self._runners.get(digest, digest)

    def _learn(self, node: str, models: Sequence[JsonObject], *, anew: bool) -> None:
        sizes = {canonical(model["name"]): size_of(model, "size") for model in models}
        shares = self._shares(models)
        if set(sizes) == self._stored.get(node) and shares == self._shared.get(node) and not anew:
            return
        self._stored[node] = set(sizes)
        self._shared[node] = shares
        for name in sizes:
            if name not in self._names:
                self._names.add(name)
        gib = {self._names.of(name): size * LOADED_PER_STORED / BYTES_PER_GIB for name, size in sizes.items()}
        self._driver.observe(NodeInventory(node, gib, self._slots, shares))

    def _shares(self, models: Sequence[JsonObject]) -> tuple[str, ...]:
        """The models of a node of which it has one loaded at a time, as the policy is told."""
        places: dict[str, set[str]] = {}
        for model in models:
            name, place = self._names.of(model["name"]), place_of(self._runner(model))
            if place and " " not in name:
                places.setdefault(place, set()).add(name)
        return tuple(sorted(" ".join(sorted(names)) for names in places.values() if len(names) > 1))

    def _forget(self, *, complete: bool) -> None:
        """A model that no node has is not known any more, if all nodes say so."""
        if complete:
            everywhere = set().union(*self._stored.values())
            for name in list(self._names):
                if canonical(name) not in everywhere:
                    self._names.discard(name)


def merged(gathered: Gathered, key: str, newest: Callable[[JsonObject], Any]) -> JsonObject:
    """One answer of all: each model once, as the node that says the newest of it says it; the newest first, as in Ollama."""
    name = "id" if key == "data" else "name"
    models: dict[str, JsonObject] = {}
    for answer in gathered.answers.values():
        for model in answer[key]:
            known = models.get(canonical(model[name]))
            if known is None or newest(model) > newest(known):
                models[canonical(model[name])] = model
    first: Mapping[str, Any] = next(iter(gathered.answers.values()))
    return {**first, key: sorted(models.values(), key=newest, reverse=True)}


def text(name: str) -> Callable[[JsonObject], str]:
    """The field as text, to compare by; Ollama's times compare as text as long as their zones are equal."""

    def of(model: JsonObject) -> str:
        value = model.get(name)
        return value if isinstance(value, str) else ""

    return of


def number(value: object) -> float:
    """A number to compare by; what is none counts as 0."""
    return value if isinstance(value, (int, float)) else 0.0
