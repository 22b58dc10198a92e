"""F01: the runner dies while it loads."""

from __future__ import annotations

from tests.sim.worlds import simulate
from twin.scenario.schema import Scenario

SCENARIO = {
    "schema": 1,
    "name": "load-failure",
    "claim": "A model that cannot be loaded on one node is loaded on another.",
    "cluster": {
        "nodes": 1,
        "load_cv": 0,
        "hardware": {"decode_ms": [10], "prefill_tokens_per_s": None, "vram_gib": 12, "load_gib_per_s": 1.0},
        "models": {
            "hot": {"replicas": 1, "size_gib": 4, "kv_mib_per_1k_tokens": 0},
            "cold": {"replicas": 0, "size_gib": 4, "kv_mib_per_1k_tokens": 0},
        },
    },
    "workload": {
        "arrivals": {"kind": "constant", "rate_rps": 1.0},
        "prompt_tokens": {"kind": "constant", "mean": 10},
        "output_tokens": {"kind": "constant", "mean": 10},
        "models": {"hot": 0.5, "cold": 0.5},
        "duration_s": 60,
        "warmup_s": 0,
    },
    "policy": {"preset": "none"},
    "faults": [{"kind": "load_failure", "at_s": 0, "target": "node-0"}],
}


def test_what_is_loaded_goes_on_and_what_is_not_fails_with_a_status_after_half_a_load() -> None:
    _, record = simulate(Scenario.model_validate(SCENARIO))
    rows = record.table("requests").to_pylist()
    hot = [row for row in rows if row["model"] == "hot"]
    cold = [row for row in rows if row["model"] == "cold"]
    assert {row["outcome"] for row in hot} == {"succeeded"}
    assert {(row["outcome"], row["error"]) for row in cold} == {("failed", "server_error: all 1 attempts failed")}
    assert min(row["end_s"] - row["arrival_s"] for row in cold) > (0.3 + 4.0) / 2 - 1e-6
