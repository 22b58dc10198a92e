"""Where the replications of a study run: what every engine promises, and the engine of one machine.

An engine changes nothing of a result: a replication depends on its scenario and seed alone. Results come in any order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from twin.errors import OperatorError

T = TypeVar("T")
R = TypeVar("R")
Numbered: TypeAlias = tuple[int, Any]

DEATHS_IN_A_ROW_MAX = 3


class EngineLost(OperatorError):
    """What the work ran on is gone. What was finished was handed over; the rest can be done later."""


class Engine(Protocol):
    """Does many independent pieces of work."""

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """The result of `work` for each task, as it is finished, each once. Both must be picklable.

        An exception of `work` comes out here. Closing the iterator breaks the rest off. Raises `EngineLost`.
        """


class LocalEngine:
    """All cores of this machine (joblib with loky processes), or with one job this very process.

    Tasks are handed out two per process ahead, and results are not kept, so memory does not grow with their number. The
    work of a process that dies (the kernel ends what takes too much memory) is done again by another.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or os.cpu_count() or 1

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """See `Engine`."""
        if self.jobs == 1 or len(tasks) == 1:
            yield from map(work, tasks)
            return
        from joblib.externals.loky.process_executor import TerminatedWorkerError  # noqa: PLC0415

        left = set(range(len(tasks)))
        deaths = 0
        while left:
            try:
                for index, result in self._once(work, tasks, sorted(left)):
                    left.discard(index)
                    deaths = 0
                    yield result
            except TerminatedWorkerError as error:
                deaths += 1
                if deaths == DEATHS_IN_A_ROW_MAX:
                    raise EngineLost(
                        f"{deaths} times in a row a process of this machine was killed before it had finished anything "
                        "(too little memory?); give fewer --jobs"
                    ) from error

    def _once(self, work: Callable[[T], R], tasks: Sequence[T], places: list[int]) -> Iterator[tuple[int, R]]:
        from joblib import Parallel, delayed, parallel_config  # noqa: PLC0415

        with parallel_config(backend="loky", initializer=_leave_interrupts_to_the_parent):
            parallel = Parallel(
                n_jobs=min(self.jobs, len(places)),
                return_as="generator_unordered",
                pre_dispatch="2*n_jobs",
                batch_size=1,
            )
            results = parallel(delayed(_numbered)(work, place, tasks[place]) for place in places)
        try:
            for numbered in results:  # noqa: UP028  # `yield from` would close it itself, outside of what follows
                yield numbered
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that work which nobody waits for any more was broken off
                with contextlib.suppress(StopIteration):
                    results.close()


def _numbered(work: Callable[[T], R], place: int, task: T) -> tuple[int, R]:
    return place, work(task)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal; the parent's own interruption ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
