"""Picks the hand for each node and kind of action."""

from __future__ import annotations

from collections.abc import Mapping

from live.hands.protocol import HandResult, Hands
from twin.policy.vocabulary import Action, ActionKind


class HandsByKind:
    """One hand for each kind of action; `by_node` has what single nodes have otherwise. What has none is not tried."""

    def __init__(
        self, hands: Mapping[ActionKind, Hands], by_node: Mapping[str, Mapping[ActionKind, Hands]] | None = None
    ) -> None:
        self._hands = hands
        self._by_node = by_node or {}

    def hand(self, kind: ActionKind, node: str) -> Hands | None:
        """The hand for this; None where there is none."""
        return self._by_node.get(node, {}).get(kind) or self._hands.get(kind)

    def kinds(self, node: str) -> frozenset[str]:
        """What can be done to a node."""
        return frozenset({*self._hands, *self._by_node.get(node, {})})

    async def perform(self, action: Action) -> HandResult:
        """Let the hand for this kind of action on this node carry it out."""
        hand = self.hand(action.kind, action.node)
        if hand is None:
            return HandResult("no_hand", f"no hand is configured for {action.kind} of {action.node}")
        return await hand.perform(action)

    async def close(self) -> None:
        """Close every hand, each once."""
        hands = [*self._hands.values(), *(hand for kinds in self._by_node.values() for hand in kinds.values())]
        for hand in {id(hand): hand for hand in hands}.values():
            await hand.close()
