"""With which num_ctx a node is asked where others ask it, too, past the gateway.

Ollama loads a model anew for a request with another num_ctx than the one that it is loaded with (ollama/ollama issue 8903).
Where others ask a node for one of our models with theirs, each change of hands so costs a load, and whoever comes finds
nobody at work. `/api/ps` says what is loaded with which. They are not ours to change; but asked by us with their num_ctx as
well, the model stays loaded. Prompts that need more than a shorter one of theirs go to other nodes.
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
        self.enabled: bool = view.parameters.router.match_context and view.parameters.healer.mode == "act"
        self.matched: list[str] = []  # in words, for the record; whoever writes it down empties it
        self.first: dict[tuple[str, str], int] = {}  # node and model: num_ctx as seen first, before others came
        self.last: dict[tuple[str, str], int] = {}  # ... and last
        self.changed_s: dict[tuple[str, str], deque[float]] = {}

    def seen(self, now: float, replica: Replica, context_tokens: int) -> None:
        """A node says that it has a model loaded with so many tokens of context."""
        if not self.enabled or not context_tokens:
            return
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
