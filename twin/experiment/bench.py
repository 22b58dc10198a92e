"""How fast the simulator is, beside a plain event loop that does the least that such a queue needs, in the same run.

The machine is noisy, so the runs are interleaved, processor time is measured, and medians are given. What counts is
the ratio, and the number of events a request, which does not depend on the machine.
"""

from __future__ import annotations

import gc
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twin import compiled
from twin.experiment.twin_world import TwinWorld
from twin.experiment.what_if import Candidate, look_ahead
from twin.policy.cluster_policy import ClusterPolicy
from twin.record.figures import compute_figures
from twin.record.writer import Recorder
from twin.scenario.demand import Demand
from twin.scenario.schema import Scenario
from twin.sim.present import ClusterNow, present
from twin.sim.simulation import Simulation

REQUESTS_PER_NODE_S = 1.2
"""With the lengths below about 60 % of what a node can carry."""

CRASH_PERIOD_S = 100.0
SEED = 1
WHAT_IF_RATE_RPS = 7.0
WHAT_IF_STATE_AT_S = 60.0
AIMS = {
    "requests_per_processor_s": "at least 100,000",
    "times_plain_loop": "at most 6",
    "events_per_request": "at most 3.5",
    "cost_at_1000_nodes_to_15": "at most 1.5",
    "ten_what_ifs_s": "below 1",
    "cost_at_10_million_to_100_000": "at most 1.1",
    "a_day_of_15_nodes_at_7_rps_s": "below 15",
}
CHILD = """
import json, resource, sys, time
from twin.experiment.bench import _simulate
from twin.scenario.schema import Scenario
from twin.sim.present import ClusterNow, present
from twin.sim.simulation import Simulation
scenario = Scenario.model_validate(json.load(sys.stdin))
started_s = time.process_time()
count, _ = _simulate(scenario)
cost_us = (time.process_time() - started_s) / count * 1e6
print(json.dumps([cost_us, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


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


def measure(requests: int, repeats: int, *, long: bool = False) -> dict[str, Any]:
    """All figures: `rows` for a table, and the same by name. `long` adds the runs that take minutes."""
    small, large = bench_scenario(15, requests, journal=False), bench_scenario(1000, requests, journal=False)
    journaled = bench_scenario(15, requests, journal=True)
    longer = bench_scenario(15, 4 * requests, journal=False)
    timed: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    events: dict[str, int] = {}

    def run(name: str, work: Callable[[], tuple[int, int]]) -> None:
        gc.collect()
        started_s = time.process_time()
        counts[name], events[name] = work()
        timed.setdefault(name, []).append((time.process_time() - started_s) / counts[name] * 1e6)

    _simulate(bench_scenario(15, 2_000, journal=True))  # what is imported on first use is none of the figures
    for _ in range(repeats):
        run("plain loop", lambda: (plain_loop(small, SEED), 0))
        run("15 nodes", lambda: _simulate(small))
        run("1,000 nodes", lambda: _simulate(large))
        run("15 nodes, four times as long", lambda: _simulate(longer))
        run("15 nodes, journal on", lambda: _simulate(journaled))
    cost_us = {name: statistics.median(values) for name, values in timed.items()}
    rows: list[dict[str, Any]] = [
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
    figures = {
        "requests_per_processor_s": 1e6 / cost_us["15 nodes"],
        "requests_per_processor_s_with_journal": 1e6 / cost_us["15 nodes, journal on"],
        "times_plain_loop": cost_us["15 nodes"] / cost_us["plain loop"],
        "events_per_request": events["15 nodes"] / counts["15 nodes"],
        "cost_at_1000_nodes_to_15": cost_us["1,000 nodes"] / cost_us["15 nodes"],
        **_iteration_level(requests // 5),
        "ten_what_ifs_s": statistics.median(ten_what_ifs() for _ in range(repeats)),
    }
    if long:
        figures |= _long_runs()
    more = [
        {"figure": name.replace("_", " "), "value": float(f"{value:.4g}"), "aim": AIMS.get(name)}
        for name, value in figures.items()
    ]
    return {"rows": rows, "more": more, **figures, "repeats": repeats, "compiled": compiled.SIMULATOR.in_use()}


def _simulate(scenario: Scenario) -> tuple[int, int]:
    """Requests and events of one run with the default policy, faults and record on."""
    with tempfile.TemporaryDirectory(prefix="ollamamax-bench-") as folder:
        record = TwinWorld().run(scenario, SEED, Path(folder) / "run", lambda line: None)
    return record.manifest["rows"]["requests"], record.manifest["events"]


def _iteration_level(requests: int) -> dict[str, float]:
    """The fast mode against the iteration-level one, on the same load without faults: error of latencies, and cost."""
    found: dict[bool, tuple[dict[str, float], float]] = {}
    for iterations in (False, True):
        scenario = bench_scenario(15, requests, journal=False)
        cluster = scenario.cluster.model_copy(update={"iteration_level": iterations})
        scenario = scenario.model_copy(update={"cluster": cluster, "faults": []})
        started_s = time.process_time()
        record = TwinWorld().run(scenario, SEED, None, lambda line: None)
        took_s = time.process_time() - started_s
        found[iterations] = (compute_figures(record)["e2e_s"], took_s)
    (fast, fast_s), (slow, slow_s) = found[False], found[True]
    errors = {f"error_of_fast_mode_{name}": fast[name] / slow[name] - 1.0 for name in ("mean", "p50", "p95")}
    return {**errors, "times_faster_than_iteration_level": slow_s / fast_s}


def ten_what_ifs() -> float:
    """Processor seconds of ten what-ifs of ten minutes ahead, 15 nodes at 7 requests/s, from a state in mid-run."""
    scenario = bench_scenario(15, 1000, journal=False)
    arrivals_of_7 = scenario.workload.arrivals.model_copy(update={"rate_rps": WHAT_IF_RATE_RPS})
    workload = scenario.workload.model_copy(update={"arrivals": arrivals_of_7, "duration_s": WHAT_IF_STATE_AT_S + 1.0})
    scenario = scenario.model_copy(update={"workload": workload, "faults": []})
    parameters = scenario.policy.parameters()
    policy = ClusterPolicy(scenario.cluster.spec(), parameters)
    simulation = Simulation(scenario, SEED, [policy], Recorder(None), parameters=parameters)
    states: list[ClusterNow] = []
    simulation.engine.call_at(WHAT_IF_STATE_AT_S, lambda: states.append(present(simulation)))
    simulation.run()
    crashes = [
        Candidate(f"node-{place} crashes", faults=({"kind": "server_crash", "at_s": 5, "target": f"node-{place}"},))
        for place in range(9)
    ]
    started_s = time.process_time()
    look_ahead(scenario, states[0], [Candidate("nothing"), *crashes], 600.0, SEED)
    return time.process_time() - started_s


def _long_runs() -> dict[str, float]:
    """Ten million requests against a hundred thousand, each in a process of its own for its memory; and a whole day."""
    short_us, short_mib = _in_a_child(bench_scenario(15, 100_000, journal=False))
    million_us, million_mib = _in_a_child(bench_scenario(15, 10_000_000, journal=False))
    day = bench_scenario(15, round(86_400 * REQUESTS_PER_NODE_S * 15), journal=False)
    arrivals_of_7 = day.workload.arrivals.model_copy(update={"rate_rps": WHAT_IF_RATE_RPS})
    workload = day.workload.model_copy(update={"arrivals": arrivals_of_7})
    started_s = time.process_time()
    _simulate(day.model_copy(update={"workload": workload}))
    return {
        "cost_at_10_million_to_100_000": million_us / short_us,
        "peak_memory_mib_at_100_000": short_mib,
        "peak_memory_mib_at_10_million": million_mib,
        "a_day_of_15_nodes_at_7_rps_s": time.process_time() - started_s,
    }


def _in_a_child(scenario: Scenario) -> tuple[float, float]:
    """Microseconds a request, and peak memory in MiB, of one run in a process of its own."""
    text = json.dumps(scenario.model_dump(mode="json", by_alias=True))
    done = subprocess.run([sys.executable, "-c", CHILD], input=text, check=True, capture_output=True, text=True)
    cost_us, peak_mib = json.loads(done.stdout)
    return float(cost_us), float(peak_mib)
