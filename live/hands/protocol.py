"""What every hand has in common: an action goes in, what became of it comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from twin.policy.vocabulary import Action


class HandError(RuntimeError):
    """The action could not be carried out; the message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class HandResult:
    """What became of an action. `unknown`: it was ordered, and the answer was lost. `no_hand`: nobody there can do it."""

    status: Literal["done", "failed", "unknown", "no_hand"]
    detail: str = ""


class Hands(Protocol):
    """Carries out actions on nodes: load, unload, restart."""

    async def perform(self, action: Action) -> HandResult:
        """Carry it out and say what became of it; `HandError` counts as failed.

        The caller keeps the action's deadline: it cancels what is late.
        """

    async def close(self) -> None:
        """Let go of what is open. To be called once, at the end."""
