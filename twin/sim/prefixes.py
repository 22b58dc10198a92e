"""What the slots of a runner remember, so that a prompt that goes on with a conversation is not evaluated from its start.

As llama.cpp's server does it (`get_available_slot` in `tools/server`): a slot keeps the KV cache of its last sequence; a
request takes the free slot whose content its prompt repeats, else a slot that was never used, else the one that was
used least recently, whose content is lost. The last token of a prompt is always evaluated. (Ollama's earlier runner in Go
took the first free slot where nothing matched; that difference is left out.)
"""

from __future__ import annotations


class SlotPrefixes:
    """The free slots' contents. `reused_tokens` counts what needed no evaluation."""

    __slots__ = ("_others", "_remembered", "reused_tokens")

    def __init__(self) -> None:
        self._remembered: dict[int, int] = {}  # session to its tokens, least recently used first; other content below 0
        self._others = 0
        self.reused_tokens = 0

    def take(self, session: int, shared_tokens: int, free: int) -> int:
        """A sequence takes one of `free` slots. How many tokens of its prompt need no evaluation."""
        held = self._remembered.pop(session, None) if session else None
        if held is not None:
            reused = min(held, shared_tokens)
            self.reused_tokens += reused
            return reused
        if len(self._remembered) >= free:
            del self._remembered[next(iter(self._remembered))]
        return 0

    def give(self, session: int, tokens: int) -> None:
        """A sequence leaves its slot, with so many tokens in it."""
        if not session:
            self._others -= 1
            session = self._others
        self._remembered.pop(session, None)
        self._remembered[session] = tokens
