"""What goes over edges that limit it: each carries so many bytes per second, shared evenly by what crosses it.

A transfer's rate is that of its tightest lane, rate of the lane / transfers on it, and 0 over a lane that is blocked.
Whoever does not use its share leaves it unused, so that a lane with many slow streams is taken as somewhat narrower than
it is. The size of a prompt and of a streamed token in bytes is counted below; headers of TCP and Ethernet are in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from twin.policy.vocabulary import NEVER_S
from twin.sim.engine import Engine
from twin.sim.network import Lane

TOKEN_BYTES: Final = 200
"""One token of a stream: {"model":"llama3.1:8b","created_at":"2026-01-01T00:00:00.123456789Z","message":{"role":
"assistant","content":" word"},"done":false} and a line end are 132 bytes, the chunk's own frame 6, TCP, IP and Ethernet
66: together about 200."""

PROMPT_TOKEN_BYTES: Final = 4
"""English text has about four characters a token (OpenAI's rule of thumb for its tokenizers)."""

MESSAGE_BYTES: Final = 500
"""Assumption: the head of a request or an answer, or a small one as a whole."""


class Transfer:
    """Bytes on their way over some lanes. `carried` grows; when it reaches `goal`, `on_goal` is called once."""

    __slots__ = ("carried", "goal", "lanes", "on_goal", "rate")

    def __init__(self, lanes: list[Lane], goal: float, on_goal: Callable[[], None] | None) -> None:
        self.lanes = lanes
        self.goal = goal
        self.on_goal = on_goal
        self.carried = 0.0
        self.rate = 0.0


class Traffic:
    """All transfers of a run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.transfers: list[Transfer] = []
        self._advanced_s = 0.0
        self._version = 0

    def begin(self, lanes: list[Lane], goal: float, on_goal: Callable[[], None] | None) -> Transfer:
        """Send so many bytes, or (`goal` infinite) whatever will come."""
        transfer = Transfer(list(lanes), goal, on_goal)
        self._advance()
        self.transfers.append(transfer)
        for lane in transfer.lanes:
            lane.transfers += 1
        self.changed()
        return transfer

    def extend(self, transfer: Transfer, goal: float, on_goal: Callable[[], None]) -> None:
        """Have it called when so many bytes in all have passed."""
        self._advance()
        transfer.goal, transfer.on_goal = goal, on_goal
        self.changed()

    def end(self, transfer: Transfer) -> None:
        """It is over, or broken off."""
        if transfer in self.transfers:
            self._advance()
            self.transfers.remove(transfer)
            for lane in transfer.lanes:
                lane.transfers -= 1
            self.changed()

    def carried(self, transfer: Transfer) -> float:
        """Bytes that have passed so far."""
        self._advance()
        return transfer.carried

    def _advance(self) -> None:
        passed_s = self.engine.now - self._advanced_s
        self._advanced_s = self.engine.now
        if passed_s > 0.0:
            for transfer in self.transfers:
                transfer.carried += transfer.rate * passed_s

    def changed(self) -> None:
        """Rates are others from now on: who shares a lane, or how wide it is."""
        self._advance()
        due_s = NEVER_S
        now = self.engine.now
        for transfer in self.transfers:
            rate = NEVER_S
            for lane in transfer.lanes:
                rate = min(rate, 0.0 if lane.blocked else lane.bytes_per_s / lane.transfers)
            transfer.rate = rate
            if transfer.on_goal is not None and transfer.goal != NEVER_S and rate > 0.0:
                left = transfer.goal - transfer.carried
                due_s = min(due_s, now + (left / rate if left > 0.0 else 0.0))
        self._version += 1
        if due_s != NEVER_S:
            self.engine.call_at(due_s, partial(self._due, self._version))

    def _due(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        reached = [
            it
            for it in self.transfers
            if it.on_goal is not None and (it.rate == NEVER_S or it.goal - it.carried <= 1e-6 * it.goal)
        ]
        for transfer in reached:
            on_goal, transfer.on_goal = transfer.on_goal, None
            assert on_goal is not None
            on_goal()
        self.changed()
