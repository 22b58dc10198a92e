"""The engine of a Dask cluster: an operator's own scheduler, or a small one on this machine.

What Dask does for us: the task of a worker that dies is done again by another, and so is a result that was lost with it.
What it does not: a scheduler that dies takes all it knows with it. Then what was handed over is kept, and the rest is
done when the study is resumed.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from twin.errors import OperatorError
from twin.experiment.engines import EngineLost

T = TypeVar("T")
R = TypeVar("R")

CONNECT_S = 10.0
AHEAD_PER_THREAD = 4
"""Tasks that the scheduler knows of, for each thread of a worker: enough to keep all busy, so few that a study of any
size takes no memory there."""


class DaskEngine:
    """`scheduler`: its address (tcp://host:8786), or None for `jobs` workers on this machine, one for each core."""

    def __init__(self, scheduler: str | None = None, jobs: int | None = None) -> None:
        self.scheduler = scheduler
        self.jobs = jobs or os.cpu_count() or 1

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        """See `twin.experiment.engines.Engine`."""
        from multiprocessing import resource_tracker  # noqa: PLC0415

        import dask  # noqa: PLC0415  # dear to import
        from dask.distributed import Client, LocalCluster  # noqa: PLC0415

        quiet = {
            "distributed.comm.timeouts.connect": f"{CONNECT_S}s",
            "distributed.admin.system-monitor.gil.enabled": False,
        }
        with dask.config.set(quiet):
            if self.scheduler is not None:
                _quieten()
                try:
                    client = Client(self.scheduler, timeout=CONNECT_S)
                except (OSError, ValueError) as error:
                    raise OperatorError(
                        f"--scheduler {self.scheduler}: no Dask scheduler answers there; start one with `dask scheduler`, "
                        "and `dask worker` on each machine"
                    ) from error
                try:
                    yield from _work_off(client, work, tasks)
                finally:
                    client.close(timeout=CONNECT_S)
                return
            resource_tracker.ensure_running()  # whoever starts it lets SIGINT through again
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:  # what is started now inherits that: Ctrl-C, which reaches all processes of a terminal, is ours alone
                cluster = LocalCluster(
                    n_workers=self.jobs, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            with cluster, Client(cluster) as client:
                yield from _work_off(client, work, tasks)


def _work_off(client: Any, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """Hand tasks out a few ahead, and give their results on as they come."""
    from concurrent.futures import CancelledError  # noqa: PLC0415

    from dask.distributed import KilledWorker, as_completed  # noqa: PLC0415
    from distributed.comm import CommClosedError  # noqa: PLC0415  # an OSError, and no full disk

    study = uuid.uuid4().hex
    upcoming = iter(range(len(tasks)))

    def submit(place: int) -> Any:
        return client.submit(work, tasks[place], key=f"run-{study}-{place}", pure=False)

    ahead = AHEAD_PER_THREAD * max(1, sum(client.nthreads().values()))
    running = as_completed([submit(place) for place in itertools.islice(upcoming, ahead)])
    try:
        for future in running:
            result: R = future.result()
            for place in itertools.islice(upcoming, 1):
                running.add(submit(place))
            del future
            yield result
    except (CancelledError, CommClosedError) as error:
        raise EngineLost("the Dask scheduler is gone") from error
    except KilledWorker as error:
        raise EngineLost("a run ended several Dask workers one after another (too little memory?)") from error


def _quieten() -> None:
    """A scheduler that goes away is said in one line, not in the library's own."""
    for name in ("distributed.client", "distributed.core", "distributed.comm", "distributed.batched", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
