"""Many limits, one timer of the loop."""

import asyncio
from collections.abc import Callable

import pytest

from live.gateway.timers import SWEEP_MIN, Timers


class Loop:
    """A clock that a test moves, and the timers that were set on it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.set: list[tuple[float, Callable[[], None]]] = []
        self.cancelled = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, at_s: float, call: Callable[[], None]) -> "Handle":
        self.set.append((at_s, call))
        return Handle(self)

    def pass_until(self, at_s: float) -> None:
        self.now_s = at_s
        due = [each for each in self.set if each[0] <= at_s]
        self.set = [each for each in self.set if each[0] > at_s]
        for _, call in due:
            call()


class Handle:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.mine = loop.set[-1]

    def cancel(self) -> None:
        self.loop.cancelled += 1
        self.loop.set.remove(self.mine)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def timers(loop: Loop) -> Timers:
    as_loop: asyncio.AbstractEventLoop = loop  # type: ignore[assignment]
    return Timers(as_loop)


def test_calls_are_made_in_the_order_of_their_times(loop: Loop, timers: Timers) -> None:
    made: list[str] = []
    timers.at(3.0, lambda: made.append("third"))
    timers.at(1.0, lambda: made.append("first"))
    timers.at(2.0, lambda: made.append("second"))
    for second in (1, 2, 3):
        loop.pass_until(second)
    assert made == ["first", "second", "third"]


def test_a_limit_that_was_taken_back_makes_no_call_and_a_thousand_set_one_timer(loop: Loop, timers: Timers) -> None:
    made: list[str] = []
    limits = [timers.at(10.0 + index, lambda: made.append("late")) for index in range(1000)]
    assert (len(loop.set), loop.cancelled) == (1, 0)
    for limit in limits:
        timers.take_back(limit)
        timers.take_back(limit)
    assert len(timers) == 0
    loop.pass_until(5000.0)
    assert made == []
    assert loop.set == []


def test_what_was_taken_back_is_not_kept_until_it_would_have_been_due(timers: Timers) -> None:
    for _ in range(20 * SWEEP_MIN):
        timers.take_back(timers.at(1e6, lambda: None))
    assert len(timers._heap) <= 2 * SWEEP_MIN + 2


def test_a_call_may_set_and_take_back_limits(loop: Loop, timers: Timers) -> None:
    made: list[str] = []
    later = timers.at(2.0, lambda: made.append("never"))

    def first() -> None:
        timers.take_back(later)
        timers.at(1.0, lambda: made.append("at once"))
        timers.at(4.0, lambda: made.append("afterwards"))

    timers.at(1.0, first)
    loop.pass_until(1.0)
    assert made == ["at once"]
    loop.pass_until(4.0)
    assert made == ["at once", "afterwards"]


def test_a_call_that_breaks_leaves_the_others_their_time(loop: Loop, timers: Timers) -> None:
    made: list[str] = []

    def broken() -> None:
        raise RuntimeError("broken")

    timers.at(1.0, broken)
    timers.at(2.0, lambda: made.append("made"))
    with pytest.raises(RuntimeError, match="broken"):
        loop.pass_until(1.0)
    loop.pass_until(2.0)
    assert made == ["made"]
