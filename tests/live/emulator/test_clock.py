"""Wall-clock time for the node model."""

import asyncio

from live.emulator.clock import LoopClock


async def test_calls_come_in_time_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    clock = LoopClock(loop)
    done = loop.create_future()
    called: list[tuple[float, float]] = []

    def call(time_s: float) -> None:
        called.append((time_s, clock.time()))
        if len(called) == 100:
            done.set_result(None)

    start_s = clock.time()
    for index in range(100):
        time_s = start_s + index * 0.001
        clock.call_at(time_s, lambda time_s=time_s: call(time_s))  # type: ignore[misc]
    assert called == [], "not from within the call"
    await asyncio.wait_for(done, 5)
    assert all(time_s <= at_s for time_s, at_s in called)


async def test_a_call_that_the_loop_makes_too_early_waits_for_its_time() -> None:
    loop = asyncio.get_running_loop()
    clock = LoopClock(loop)
    called = loop.create_future()
    due_s = loop.time() + 0.01
    # As a loop does whose clock is coarse.
    loop.call_soon(clock._run, due_s, lambda: called.set_result(clock.time()))
    assert await asyncio.wait_for(called, 5) >= due_s
