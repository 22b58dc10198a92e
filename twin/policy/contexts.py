"""With which num_ctx a node has each model loaded, and so is asked for it.

For Ollama another num_ctx than the one for which a model is loaded is an order to load it anew (ollama/ollama issue 8903),
and so is none where one was said, unless it is what the node takes where none is said. In its source (0.24):
`needsReload` in server/sched.go compares the options of the request that had the model loaded with those of the one that
has come, after `GetRunner` has made both of them at least 4 (2048 for a model that sees pictures) and `modelOptions` in
server/routes.go has put the Modelfile's num_ctx, or `OLLAMA_CONTEXT_LENGTH`, or a number that follows from the GPU memory
where the request says none. So a model that was loaded for none may be asked for by that very number: nothing is loaded.

What `/api/ps` says is not the number that is compared: `NewLlamaServer` in llm/server.go cuts a copy of it down to the
length that the model was trained for. A model that was trained for 4096 tokens and is loaded for a request with 8192
is listed with 4096, and a request with 4096 has it loaded anew (seen on 0.24; newer versions cut both down before they
compare them). So who reads `/api/ps` for us says 0 for what is as long as it was trained for (`live.controller.probes`), and
such a model is asked for as the last request was. Where nothing went through here yet that is without a num_ctx.

What is known of a replica (`Replica.loaded_context` and its like) comes from `/api/ps`, every few seconds, and in between
from the requests that it answered and the loads that were ordered. A probe asks with that; a load is one for the requests
that come; and a request that is told something else gets the time of a load.

Where others ask a node for one of our models with theirs, past the gateway, each change of hands costs a load, and whoever
comes finds nobody at work. They are not ours to change; but asked by us with their num_ctx as well, the model stays loaded.
Prompts that need more than a shorter one of theirs go to other nodes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from twin.policy.views import ClusterView, Replica

CHANGES: Final = 2
"""One may be a new setting of somebody's; back again, it is two who take turns."""

WITHIN_S: Final = 300.0


class Contexts:
    """Follows what each loaded model is loaded with."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.matches: bool = view.parameters.router.match_context and view.parameters.healer.mode == "act"
        self.matched: list[str] = []  # in words, for the record; whoever writes it down empties it
        self.first: dict[tuple[str, str], int] = {}  # node and model: num_ctx as seen first, before others came
        self.last: dict[tuple[str, str], int] = {}  # ... and last
        self.changed_s: dict[tuple[str, str], deque[float]] = {}

    def to_ask_with(self, replica: Replica) -> int:
        """The num_ctx for a probe of it, so that its requests find it as they left it; 0: none."""
        if replica.context_tokens:
            return replica.context_tokens
        if not replica.resident:  # it is loaded by this probe
            context_tokens = self.to_load_with(replica)
            replica.loaded_for(context_tokens)
            return context_tokens
        if self.view.indexed(replica).in_flight:
            return replica.asked_context
        return replica.hot_context

    def to_load_with(self, replica: Replica) -> int:
        """The num_ctx for a load of it, which is one for the requests that come; 0: none."""
        if replica.matched:
            return replica.context_tokens
        return max(0, replica.pool.asked_context) if self.view.by_model else 0

    def seen(self, now: float, replica: Replica, context_tokens: int) -> None:
        """A node says that it has a model loaded with so many tokens of context."""
        replica.seen_with(context_tokens)
        if self.matches:
            self._follow(now, replica, context_tokens)

    def _follow(self, now: float, replica: Replica, context_tokens: int) -> None:
        """Ask with theirs where others and we take turns."""
        key = (replica.node.name, replica.model.name)
        first = self.first.setdefault(key, context_tokens)
        before = self.last.get(key, context_tokens)
        self.last[key] = context_tokens
        if before == context_tokens:
            return
        changes = self.changed_s.setdefault(key, deque())
        changes.append(now)
        while changes[0] < now - WITHIN_S:
            changes.popleft()
        ours = replica.context_tokens or replica.model.context_tokens or first
        theirs = context_tokens if context_tokens != ours else before
        if len(changes) < CHANGES or not self._may_be_asked_with(replica, theirs, first):
            return
        changes.clear()
        replica.load_with(theirs, self.view.parameters, matched=True)
        self.matched.append(
            f"{replica.model.name} on {replica.node.name} is asked with num_ctx {theirs}, as others ask it past the "
            "gateway: it was loaded anew whenever they and we took turns"
        )

    def _may_be_asked_with(self, replica: Replica, theirs: int, first: int) -> bool:
        """Not where we have shortened it for want of memory; and a shorter one only where the operator allows that, and it
        is known which prompts need more."""
        if replica.context_tokens and not replica.matched:
            return False
        own = replica.model.context_tokens
        least = self.view.parameters.healer.context_min_tokens
        return theirs > (own or first) or (own > 0 and theirs >= least > 0)
