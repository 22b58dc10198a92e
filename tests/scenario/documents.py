"""A small scenario as a document, to be spoilt by tests."""

from __future__ import annotations

from typing import Any

from twin.scenario.schema import Scenario


def document(**changes: Any) -> dict[str, Any]:
    """Two nodes, one model, constant load; keys may be dotted with double underscores: `workload__deadline_s`."""
    base: dict[str, Any] = {
        "schema": 1,
        "name": "small",
        "claim": "It works.",
        "cluster": {"nodes": 2, "models": {"llama3.1:8b": {"replicas": 2}}, "slots_per_model": 2},
        "workload": {
            "arrivals": {"kind": "poisson", "rate_rps": 2.0},
            "prompt_tokens": {"kind": "constant", "mean": 100},
            "output_tokens": {"kind": "exponential", "mean": 80},
            "deadline_s": 30,
            "warmup_s": 0,
            "duration_s": 40,
        },
    }
    for key, value in changes.items():
        at, *rest = base, *key.split("__")
        for step in rest[:-1]:
            at = at[step]
        at[rest[-1]] = value
    return base


def scenario(**changes: Any) -> Scenario:
    """The same, validated."""
    return Scenario.model_validate(document(**changes))
