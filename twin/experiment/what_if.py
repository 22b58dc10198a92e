"""What if: candidates simulated ahead from a given state of the cluster, on the same arrivals and lengths.

Each candidate is a change of the policy's parameters, orders of an operator, a fault that might come, or all of these;
"nothing" is a candidate like any other. What differs between the outcomes is then the candidate alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from twin.experiment.world import manifest
from twin.learn.model_file import model_for
from twin.policy.cluster_policy import ClusterPolicy
from twin.record.figures import compute_figures
from twin.record.writer import Recorder
from twin.scenario.schema import Scenario
from twin.sim.present import ClusterNow
from twin.sim.simulation import Simulation


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing that might be done, or might happen."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)  # of the policy's parameters
    faults: tuple[dict[str, Any], ...] = ()  # as in a scenario; `at_s` counts from now
    orders: tuple[dict[str, Any], ...] = ()  # an operator's, likewise


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a candidate went: the figures of its run."""

    candidate: Candidate
    figures: dict[str, Any]


def look_ahead(
    scenario: Scenario, state: ClusterNow, candidates: Sequence[Candidate], horizon_s: float, seed: int
) -> list[Outcome]:
    """Simulate each candidate for `horizon_s` seconds from `state`, under the scenario's load and policy.

    The scenario's own faults do not count: what is broken now is in the state, what may break is in the candidates.
    Raises `pydantic.ValidationError` for a candidate that is not possible.
    """
    return [Outcome(candidate, _one(scenario, state, candidate, horizon_s, seed)) for candidate in candidates]


def _one(scenario: Scenario, state: ClusterNow, candidate: Candidate, horizon_s: float, seed: int) -> dict[str, Any]:
    document = scenario.model_dump(mode="python", by_alias=True, exclude_unset=True)
    document["workload"] |= {"warmup_s": 0.0, "duration_s": horizon_s}
    document["faults"] = list(candidate.faults)
    document["orders"] = list(candidate.orders)
    document.pop("fault_generators", None)
    document["record"] = {"journal": False, "telemetry_period_s": max(horizon_s, 1.0)}
    policy = document.get("policy") or {}
    document["policy"] = policy | {"overrides": (policy.get("overrides") or {}) | candidate.overrides}
    ahead = Scenario.model_validate(document)
    parameters = ahead.policy.parameters()
    recorder = Recorder(None)
    spec = ahead.cluster.spec()
    model = model_for(parameters)
    # The state is the first one's.
    policies = [ClusterPolicy(spec, parameters, model=model) for _ in ahead.cluster.gateway_names()]
    simulation = Simulation(ahead, seed, policies, recorder, parameters=parameters)
    simulation.start = state
    simulation.run()
    whole = manifest(ahead, seed, "twin") | {"simulated_s": simulation.engine.now, "events": simulation.engine.calls}
    return compute_figures(recorder.close(whole | {"wall_s": 0.0, "aborted": simulation.aborted}))
