"""A policy that goes on from another's snapshot decides as that one would have."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from twin.learn.model_file import model_for
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import (
    Action,
    ActionResult,
    AttemptEnded,
    ClusterSpec,
    ModelSpec,
    NodeSpec,
    PolicyState,
    Probe,
    ProbeResult,
    RequestSpec,
    TelemetrySample,
)

NODES = ("a", "b", "c", "d")
CLUSTER = ClusterSpec(
    tuple(NodeSpec(name, 24.0) for name in NODES), (ModelSpec("m", 6.0, 3, 4),), {name: ("m",) for name in "abc"}
)
LEAKS_FROM_S, LEAK_GIB_PER_S = 400.0, 0.03


class Ward:
    """A policy in a small world of its own: all nodes answer, and the GPU memory of b fills up."""

    def __init__(self, began_s: float = 0.0) -> None:
        parameters = preset("default", {"performance_tracking.window_s": 120.0})
        self.policy = ClusterPolicy(CLUSTER, parameters, model=model_for(parameters))
        self.began_s = began_s
        self.did: list[tuple[float, str, str, str]] = []
        self.request_id = 0
        self.fails: set[str] = set()
        self.leaked_until_s: dict[str, float] = {}

    def go(self, start_s: float, end_s: float) -> None:
        """Half a second a step; by the world's clock, whatever this policy's says."""
        for step in range(round((end_s - start_s) * 2.0)):
            self._step(start_s + step / 2.0)

    def _step(self, world_s: float) -> None:
        now = world_s - self.began_s
        if world_s % 2.0 == 0.0:
            self._request(now)
        if world_s % 5.0 == 0.0:
            for name in NODES:
                self.policy.observe(now, TelemetrySample(name, self._read(name, world_s)))
        for command in self.policy.decide(now):
            if isinstance(command, Probe):
                models = tuple(self._loaded(command.node)) if command.kind == "residency" else ()
                ok = command.node not in self.fails
                error = "" if ok else "refused"
                result = ProbeResult(
                    command.probe_id,
                    command.node,
                    command.kind,
                    command.model,
                    ok,
                    0.01,
                    error,
                    models,  # type: ignore[arg-type]
                )
                self.policy.observe(now, result)
            elif isinstance(command, Action):
                self.did.append((world_s, command.kind, command.node, command.model))
                if command.kind == "restart":
                    self.leaked_until_s[command.node] = world_s
                    self.fails.discard(command.node)
                self.policy.observe(now, ActionResult(command.action_id, command.node, command.kind, "done"))

    def _loaded(self, name: str) -> list[str]:
        return [model for model, it in self.policy.view.nodes[name].replicas.items() if it.resident]

    def _request(self, now: float) -> None:
        self.request_id += 1
        request = RequestSpec(self.request_id, "m", 100, True, now, now + 60.0)
        route = self.policy.route(now, request, 0)
        if route.kind == "dispatch":
            ended = AttemptEnded(
                self.request_id, 0, route.node, "m", "succeeded", "", now, now + 0.1, 50, 0.0, 0.1, 1.0, 1.1, 100
            )
            self.policy.observe(now, ended)

    def _read(self, name: str, world_s: float) -> dict[str, float]:
        since_s = max(LEAKS_FROM_S, self.leaked_until_s.get(name, 0.0))
        leaked_gib = min(17.0, LEAK_GIB_PER_S * max(0.0, world_s - since_s)) if name == "b" else 0.0
        resident = float(len(self._loaded(name)))
        return {
            "gpu_utilisation": 0.2,
            "vram_used_gib": 6.0 * resident + leaked_gib,
            "vram_total_gib": 24.0,
            "ollama_vram_gib": 6.0 * resident,
            "ollama_resident_models": resident,
            "ollama_processes": 1.0 + resident,
            "gpu_power_w": 120.0 + math.sin(world_s),
            "gpu_temperature_c": 50.0,
        }


def through_json(state: PolicyState) -> PolicyState:
    parts: dict[str, Any] = json.loads(json.dumps(state.parts, allow_nan=False))
    return PolicyState(state.now_s, parts)


def heir_of(first: Ward) -> Ward:
    """Another policy that takes over, and whose clock begins at the last moment that the first one knows of."""
    state = through_json(first.policy.snapshot())
    heir = Ward(began_s=first.began_s + state.now_s)
    heir.policy.restore(0.0, state)
    heir.request_id, heir.leaked_until_s = first.request_id, dict(first.leaked_until_s)
    return heir


@pytest.mark.parametrize("taken_over_s", [300.0, 420.0, 440.0])
def test_a_restored_policy_takes_the_same_precautions_at_the_same_time(taken_over_s: float) -> None:
    first = Ward()
    first.go(0.0, taken_over_s)
    heir = heir_of(first)
    first.did.clear()
    first.go(taken_over_s, 700.0)
    heir.go(taken_over_s, 700.0)
    assert any(it[1] == "restart" and it[2] == "b" for it in first.did), "the leak was to be foreseen"
    assert heir.did == first.did


def test_one_that_starts_blind_does_not() -> None:
    first = Ward()
    first.go(0.0, 600.0)
    blind = Ward(began_s=600.0)
    first.did.clear()
    first.go(600.0, 900.0)
    blind.go(600.0, 900.0)
    assert blind.did != first.did


def test_what_failed_before_the_takeover_is_repaired_after_it() -> None:
    first = Ward()
    first.go(0.0, 100.0)
    first.fails.add("c")
    first.go(100.0, 101.0)
    heir = heir_of(first)
    heir.fails = {"c"}
    heir.go(101.0, 130.0)
    assert ("restart", "c") in {it[1:3] for it in heir.did}


def test_how_fast_the_error_budget_burns_is_known_to_the_heir() -> None:
    first = Ward()
    first.go(0.0, 60.0)
    for number in range(200):
        first.policy.observe(
            60.0, AttemptEnded(10_000 + number, 0, "a", "m", "failed", "client_error", 59.0, math.nan, 0)
        )
    first.go(60.0, 66.0)
    assert "burns" in first.policy.tracker.burning
    heir = heir_of(first)
    assert heir.policy.tracker.burning == first.policy.tracker.burning
    assert heir.policy.tracker.snapshot(0.0)["ended"] == first.policy.tracker.snapshot(66.0)["ended"]
