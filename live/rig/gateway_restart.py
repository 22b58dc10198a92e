"""A row of the table of drills: the gateway itself is stopped in good order under load, and started again.

`ollamamax serve` runs as a process of its own in front of the nodes of the scenario `quiet`, gets SIGTERM in the middle
of the load, and is started again on the same port as soon as it has ended. Nobody listens there meanwhile: who comes then
is refused at the door, as by any server that restarts, and counts as rejected. What the gateway had let in must end well.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from live.rig.cluster import NodeKind, RigCluster
from live.rig.ledger import Ledger
from live.rig.load import ClientView, Load
from live.rig.machine import pin_itself, usable_cores
from live.rig.processes import ManagedProcess, free_port, plain_environment
from twin.scenario.loader import load
from twin.scenario.schema import Scenario

RESTART_AT_S = 12.0
STOP_LIMIT_S = 60.0
"""Longer than any request here may take: what does not end by then is no orderly stop."""
START_LIMIT_S = 30.0
NOBODY_LISTENED = "ClientConnectorError"


def restart_once(file: Path, nodes: NodeKind, seed: int, preset: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """One run, as a line of the results. Raises `OperatorError`."""
    scenario = load(file, [f"seed={seed}", "replications=1", f"policy.preset={preset}", *changes]).for_live()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            views, down_s, up_s = runner.run(_run(scenario, nodes, seed))
    finally:
        if usable_cores():
            pin_itself(usable_cores())
    return line_of(views, down_s, up_s)


async def _run(scenario: Scenario, nodes: NodeKind, seed: int) -> tuple[list[ClientView], float, float]:
    """What the clients saw, when the gateway was told to stop, and when it listened again; on the load's clock."""
    async with RigCluster(scenario, nodes, lambda line: None) as cluster:
        if cluster.own_cores:
            pin_itself(cluster.own_cores)
        port, ledger = free_port(), Ledger()
        file = cluster.folder / "serve.yaml"
        file.write_text(json.dumps(_configuration(scenario, cluster.edges, port)), encoding="utf-8")
        gateway = ManagedProcess(
            "gateway",
            [sys.executable, "-m", "ollamamax", "serve", file],
            ledger=ledger,
            log=cluster.folder / "gateway.log",
            environment=plain_environment(),
            cores=cluster.own_cores,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            await gateway.start(f"{address}/-/healthz", START_LIMIT_S)
            clock = _clock()
            demand = Load(scenario, seed, address, clock)
            asking = asyncio.create_task(demand.run(lambda view: None))
            await asyncio.sleep(RESTART_AT_S)
            down_s = clock()
            await gateway.stop(STOP_LIMIT_S)
            await gateway.start(f"{address}/-/healthz", START_LIMIT_S)
            up_s = clock()
            await asking
        finally:
            await gateway.kill()
            ledger.close()
    return list(demand.views.values()), down_s, up_s


def _clock() -> Callable[[], float]:
    started_s = time.monotonic()
    return lambda: time.monotonic() - started_s


def _configuration(scenario: Scenario, edges: dict[str, str], port: int) -> dict[str, Any]:
    spec = scenario.cluster.spec()
    return {
        "nodes": edges,
        "listen": f"127.0.0.1:{port}",
        "models": {model.name: {"slots": model.slots, "replicas": model.replicas} for model in spec.models},
        "policy": {"preset": scenario.policy.preset},
        "shutdown_grace_s": STOP_LIMIT_S / 2,
    }


def line_of(views: Sequence[ClientView], down_s: float, up_s: float) -> dict[str, Any]:
    """The figures that the table has. Rejected: who found nobody listening, or was told to come again."""
    rejected = [
        it
        for it in views
        if it.outcome == "rejected" or (it.outcome == "failed" and it.error.startswith(NOBODY_LISTENED))
    ]
    turned_away = {id(it) for it in rejected}
    admitted = [it for it in views if id(it) not in turned_away]
    lost = [it for it in admitted if it.outcome not in ("succeeded", "cancelled")]
    within: list[float] = []
    outside: list[float] = []
    for it in admitted:
        if it.outcome == "succeeded":
            (within if down_s <= it.end_s and it.sent_s <= up_s else outside).append(it.end_s - it.sent_s)
    everybody = within + outside
    return {
        "offered": len(views),
        "admitted": len(admitted),
        "rejected": len(rejected),
        "lost": len(lost),
        "failed_attempts": None,  # the gateway that would tell was stopped
        "ttd_s": None,
        "ttm_s": max((it.end_s for it in rejected), default=down_s) - down_s,
        "attempts_per_request": None,
        "mean_s": statistics.fmean(everybody) if everybody else None,
        "p95_quiet_s": float(np.percentile(outside, 95)) if outside else None,
        "p95_fault_s": float(np.percentile(within, 95)) if within else None,
        "missed": ["requests_lost"] if lost else [],
        "unobserved": [] if within else ["requests_lost"],
        "broken_invariants": ["admitted_request_ends_once"] if any(it.terminal_records > 1 for it in views) else [],
    }
