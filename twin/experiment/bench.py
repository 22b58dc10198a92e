"""How fast the simulator is, beside a plain event loop that does the least that such a queue needs, in the same run.

The machine is noisy, so the runs are interleaved, processor time is measured, and medians are given. What counts is
the ratio, and the number of events a request, which does not depend on the machine.
"""

from __future__ import annotations

import gc
import heapq
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twin.experiment.twin_world import TwinWorld
from twin.scenario.demand import Demand
from twin.scenario.schema import Scenario

REQUESTS_PER_NODE_S = 1.2
"""With the lengths below about 60 % of what a node can carry."""

CRASH_PERIOD_S = 100.0
SEED = 1


def bench_scenario(nodes: int, requests: int, *, journal: bool) -> Scenario:
    """`nodes` nodes under steady load with a crash every 100 s, long enough for about that many requests."""
    duration_s = max(requests / (REQUESTS_PER_NODE_S * nodes), 2.0)
    crashes = [
        {"kind": "server_crash", "at_s": at_s, "target": "random", "duration_s": 60.0}
        for at_s in _times(CRASH_PERIOD_S / 2, duration_s)
    ]
    return Scenario.model_validate(
        {
            "schema": 1,
            "name": "bench",
            "claim": "The simulator is fast.",
            "cluster": {
                "nodes": nodes,
                "hardware": "rtx-4090",
                "models": {"llama3.1:8b": {"replicas": nodes}},
                "slots_per_model": 4,
            },
            "workload": {
                "arrivals": {"kind": "poisson", "rate_rps": REQUESTS_PER_NODE_S * nodes},
                "prompt_tokens": {"kind": "lognormal", "mean": 200, "cv": 1.0},
                "output_tokens": {"kind": "lognormal", "mean": 200, "cv": 0.8},
                "warmup_s": 0,
                "duration_s": duration_s,
            },
            "faults": crashes,
            "record": {"journal": journal},
        }
    )


def _times(first_s: float, end_s: float) -> list[float]:
    times = []
    at_s = first_s
    while at_s < end_s:
        times.append(at_s)
        at_s += CRASH_PERIOD_S
    return times


def plain_loop(scenario: Scenario, seed: int) -> int:
    """The reference: the same arrivals and lengths, one queue before all slots, two heap events a request, no more.

    No policy, no faults, no record, no sharing of a GPU: each request takes its tokens times one step. How many
    requests there were.
    """
    hardware = scenario.cluster.hardware_of_nodes()[0]
    slots = len(scenario.cluster.node_names()) * scenario.cluster.slots_per_model
    step_s = hardware.decode_ms[min(scenario.cluster.slots_per_model, len(hardware.decode_ms)) - 1] / 1000.0
    prefill_s = 1.0 / (hardware.prefill_tokens_per_s or 1e12)
    source = Demand(scenario, seed).openings()
    heap: list[tuple[float, int, int]] = []
    queue: deque[float] = deque()
    free = slots
    done = sequence = 0
    upcoming = next(source, None)
    if upcoming is not None:
        heapq.heappush(heap, (upcoming.arrival_s, sequence, 1))
    while heap:
        now, _, is_arrival = heapq.heappop(heap)
        if is_arrival:
            assert upcoming is not None
            service_s = upcoming.prompt_tokens * prefill_s + upcoming.output_tokens * step_s
            if free:
                free -= 1
                sequence += 1
                heapq.heappush(heap, (now + service_s, sequence, 0))
            else:
                queue.append(service_s)
            upcoming = next(source, None)
            if upcoming is not None:
                sequence += 1
                heapq.heappush(heap, (upcoming.arrival_s, sequence, 1))
        else:
            done += 1
            if queue:
                sequence += 1
                heapq.heappush(heap, (now + queue.popleft(), sequence, 0))
            else:
                free += 1
    return done


def measure(requests: int, repeats: int) -> dict[str, Any]:
    """All figures: `rows` for a table, and the same by name."""
    small, large = bench_scenario(15, requests, journal=False), bench_scenario(1000, requests, journal=False)
    journaled = bench_scenario(15, requests, journal=True)
    long = bench_scenario(15, 4 * requests, journal=False)
    timed: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    events: dict[str, int] = {}

    def run(name: str, work: Callable[[], tuple[int, int]]) -> None:
        gc.collect()
        started_s = time.process_time()
        counts[name], events[name] = work()
        timed.setdefault(name, []).append((time.process_time() - started_s) / counts[name] * 1e6)

    for _ in range(repeats):
        run("plain loop", lambda: (plain_loop(small, SEED), 0))
        run("15 nodes", lambda: _simulate(small))
        run("1,000 nodes", lambda: _simulate(large))
        run("15 nodes, four times as long", lambda: _simulate(long))
        run("15 nodes, journal on", lambda: _simulate(journaled))
    cost_us = {name: statistics.median(values) for name, values in timed.items()}
    rows = [
        {
            "run": name,
            "requests": counts[name],
            "us a request": round(cost_us[name], 2),
            "requests a processor-second": round(1e6 / cost_us[name]),
            "times the plain loop": round(cost_us[name] / cost_us["plain loop"], 2),
            "times 15 nodes": round(cost_us[name] / cost_us["15 nodes"], 2),
            "events a request": round(events[name] / counts[name], 2) if events[name] else None,
        }
        for name in timed
    ]
    return {
        "rows": rows,
        "requests_per_processor_s": 1e6 / cost_us["15 nodes"],
        "times_plain_loop": cost_us["15 nodes"] / cost_us["plain loop"],
        "events_per_request": events["15 nodes"] / counts["15 nodes"],
        "cost_at_1000_nodes_to_15": cost_us["1,000 nodes"] / cost_us["15 nodes"],
        "repeats": repeats,
    }


def _simulate(scenario: Scenario) -> tuple[int, int]:
    """Requests and events of one run with the default policy, faults and record on."""
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        record = TwinWorld().run(scenario, SEED, Path(folder) / "run", lambda line: None)
    return record.manifest["rows"]["requests"], record.manifest["events"]
