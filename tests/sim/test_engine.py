"""The engine: one order for functions, timers and SimPy's own processes."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.sim.engine import Engine, Timer


class Noted(Timer):
    def __init__(self, notes: list[str], name: str) -> None:
        self.notes = notes
        self.name = name

    def fire(self) -> None:
        self.notes.append(self.name)


def test_simultaneous_calls_run_in_the_order_in_which_they_were_asked_for() -> None:
    engine = Engine()
    notes: list[str] = []
    engine.call_at(2.0, lambda: notes.append("late"))
    engine.call_at(1.0, lambda: notes.append("first"))
    engine.wake_at(1.0, Noted(notes, "second"))
    engine.call_at(1.0, lambda: notes.append("third"))
    engine.run_calls()
    assert notes == ["first", "second", "third", "late"]
    assert (engine.now, engine.calls) == (2.0, 4)


@given(
    asked=st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from([0.0, 0.25, 0.5, 1e9, 2e9]),
                st.floats(0, 3, allow_subnormal=False),
                st.floats(0, 1e12),
                st.just(math.inf),
            ),
            st.lists(st.floats(0, 2), max_size=3),
        ),
        max_size=40,
    ),
    bucket_s=st.sampled_from([2.0**-8, 0.25, 4.0]),
)
def test_calls_run_in_the_order_of_one_heap_of_all_whatever_the_buckets(
    asked: list[tuple[float, list[float]]], bucket_s: float
) -> None:
    engine = Engine(bucket_s)
    ran: list[tuple[float, int]] = []
    reference: list[tuple[float, int, list[float]]] = []
    expected: list[tuple[float, int]] = []
    numbers = itertools.count()

    def ask(time_s: float, later: list[float]) -> None:
        number = next(numbers)

        def call() -> None:
            ran.append((engine.now, number))
            for after_s in later:
                ask(engine.now + after_s, [])

        engine.call_at(time_s, call)

    for time_s, later in asked:
        ask(time_s, later)
    engine.run_calls()

    fresh = itertools.count()
    for time_s, later in asked:
        heapq.heappush(reference, (time_s, next(fresh), later))
    while reference:
        now, number, later = heapq.heappop(reference)
        expected.append((now, number))
        for after_s in later:
            heapq.heappush(reference, (now + after_s, next(fresh), []))
    assert ran == expected


def test_a_bucket_whose_bounds_would_be_rounded_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        Engine(0.1)


def test_what_is_asked_for_in_the_past_runs_at_once_and_not_before_its_asker_is_done() -> None:
    engine = Engine()
    notes: list[Any] = []

    def ask() -> None:
        engine.call_at(1.0, lambda: notes.append(engine.now))
        notes.append("asked")

    engine.call_at(5.0, ask)
    engine.run_calls()
    assert notes == ["asked", 5.0]


def test_a_simpy_process_runs_beside_the_calls_on_the_same_clock() -> None:
    engine = Engine()
    environment = engine.environment()
    notes: list[tuple[str, float]] = []

    def process() -> Generator[Any, Any, None]:
        yield environment.timeout(1.5)
        notes.append(("process", float(environment.now)))
        yield environment.timeout(1.0)
        notes.append(("process", float(environment.now)))

    environment.process(process())
    engine.call_at(2.0, lambda: notes.append(("call", engine.now)))
    engine.run_calls()
    assert notes == [("process", 1.5), ("call", 2.0), ("process", 2.5)]


def test_an_error_in_a_process_is_not_swallowed() -> None:
    engine = Engine()
    environment = engine.environment()

    def process() -> Generator[Any, Any, None]:
        yield environment.timeout(1.0)
        raise ArithmeticError("meant to be seen")

    environment.process(process())
    with pytest.raises(ArithmeticError, match="meant to be seen"):
        engine.run_calls()


def test_finish_ends_the_run_after_the_present_call() -> None:
    engine = Engine()
    notes: list[str] = []
    engine.call_at(1.0, engine.finish)
    engine.call_at(1.0, lambda: notes.append("never"))
    engine.run_calls()
    assert notes == []
