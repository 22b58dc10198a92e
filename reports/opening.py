"""How long a run takes to open: its figures, its charts, its page; afresh, and from the cache."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from reports.charts import timeline
from twin.errors import OperatorError
from twin.record.cached import is_known, told
from twin.record.reader import RunUnreadable, open_run
from twin.record.story import tell

AIM_S = 2.0
BUSY = 1.3  # times as long as its work: others had the processor, or the disk was slow
T = TypeVar("T")


def opening_times(folder: Path) -> dict[str, Any]:
    """Seconds on the wall clock to open the run in this folder. Raises `OperatorError` where it cannot be read.

    `afresh_s` computes all that a page shows from the Parquet files; `processor_s` is the processor time of that, of all
    cores (the two differ on a busy machine); `again_s` takes it from the cache, by the folder's digest; `charts_s` and
    `charts_processor_s` are for the charts, which both have to make. `was_cached`: whether the cache knew the run before,
    as it does from the moment in which `run` has written its page. `reached`: afresh and with its charts it opens within
    `aim_s`.
    """
    try:
        record, open_s = _timed(lambda: open_run(folder))
        busy_s = time.process_time()
        story, compute_s = _timed(lambda: tell(record))
        busy_s = time.process_time() - busy_s
        was_cached = is_known(record)
        told(record)
        _, cached_s = _timed(lambda: told(open_run(folder)))
    except RunUnreadable as error:
        raise OperatorError(str(error)) from error
    charts_busy_s = time.process_time()
    _, charts_s = _timed(lambda: [drawing.spec() for drawing in timeline(story)])
    charts_busy_s = time.process_time() - charts_busy_s
    return {
        "run": str(folder),
        "requests": record.manifest["rows"]["requests"],
        "faults": record.manifest["rows"]["faults"],
        "afresh_s": round(open_s + compute_s, 3),
        "processor_s": round(busy_s, 3),
        "again_s": round(cached_s, 3),
        "charts_s": round(charts_s, 3),
        "charts_processor_s": round(charts_busy_s, 3),
        "was_cached": was_cached,
        "aim_s": AIM_S,
        "reached": open_s + compute_s + charts_s <= AIM_S,
    }


def print_opening(found: list[dict[str, Any]]) -> None:
    """The same for people: a few lines a run, whatever the width of the terminal."""
    for each in found:
        afresh_s, again_s = (each[name] + each["charts_s"] for name in ("afresh_s", "again_s"))
        worked_s = each["processor_s"] + each["charts_processor_s"]
        known = "knew it before" if each["was_cached"] else "did not know it before"
        busy = f"; the machine had more to do, the work itself is {worked_s:.2f} s of processor"
        lines = (
            f"{each['run']}: {each['requests']:,} requests, {each['faults']:,} faults",
            f"  from the Parquet files    {afresh_s:.2f} s: {each['afresh_s']:.2f} s to compute "
            f"({each['processor_s']:.2f} s of processor), {each['charts_s']:.2f} s to make the charts "
            f"({each['charts_processor_s']:.2f} s of processor)",
            f"  from the cache            {again_s:.2f} s: {each['again_s']:.2f} s to read, the charts as above; "
            f"the cache {known}",
            f"  aim, afresh with charts   {each['aim_s']:g} s: {'reached' if each['reached'] else 'missed'}"
            + (busy if afresh_s > BUSY * worked_s else ""),
        )
        sys.stdout.write("\n".join(lines) + "\n")


def _timed(do: Callable[[], T]) -> tuple[T, float]:
    began_s = time.perf_counter()
    done = do()
    return done, time.perf_counter() - began_s
