"""`python -m live.gateway.bench`: the cost of the gateway and of other proxies, interleaved in one run, as medians."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from live.compiled import GATEWAY
from live.gateway.bench.client import BenchConnection, BenchError, connect, request_bytes
from live.gateway.bench.proxies import KINDS, Running, StartFailed, free_port, start

SEQUENTIAL_REQUESTS = 400
STREAMS, RECORDS, PERIOD_MS = 50, 40, 20.0
MANY_STREAMS, MANY_RECORDS, MANY_PERIOD_MS = 500, 60, 50.0
MANY_START_MS = 1000.0
"""They begin over this time: what is asked is what streams do to each other, not what a burst of arrivals does."""
WARM_UP_REQUESTS = 200


class Figures:
    """What was measured of one target, a value for each round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.p50_ms: list[float] = []
        self.request_us: list[float] = []
        self.record_us: list[float] = []
        self.stall_p99_ms: list[float] = []
        self.many_core_share: list[float] = []


async def sequential(target: Running, figures: Figures) -> None:
    """One client, one request after the other, one record each."""
    connection = await connect(target.port)
    request = request_bytes(target.port, 0, 0)
    before_s = target.processor_s()
    took_s = [await connection.ask(request) for _ in range(SEQUENTIAL_REQUESTS)]
    used_s = target.processor_s() - before_s
    connection.close()
    figures.p50_ms.append(statistics.median(took_s) * 1000)
    figures.request_us.append(used_s / SEQUENTIAL_REQUESTS * 1e6)


async def streams(target: Running, figures: Figures) -> None:
    """Some streams at once: what one record more costs."""
    connections = [await connect(target.port) for _ in range(STREAMS)]
    used_s = []
    for records in (1, RECORDS + 1):
        before_s = target.processor_s()
        request = request_bytes(target.port, records, PERIOD_MS)
        await asyncio.gather(
            *(_late(index, STREAMS, PERIOD_MS, each, request) for index, each in enumerate(connections))
        )
        used_s.append(target.processor_s() - before_s)
    for connection in connections:
        connection.close()
    figures.record_us.append((used_s[1] - used_s[0]) / (STREAMS * RECORDS) * 1e6)


async def many(target: Running, figures: Figures) -> None:
    """Many streams at once: how late their records come."""
    connections = [await connect(target.port) for _ in range(MANY_STREAMS)]
    request = request_bytes(target.port, MANY_RECORDS, MANY_PERIOD_MS)
    before_s, loop = target.processor_s(), asyncio.get_running_loop()
    started_s = loop.time()
    await asyncio.gather(
        *(_late(index, MANY_STREAMS, MANY_START_MS, each, request) for index, each in enumerate(connections))
    )
    figures.many_core_share.append((target.processor_s() - before_s) / (loop.time() - started_s))
    stalls_ms = [
        max(0.0, (later - earlier) * 1000 - MANY_PERIOD_MS)
        for connection in connections
        for earlier, later in zip(connection.came_s, connection.came_s[1:], strict=False)
    ]
    for connection in connections:
        connection.close()
    figures.stall_p99_ms.append(statistics.quantiles(stalls_ms, n=100)[98])


async def _late(index: int, count: int, spread_ms: float, connection: BenchConnection, request: bytes) -> None:
    """The streams begin spread over a time, as those of people do."""
    await asyncio.sleep(index / count * spread_ms / 1000)
    await connection.ask(request)


async def measure(targets: Sequence[Running], rounds: int) -> list[Figures]:
    """All measurements of all targets, `rounds` times, each round beginning with another target."""
    figures = {target.name: Figures(target.name) for target in targets}
    for target in targets:
        connection = await connect(target.port)
        for _ in range(WARM_UP_REQUESTS):
            await connection.ask(request_bytes(target.port, 1, 0))
        connection.close()
    for measurement in (sequential, streams, many):
        for number in range(rounds):
            turn = number % len(targets)
            for target in (*targets[turn:], *targets[:turn]):
                await measurement(target, figures[target.name])
    return list(figures.values())


@contextlib.contextmanager
def running(console: Console) -> Iterator[list[Running]]:
    """The stub node, and in front of it whatever is on this machine."""
    cores = sorted(psutil.Process().cpu_affinity())
    own_core, proxy_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if own_core is not None:
        psutil.Process().cpu_affinity([own_core])
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ollamamax-bench-")))
        port = free_port()
        command = (sys.executable, "-m", "live.gateway.bench.stub", str(port))
        node = Running("direct", command, port, own_core, folder / "stub.log")
        stack.callback(node.stop)
        targets = [node]
        for kind in KINDS:
            proxy = start(kind, port, folder, proxy_core)
            if proxy is None:
                console.print(f"{kind.name}: not on this machine ({kind.how_to_get}); left out")
                continue
            stack.callback(proxy.stop)
            targets.append(proxy)
        yield targets


def summary(figures: Sequence[Figures]) -> list[dict[str, object]]:
    """For each target the median over the rounds of each figure, with its spread; what it adds is beside direct."""
    direct = figures[0]
    rows: list[dict[str, object]] = []
    for each in figures:
        added_ms = [own - base for own, base in zip(each.p50_ms, direct.p50_ms, strict=True)]
        stall_ms = [own - base for own, base in zip(each.stall_p99_ms, direct.stall_p99_ms, strict=True)]
        rows.append(
            {
                "target": each.name,
                "p50_ms": _spread(each.p50_ms),
                "added_p50_ms": _spread(added_ms),
                "processor_us_per_request": _spread(each.request_us),
                "processor_us_per_record": _spread(each.record_us),
                "stall_p99_ms": _spread(each.stall_p99_ms),
                "added_stall_p99_ms": _spread(stall_ms),
                "cores_at_many_streams": _spread(each.many_core_share),
            }
        )
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": len(values)}


def _cell(value: object) -> str:
    if not isinstance(value, dict) or not math.isfinite(value["median"]):
        return str(value)
    return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m live.gateway.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds takes 1 or more")
    console = Console(stderr=arguments.json)
    try:
        with running(console) as targets:
            rows = summary(uvloop.run(measure(targets, arguments.rounds)))
    except (StartFailed, BenchError) as error:
        print(f"ollamamax: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if arguments.json:
        print(json.dumps({"targets": rows, "compiled": GATEWAY.in_use()}))  # noqa: T201
        return 0
    table = Table(title=f"median of {arguments.rounds} rounds (lowest to highest); every proxy on one core")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=170).print(table)
    console.print(
        f"{SEQUENTIAL_REQUESTS} sequential requests of one record; {STREAMS} streams of {RECORDS} records;"
        f" {MANY_STREAMS} streams at {1000 / MANY_PERIOD_MS:g} records/s"
    )
    console.print("the gateway: " + ("compiled" if GATEWAY.in_use() else "interpreted; `make compiled` compiles it"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
