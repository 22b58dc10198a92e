"""The policy's questions in the live world: a process of its own answers in time, or it is said why not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from live.controller.checkpoint import finite
from live.controller.look_ahead import LookAhead, renamed, scenario_document, simulate
from live.controller.recent_load import RecentLoad
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import AttemptEnded, ClusterSpec, ModelSpec, NodeSpec, PolicyState, Question, RequestSpec

PROFILE: dict[str, Any] = {
    "profile": 1,
    "hardware": {
        "decode_ms": [20, 25, 30, 35],
        "prefill_tokens_per_s": 3000,
        "vram_gib": 24,
        "load_gib_per_s": 2,
    },
    "cluster": {"restart_s": 3.0},
}
CLUSTER = ClusterSpec(
    (NodeSpec("gpu-east"), NodeSpec("gpu-west"), NodeSpec("gpu-north")),
    (ModelSpec("m", 5.0, 2, 4),),
    {"gpu-east": ("m",), "gpu-west": ("m",)},
)
SETTINGS = dict(preset("default", {"predictor.enabled": False}).values())


def load(requests: int = 60) -> RecentLoad:
    it = RecentLoad()
    for number in range(requests):
        it.arrived(number / 2.0, RequestSpec(number, "m", 100, True, number / 2.0, number / 2.0 + 30.0))
        ended = AttemptEnded(number, 0, "gpu-east", "m", "succeeded", "", 0.0, 0.1, 50, prompt_eval_count=100)
        it.observed(ended)
    return it


def stuck_policy() -> ClusterPolicy:
    """gpu-west cannot load any more; all is loaded where it should be."""
    policy = ClusterPolicy(CLUSTER, preset("default", {"predictor.enabled": False}))
    policy.decide(1.0)
    return policy


def question(within_s: float = 30.0) -> Question:
    return Question(7, "gpu-west", ("restart", "rest", "nothing"), 200.0, within_s)


def looking(profile: dict[str, Any] | None, recent: RecentLoad, policy: ClusterPolicy | None = None) -> LookAhead:
    it = policy or stuck_policy()
    return LookAhead(profile, CLUSTER, SETTINGS, it.snapshot, lambda: 0.0, recent)


async def test_the_worker_says_what_each_option_would_lose() -> None:
    it = looking(PROFILE, load())
    it.start()
    try:
        advice = await it.answer(question(60.0))
    finally:
        await it.stop()
    assert (advice.status, advice.detail) == ("done", "")
    assert (advice.question_id, advice.node) == (7, "gpu-west")
    assert set(advice.lost) == {"restart", "rest", "nothing"}


async def test_without_a_profile_the_twin_is_not_calibrated_for_this_cluster() -> None:
    it = looking(None, load())
    it.start()
    advice = await it.answer(question())
    assert advice.status == "uncalibrated"
    assert "ollamamax calibrate" in advice.detail


async def test_of_a_load_that_is_not_known_nothing_is_said() -> None:
    it = looking(PROFILE, load(5))
    it._worker._pool = object()  # type: ignore[assignment]  # it is not to get that far
    assert (await it.answer(question())).status == "unavailable"


async def test_what_comes_too_late_is_late_and_so_is_whoever_asks_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    it = looking(PROFILE, load())
    it._worker._pool = object()  # type: ignore[assignment]
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(it._worker, "submit", lambda *_: never)
    first = await it.answer(question(0.15))
    assert (first.status, first.detail) == ("late", "it took longer than 0.05 s")
    second = await it.answer(question(0.15))
    assert (second.status, second.detail) == ("late", "the question before is still being simulated")


def test_a_load_that_was_not_measured_is_not_simulated() -> None:
    profile = json.loads(json.dumps(PROFILE))
    profile["hardware"]["calibration"] = CALIBRATION
    names = {node.name: f"node-{place}" for place, node in enumerate(CLUSTER.nodes)}
    workload = load().workload()
    assert workload is not None
    task = {
        "document": scenario_document(profile, CLUSTER, workload, SETTINGS),
        "parts": renamed(stuck_policy().snapshot().parts, names),
        "names": names,
        "question": {"node": "gpu-west", "options": ["restart", "nothing"], "horizon_s": 200.0},
        "seed": 7,
        "limit_s": 30.0,
    }
    said = simulate(task)
    assert said["status"] == "uncalibrated"
    assert "at most 2" in said["detail"]


CALIBRATION = {
    "name": "measured",
    "batch_max": 2,
    "prompt_tokens": [1, 1000],
    "output_tokens": [1, 1000],
    "models": ["m"],
}


def test_the_load_of_late_is_a_scenarios() -> None:
    workload = load().workload()
    assert workload is not None
    assert workload["arrivals"]["rate_rps"] == pytest.approx(2.0)
    assert (workload["prompt_tokens"]["mean"], workload["output_tokens"]["mean"]) == (100.0, 50.0)
    assert workload["deadline_s"] == 30.0
    assert load(3).workload() is None


def test_nodes_are_called_as_in_the_simulation_wherever_they_stand() -> None:
    plain = {"a": {"x": ["b", 1]}, "restart slow b": [1.0, 2.0], "other": "a"}
    assert renamed(plain, {"a": "node-0", "b": "node-1"}) == {
        "node-0": {"x": ["node-1", 1]},
        "restart slow node-1": [1.0, 2.0],
        "other": "node-0",
    }


def test_a_saved_state_is_one_from_which_another_policy_learns() -> None:
    policy = stuck_policy()
    parts = json.loads(json.dumps(finite(policy.snapshot().parts), allow_nan=False))
    heir = ClusterPolicy(CLUSTER, preset("default", {"predictor.enabled": False}))
    heir.learn(0.0, parts)
    assert finite(heir.snapshot().parts["healer"]) == finite(policy.snapshot().parts["healer"])
    assert isinstance(heir.snapshot(), PolicyState)
