"""What clients have loaded with a num_ctx of theirs stays loaded while they are silent, here as in the live world."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.worlds import simulate
from twin.scenario.schema import Scenario


def scenario(contexts: dict[int, float], context_tokens: int = 4096) -> Scenario:
    """Requests that come far apart, with probes of the idle nodes in between."""
    return Scenario.model_validate(
        {
            "schema": 1,
            "name": "contexts",
            "claim": "Probes load nothing anew.",
            "cluster": {
                "nodes": 2,
                "models": {"llama3.1:8b": {"replicas": 2}},
                "slots_per_model": 2,
                "context_tokens": context_tokens,
            },
            "workload": {
                "duration_s": 600,
                "arrivals": {"kind": "poisson", "rate_rps": 0.05},
                "prompt_tokens": {"kind": "constant", "mean": 100},
                "output_tokens": {"kind": "constant", "mean": 50},
                "context_tokens": contexts,
            },
            "expect": {},
        }
    )


def loads(it: Scenario) -> tuple[int, int]:
    """How many requests found the model not as they wanted it, and how many there were."""
    _, record = simulate(it)
    rows: list[dict[str, Any]] = record.table("requests").to_pylist()
    assert {row["outcome"] for row in rows} == {"succeeded"}
    assert record.table("incidents").num_rows == 0
    return sum((row["load_duration_s"] or 0.0) > 0.5 for row in rows), len(rows)


@pytest.mark.parametrize("context_tokens", [8192, 2048])
def test_each_node_loads_a_model_once_for_the_num_ctx_of_its_clients(context_tokens: int) -> None:
    anew, requests = loads(scenario({context_tokens: 1.0}))
    assert (anew, requests > 15) == (2, True)


def test_who_says_what_a_node_takes_anyway_has_nothing_loaded() -> None:
    assert loads(scenario({4096: 0.5, 0: 0.5}))[0] == 0
