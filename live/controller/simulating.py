"""A process of its own in which the controller has things simulated, so that no request waits for a simulation."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import structlog

_log = structlog.get_logger()


class SimulatingProcess:
    """One worker. Own it, `start` it, `stop` it. What it is given and what it answers is plain data."""

    def __init__(self, name: str, warm_up: Callable[[], None], *, niceness: int = 0) -> None:
        """`warm_up`: has it import what it needs before it is asked. `niceness`: above 0 it gives way to all else."""
        self._name = name
        self._warm_up = warm_up
        self._niceness = niceness
        self._pool: ProcessPoolExecutor | None = None
        self._warming: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started."""
        return self._pool is not None

    def start(self) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _give_way, (self._niceness,))
        self._warming = asyncio.get_running_loop().run_in_executor(self._pool, self._warm_up)
        self._warming.add_done_callback(self._has_warmed_up)

    async def warmed_up(self) -> None:
        """Wait until it has imported what it needs."""
        if self._warming is not None:
            await asyncio.wait([self._warming])

    async def stop(self) -> None:
        """End it, whatever it does."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list(getattr(pool, "_processes", {}).values()):
                process.terminate()
            await asyncio.to_thread(pool.shutdown, True, cancel_futures=True)

    async def restart(self) -> None:
        """Another in its place."""
        await self.stop()
        self.start()

    def submit(self, work: Callable[[dict[str, Any]], dict[str, Any]], task: dict[str, Any]) -> asyncio.Future[Any]:
        """Have it do that; the result to come. Raises `BrokenProcessPool` there where it has died."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, task)
        future.add_done_callback(_seen)  # what comes when nobody waits any more is no news
        return future

    def _has_warmed_up(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled() and future.exception() is not None:
            _log.warning("simulating_process_failed", name=self._name, error=repr(future.exception()))


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _give_way(niceness: int) -> None:
    if niceness:
        os.nice(niceness)
