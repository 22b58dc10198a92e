"""How long the answer to a question takes that a controller asks before it disturbs a node, beside the second that it has.

    python -m live.controller.look_ahead_bench            # 15 nodes, 7 requests a second, ten minutes ahead
    python -m live.controller.look_ahead_bench --nodes 50 --json

A policy is put under load, its clock turned by hand, until it knows its nodes. Then it is asked, as in `ollamamax serve`:
by the same object, with the same worker process. `processor_s` is the processor time of an answer, whoever else wants the
processor; `prepared_ms` is what a question costs the loop that relays requests. The last rows show what must be said where
there is no answer: a controller without a calibration, and too little time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from typing import Any

from live.controller.look_ahead import LookAhead
from live.controller.recent_load import RecentLoad
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import AttemptEnded, ClusterSpec, ModelSpec, NodeSpec, Question, RequestSpec

OPTIONS = ("restart", "rest", "nothing")
PROFILE: dict[str, Any] = {
    "profile": 1,
    "hardware": {"decode_ms": [20, 25, 30, 35], "prefill_tokens_per_s": 3000, "vram_gib": 24, "load_gib_per_s": 2},
    "cluster": {"restart_s": 3.0},
}
PROMPT_TOKENS, ANSWER_TOKENS, ANSWER_S = 200, 150, 4.0
MODEL = "llama3.1:8b"


class Cluster:
    """A policy that has seen `requests` end well, and the load that it saw."""

    def __init__(self, nodes: int, rate_rps: float, requests: int = 2000) -> None:
        names = tuple(f"gpu-{place}" for place in range(nodes))
        self.spec = ClusterSpec(
            tuple(NodeSpec(name, 24.0) for name in names),
            (ModelSpec(MODEL, 6.0, nodes, 4),),
            {name: (MODEL,) for name in names},
        )
        self.parameters = preset("default", {"healer.look_ahead": True})
        self.policy = ClusterPolicy(self.spec, self.parameters)
        self.load = RecentLoad()
        self.now = 0.0
        running: list[tuple[float, int, str]] = []
        for number in range(requests):
            self.now = number / rate_rps
            while running and running[0][0] <= self.now:
                self._end(*running.pop(0))
            spec = RequestSpec(number, MODEL, PROMPT_TOKENS, True, self.now, self.now + 60.0)
            self.load.arrived(self.now, spec)
            route = self.policy.route(self.now, spec, 0)
            if route.kind == "dispatch":
                running.append((self.now + ANSWER_S, number, route.node))
            self.policy.decide(self.now)
        self.policy.decide(self.now)

    def _end(self, ended_s: float, number: int, node: str) -> None:
        started_s = ended_s - ANSWER_S
        ended = AttemptEnded(
            number, 0, node, MODEL, "succeeded", "", started_s, started_s + 0.1, ANSWER_TOKENS,
            eval_duration_s=ANSWER_S - 0.1, prompt_eval_count=PROMPT_TOKENS,
        )  # fmt: skip
        self.policy.observe(ended_s, ended)
        self.load.observed(ended)


async def measure(nodes: int, rate_rps: float, questions: int, horizon_s: float, limit_s: float) -> dict[str, Any]:
    """Ask so many questions, one after the other; what came of them."""
    cluster = Cluster(nodes, rate_rps)
    settings = dict(cluster.parameters.values())

    def looking(profile: dict[str, Any] | None) -> LookAhead:
        began_s = time.monotonic()
        clock = lambda: cluster.now + time.monotonic() - began_s  # noqa: E731
        it = LookAhead(profile, cluster.spec, settings, cluster.policy.snapshot, clock, cluster.load)
        it.start()
        return it

    async def ask(it: LookAhead, number: int, within_s: float) -> tuple[str, str, float]:
        await it.settled()
        question = Question(number, f"gpu-{number % nodes}", OPTIONS, horizon_s, it.now() + within_s)
        began_s = time.perf_counter()
        advice = await it.answer(question)
        return advice.status, advice.detail, time.perf_counter() - began_s

    it = looking(PROFILE)
    try:
        await it.ready()
        status, detail, first_s = await ask(it, 0, 600.0)
        if status != "done":
            raise RuntimeError(f"the first question was not answered: {status}, {detail}")
        began_s = time.perf_counter()
        workload = cluster.load.workload()
        assert workload is not None
        tasks = [it.task_of(Question(0, "gpu-0", OPTIONS, horizon_s, 1.0), workload, 600.0) for _ in range(5)]
        prepared_s = (time.perf_counter() - began_s) / 5
        processor_s = [float((await it.simulate(task))["processor_s"]) for task in tasks]
        answers = [await ask(it, number, limit_s) for number in range(1, questions + 1)]
        hurried = await ask(it, questions + 1, 0.15)
    finally:
        await it.stop()
    uncalibrated = await ask(looking(None), 1, limit_s)
    took_s = sorted(seconds for _, _, seconds in answers)
    done = sum(status == "done" for status, _, _ in answers)
    return {
        "nodes": nodes,
        "rate_rps": rate_rps,
        "horizon_s": horizon_s,
        "options": list(OPTIONS),
        "limit_s": limit_s,
        "cores": os.cpu_count(),
        "compiled": _is_compiled(),
        "questions": questions,
        "in_time": done,
        "processor_s": round(statistics.median(processor_s), 3),
        "median_s": round(statistics.median(took_s), 3),
        "longest_s": round(took_s[-1], 3),
        "first_s": round(first_s, 3),
        "prepared_ms": round(1000.0 * prepared_s, 2),
        "others": sorted({f"{status}: {detail}" for status, detail, _ in answers if status != "done"}),
        "with_0.15_s": f"{hurried[0]}: {hurried[1]}",
        "without_a_calibration": f"{uncalibrated[0]}: {uncalibrated[1]}",
    }


def _is_compiled() -> bool:
    import twin.policy.router  # noqa: PLC0415

    return not str(twin.policy.router.__file__).endswith(".py")


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description="How long looking ahead takes in a running controller.")
    parser.add_argument("--nodes", type=int, default=15)
    parser.add_argument("--rate-rps", type=float, default=7.0)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--horizon-s", type=float, default=600.0)
    parser.add_argument("--limit-s", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = asyncio.run(measure(given.nodes, given.rate_rps, given.questions, given.horizon_s, given.limit_s))
    if given.json:
        json.dump(found, sys.stdout, indent=1)
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:22} {value}\n")


if __name__ == "__main__":
    main()
