"""The observer's own health: who is late itself must not take others for dead.

A controller whose machine is starved or suspended comes late to everything: answers lie in its sockets while its time
limits pass. It shows in being called later than it asked to be, and in probes that took longer than their time. As long
as that is so, limits on silence are longer, and what came of a limit that passed meanwhile says nothing.
"""

from __future__ import annotations

from typing import Final

from twin.policy.vocabulary import NEVER_S

LATE_S: Final = 0.25
"""Less is what timers and busy machines do."""
DECAY: Final = 0.7
"""How the longest delay fades from look to look."""
WIDENED: Final = 2.0
"""Limits are longer by so many times the delay."""


class Observer:
    """How late the observer is of late."""

    __slots__ = ("lag_s", "times_late")

    def __init__(self) -> None:
        self.lag_s = 0.0
        self.times_late = 0

    def called(self, due_s: float, now: float) -> None:
        """It was called now, and had asked for `due_s`."""
        self.lag_s *= DECAY
        if self.lag_s < LATE_S:
            self.lag_s = 0.0
        if 0.0 < due_s < NEVER_S:
            self.was_late(now - due_s)

    def was_late(self, late_s: float) -> bool:
        """Something came so much later than it should have; whether that is a sign of sickness."""
        if late_s <= LATE_S:
            return False
        self.times_late += 1
        self.lag_s = max(self.lag_s, late_s)
        return True

    def widened(self, limit_s: float) -> float:
        """A limit on somebody's silence, as it should be now."""
        return limit_s + WIDENED * self.lag_s
