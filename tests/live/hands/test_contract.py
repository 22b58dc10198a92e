"""What holds for every kind of hand, on a node of its kind that works, refuses, hangs or is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from live.hands.protocol import HandError, HandResult
from tests.live.gateway.doubles import until
from tests.live.hands.benches import BENCHES, REFUSAL, Bench, action
from twin.policy.vocabulary import Action


@pytest.fixture(params=BENCHES, ids=[name.replace(" ", "-") for name in BENCHES])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with BENCHES[request.param](tmp_path) as bench:
        yield bench


async def what_came_of_it(bench: Bench) -> HandResult:
    """The result as the controller sees it: an error that a hand may raise counts as failed."""
    try:
        async with asyncio.timeout(15):
            return await bench.hands.perform(bench.order)
    except HandError as error:
        return HandResult("failed", str(error))


async def test_what_works_is_really_done_once_and_said_to_be(bench: Bench) -> None:
    assert bench.done() == 0
    result = await what_came_of_it(bench)
    assert result.status == "done", result.detail
    assert bench.done() == 1


async def test_it_can_be_done_again(bench: Bench) -> None:
    await what_came_of_it(bench)
    assert (await what_came_of_it(bench)).status == "done"
    assert bench.done() == 2


async def test_a_refusal_is_a_failure_in_the_words_of_who_refused(bench: Bench) -> None:
    await bench.set("refuses")
    result = await what_came_of_it(bench)
    assert result.status == "failed"
    assert REFUSAL in result.detail
    assert "\n" not in result.detail


async def test_what_is_gone_is_a_failure_in_one_line(bench: Bench) -> None:
    await bench.set("is gone")
    result = await what_came_of_it(bench)
    assert result.status == "failed"
    assert result.detail
    assert "\n" not in result.detail


async def test_what_is_late_can_be_cancelled_and_leaves_nothing_running(bench: Bench) -> None:
    await bench.set("hangs")
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    performing = asyncio.create_task(bench.hands.perform(bench.order))
    await asyncio.sleep(0.15)
    assert not performing.done()
    performing.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await performing

    def left() -> set[int]:
        alive = [child for child in psutil.Process(os.getpid()).children(recursive=True) if child.pid not in before]
        return {child.pid for child in alive if child.status() != psutil.STATUS_ZOMBIE}

    await until(lambda: not left(), 5.0)


@pytest.mark.parametrize("order", [action("drain"), action("return")], ids=lambda order: order.kind)
async def test_what_a_hand_cannot_do_it_says(bench: Bench, order: Action) -> None:
    bench.order = order
    result = await what_came_of_it(bench)
    assert result.status == "failed"
    assert order.kind in result.detail
    assert bench.done() == 0


async def test_a_node_that_it_does_not_know_is_a_failure_too(bench: Bench) -> None:
    bench.order = dataclasses.replace(bench.order, node="stranger")
    result = await what_came_of_it(bench)
    assert result.status == "failed"
    assert "stranger" in result.detail
    assert bench.done() == 0
