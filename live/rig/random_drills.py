"""Drills at random: one after the other on four real nodes, for a bounded time, and a look for leaks after each.

    python -m live.rig.random_drills [--minutes 5] [--nodes real|emulated] [--seed N]

Each round draws faults, targets and times from its seed, runs for about a minute under load, and must lose nothing.
After it nothing of it may be left: no child process, no cgroup, no working folder; and no open socket or file more than
after the first round. Memory may not grow from round to round once the first rounds have warmed it up. Exit status 0, or
1 with what was wrong.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from live.rig.cluster import NodeKind
from live.rig.injection import check_possible
from live.rig.ledger import RIG_FOLDER, Ledger
from live.rig.live_world import LiveWorld
from live.rig.machine import cgroup_support
from twin.errors import OperatorError
from twin.experiment.run import run_scenario
from twin.scenario.schema import Scenario

MIB = 1 << 20
NODES = 4
MODEL = "llama3.1:8b"
ROUND_S = 60.0
"""Time under load in one round; start and end come on top."""
FAULTS_PER_ROUND = 3
WARM_ROUNDS = 2
GROWTH_LIMIT_MIB = 24.0
"""More than this over all rounds after the warm-up is a leak; what one round holds for its record is let go."""

KINDS: dict[str, dict[str, Any]] = {
    "server_crash": {"duration_s": 15},
    "runner_crash": {},
    "runner_crash_loop": {"period_s": 1.0, "duration_s": 10},
    "runner_hang": {"duration_s": 20},
    "partition": {"duration_s": 8},
    "slow_network": {"latency_ms": 500, "duration_s": 10},
}
"""What is drawn from: every kind that a machine can really do without root, and that leaves its node to be healed."""


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds of the system."""

    children: int
    sockets: int
    files: int
    memory_mib: float
    folders: tuple[str, ...]
    cgroups: tuple[str, ...]

    def left_since(self, before: Held) -> list[str]:
        """What is there now and was not before, in words. Memory is looked at over many rounds."""
        left = []
        for name in ("children", "sockets", "files"):
            more = getattr(self, name) - getattr(before, name)
            if more > 0:
                left.append(f"{more} {name}")
        left += [f"folder {name}" for name in self.folders if name not in before.folders]
        left += [f"cgroup {name}" for name in self.cgroups if name not in before.cgroups]
        return left


def held() -> Held:
    """What it holds now."""
    gc.collect()
    process = psutil.Process()
    folders = tuple(str(path) for path in Path(tempfile.gettempdir()).glob(f"{RIG_FOLDER}{process.pid}-*"))
    parents = set(cgroup_support().parents.values())
    cgroups = tuple(str(path) for parent in parents for path in parent.glob(f"*{process.pid}-*"))
    sockets = len(process.net_connections("all"))
    files = process.num_fds() - sockets
    memory_mib = process.memory_info().rss / MIB
    return Held(len(process.children(recursive=True)), sockets, files, memory_mib, folders, cgroups)


def scenario_of(seed: int, nodes: NodeKind, load_s: float = ROUND_S) -> Scenario:
    """A round's scenario: its faults one after the other with time to heal between them, drawn from the seed."""
    random = np.random.default_rng(seed)
    every_s = load_s / FAULTS_PER_ROUND
    faults = []
    for count in range(FAULTS_PER_ROUND):
        kind = str(random.choice(list(KINDS)))
        at_s = 5.0 + every_s * count + float(random.uniform(0.0, every_s / 4.0))
        target = f"node-{int(random.integers(NODES))}"
        faults.append({"kind": kind, "at_s": round(at_s, 3), "target": target, **KINDS[kind]})
    document = {
        "schema": 1,
        "name": "random-drill",
        "claim": "Whatever breaks, no admitted request is lost.",
        "cluster": {"nodes": NODES, "models": {MODEL: {"replicas": NODES}}, "slots_per_model": 4},
        "workload": {
            "arrivals": {"kind": "poisson", "rate_rps": 4.0},
            "prompt_tokens": {"kind": "lognormal", "mean": 40, "cv": 1.0},
            "output_tokens": {"kind": "lognormal", "mean": 80, "cv": 0.8},
            "streaming": 0.7,
            "deadline_s": 60,
            "warmup_s": 2,
            "duration_s": load_s,
        },
        "policy": {"preset": "default"},
        "faults": faults,
        "expect": {"requests_lost": {"max": 0}},
        "seed": seed,
    }
    scenario = Scenario.model_validate(document)
    check_possible(scenario, nodes)
    return scenario


@dataclass(slots=True)
class Outcome:
    """What the rounds showed."""

    rounds: int = 0
    offered: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)

    def growth_mib(self) -> float | None:
        """Growth of memory from the end of the warm-up to the end; None with too few rounds to tell."""
        after = self.memory_mib[WARM_ROUNDS:]
        return after[-1] - after[0] if len(after) > 1 else None


def run_rounds(minutes: float, nodes: NodeKind, seed: int, *, load_s: float = ROUND_S) -> Outcome:
    """Rounds until the time is over; at least one. Prints a line for each."""
    outcome = Outcome()
    until_s = time.monotonic() + 60.0 * minutes
    before = held()
    while outcome.rounds == 0 or time.monotonic() < until_s:
        scenario = scenario_of(seed + outcome.rounds, nodes, load_s)
        with tempfile.TemporaryDirectory(prefix="ollamamax-drills-") as folder:
            summary = run_scenario(LiveWorld(nodes), scenario, Path(folder), lambda line: None).summary
        if not summary["replications"]:
            raise KeyboardInterrupt
        outcome.rounds += 1
        figures = summary["figures"]
        outcome.offered += figures["requests_offered"]
        outcome.lost += figures["requests_lost"]
        now = held()
        if outcome.rounds == 1:
            # Libraries open files of their own at their first use, and keep them.
            before = replace(before, files=now.files, sockets=max(before.sockets, now.sockets))
        outcome.memory_mib.append(now.memory_mib)
        wrong = [f"{count} times {name} broken" for name, count in summary["invariants"].items() if count]
        wrong += [f"left behind: {what}" for what in now.left_since(before)]
        if figures["requests_lost"]:
            wrong.append(f"{figures['requests_lost']} requests lost")
        outcome.problems += [f"round {outcome.rounds} (seed {scenario.seed}): {what}" for what in wrong]
        broken = ", ".join(f"{fault.about.kind} at {fault.target}" for fault in scenario.faults)
        print(  # noqa: T201
            f"round {outcome.rounds}: {broken}; {figures['requests_offered']} requests, {figures['requests_lost']} lost, "
            f"{now.memory_mib:.0f} MiB; {'; '.join(wrong) or 'nothing left behind'}",
            flush=True,
        )
    growth_mib = outcome.growth_mib()
    if growth_mib is not None and growth_mib > GROWTH_LIMIT_MIB:
        outcome.problems.append(f"memory grew by {growth_mib:.0f} MiB from round {WARM_ROUNDS + 1} to {outcome.rounds}")
    return outcome


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Drills at random, for a bounded time, with a look for leaks.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--nodes", choices=("real", "emulated"), default="real")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    try:
        Ledger().close()  # what cannot be written is said before the first round
        outcome = run_rounds(given.minutes, given.nodes, given.seed)
    except KeyboardInterrupt:
        print("ollamamax: interrupted; everything has been put back", file=sys.stderr)  # noqa: T201
        return 130
    except OperatorError as error:
        print(f"ollamamax: {error}", file=sys.stderr)  # noqa: T201
        return 2
    growth_mib = outcome.growth_mib()
    grown = (
        "too few rounds to tell whether memory grows" if growth_mib is None else f"memory grew by {growth_mib:.1f} MiB"
    )
    print(f"{outcome.rounds} rounds, {outcome.offered} requests, {outcome.lost} lost; {grown}")  # noqa: T201
    for problem in outcome.problems:
        print(f"ollamamax: {problem}", file=sys.stderr)  # noqa: T201
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
