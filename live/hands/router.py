"""Picks the hand for each kind of action."""

from __future__ import annotations

from collections.abc import Mapping

from live.hands.protocol import HandResult, Hands
from twin.policy.vocabulary import Action, ActionKind


class HandsByKind:
    """One hand for each kind of action; what has none fails and says so."""

    def __init__(self, hands: Mapping[ActionKind, Hands]) -> None:
        self._hands = hands

    async def perform(self, action: Action) -> HandResult:
        """Let the hand for this kind of action carry it out."""
        hand = self._hands.get(action.kind)
        if hand is None:
            return HandResult("failed", f"no hand is configured for {action.kind} of {action.node}")
        return await hand.perform(action)
