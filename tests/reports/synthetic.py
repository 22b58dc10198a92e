"""A run as a world would record it, and the object that `run --json` prints for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.record.runs import NAN, READ, manifest
from twin.record.figures import compute_figures
from twin.record.reader import RunRecord, record_digest
from twin.record.writer import Recorder

CLAIM = "A crashed node costs no admitted <request>, and the cluster is whole again within 60 s."


def crash(folder: Path | None = None, nodes: int = 5, requests: int = 800, lost: int = 1, seed: int = 1) -> RunRecord:
    """node-3 crashes at 60 s of 200 s and is restarted; some requests are retried and `lost` of them lost."""
    draw = random.Random(seed)
    recorder = Recorder(folder)
    for index in range(requests):
        arrival_s = index * 200.0 / requests
        node = f"node-{index % nodes}"
        took_s = draw.expovariate(0.5) + 0.3
        hit = node == "node-3" and 58.0 < arrival_s < 62.0
        failed = hit and lost > 0
        lost -= failed
        if hit:
            recorder.attempts.add((index, 0, node, arrival_s, NAN, arrival_s + 0.4, "reset", 3))
        recorder.requests.add(
            (index, "llama3.1:8b", arrival_s, arrival_s + 60.0, True, 100, 50, True)
            + (("failed", "reset") if failed else ("succeeded", ""))
            + ("node-0" if hit and not failed else node, 2 if hit else 1, arrival_s, arrival_s + 0.2)
            + (arrival_s + took_s, 50, 0.0, 0.1, took_s - 0.2, took_s, 100, None if failed else "right", "gateway-0")
        )
    for step in range(40):
        for number in range(nodes):
            sick = number == 3 and 60 <= step * 5 < 70
            row = (step * 5.0, f"node-{number}", step % 7, step % 3, 1, "down" if sick else "serving", *READ)
            recorder.telemetry.add(row)
    recorder.faults.add((0, "server_crash", "node-3", 60.0, 120.0, 64.0, "action", "killed the server", "node-3"))
    recorder.incidents.add((0, "node-3", "server_down", "2 × refused", 60.5, "closed", 66.0, 76.0, 1, "gateway-0"))
    why = "the server is down: a restart is expected to save 12 requests"
    recorder.actions.add((1, 60.75, "restart", "node-3", "", why, 12.0, 70.0, "done", 64.0, "pid 5", "gateway-0"))
    recorder.probes.add((66.0, "node-3", "generation", "llama3.1:8b", True, 0.4, "", "gateway-0"))
    return recorder.close(manifest(simulated_s=200.0, seed=seed, version="0.1.0", machine={"cores": 2}))


def summary(records: list[RunRecord], **changes: Any) -> dict[str, Any]:
    """One run's object, or several replications' with means and intervals."""
    figures = compute_figures(records[0])
    shown = figures if len(records) == 1 else {name: _interval(value) for name, value in figures.items()}
    return {
        "scenario": "node-crash",
        "claim": CLAIM,
        "digest": "abc123",
        "seed": 1,
        "replications": len(records),
        "world": "twin",
        "verdict": "fail",
        "expectations": [
            {
                "name": "requests_lost",
                "limit": {"max": 0.0},
                "value": 1.0,
                "ci95": None if len(records) == 1 else [0.5, 1.5],
                "worst": 1.0,
                "observed": len(records),
                "kept": 0,
                "verdict": "fail",
            },
            {
                "name": "ttr_s",
                "limit": {"max": 60.0},
                "value": 6.0,
                "ci95": None,
                "worst": 6.0,
                "observed": 1,
                "kept": 1,
                "verdict": "pass",
            },
        ],
        "figures": {**shown, "record_digest": record_digest(records[0])},
        "invariants": {"admitted_request_ends_once": 0, "replica_floor": 0},
        "notes": [],
        "run_dirs": ["runs/seed-1"],
        **changes,
    }


def _interval(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _interval(part) for key, part in value.items()}
    return None if value is None else {"mean": value, "ci95": [value, value], "n": 2}
