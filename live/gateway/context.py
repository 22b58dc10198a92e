"""One context length for each model, so that clients do not make each other reload it.

For Ollama another `num_ctx` than the loaded one is an order to unload the model and load it anew (issue 8903): two
clients that ask for different ones make it do so at each request. So all requests are sent with the same: none as long
as what a client asks for fits into what is loaded anyway, else the largest that anybody has asked for of late.
A client never gets less than it asked for, and who asks for nothing not less than what was loaded. As long as nobody
knows what is loaded, everybody gets what they ask for.

A request that says none means the model's own length, not the loaded one. So where what is loaded may be there because it
was said, who asks for a length has it said again: the length that all nodes list, where that is the one that was said
(`live.controller.contexts`), or one that was said here. What is listed may be less than what was said, and saying that
would have the model loaded anew (`twin.policy.contexts`).
"""

from __future__ import annotations

HOLD_S = 900.0
"""A length that nobody has asked for this long is let go."""
SAID_MAX = 64
"""Lengths that are remembered of a model; clients that say more than these get what they ask for."""


class ContextLengths:
    """What to send for each model."""

    def __init__(self, largest_tokens: int) -> None:
        """What a client asks beyond `largest_tokens` is its own: it is sent on, and nobody else gets it."""
        self._largest_tokens = largest_tokens
        self._pinned: dict[str, tuple[int, float]] = {}  # model: tokens, when last asked for
        self._said: dict[str, set[int]] = {}  # model: lengths that nodes were told: what is loaded may be one of them

    def held(self, model: str, now_s: float) -> int:
        """The length that is sent with every request that can say one; 0: none."""
        tokens, asked_s = self._pinned.get(model, (0, now_s))
        return tokens if now_s - asked_s <= HOLD_S else 0

    def for_request(self, model: str, asked_tokens: int, loaded_tokens: int, now_s: float, said_tokens: int = 0) -> int:
        """The `num_ctx` to send; 0: none. `loaded_tokens`: with which it is loaded, 0 where that is not known;
        `said_tokens`: the one that has it loaded nowhere anew, 0 where there is none or nobody knows."""
        tokens = self._chosen(model, asked_tokens, loaded_tokens, now_s, said_tokens)
        if tokens:
            said = self._said.setdefault(model, set())
            if len(said) < SAID_MAX:
                said.add(tokens)
        return tokens

    def _chosen(self, model: str, asked_tokens: int, loaded_tokens: int, now_s: float, said_tokens: int) -> int:
        pinned, asked_s = self._pinned.get(model, (0, now_s))
        if pinned and now_s - asked_s > HOLD_S:
            del self._pinned[model]
            pinned = 0
        if asked_tokens > self._largest_tokens or not (pinned or loaded_tokens):
            return asked_tokens
        if pinned:
            if asked_tokens >= pinned:
                self._pinned[model] = (asked_tokens, now_s)
            return max(pinned, asked_tokens)
        if asked_tokens <= loaded_tokens:
            is_said = loaded_tokens == said_tokens or loaded_tokens in self._said.get(model, set())
            return loaded_tokens if asked_tokens and is_said else 0
        self._pinned[model] = (asked_tokens, now_s)
        return asked_tokens
