"""Looking ahead in the live world: what the policy asks is simulated by a process of its own, off the path of requests.

The worker gets the present as the controller knows it (the policy's snapshot, what is at the nodes, the load of late, a
profile that `ollamamax calibrate` wrote) and must answer within the question's time. Without a profile, for a load that was
not measured, when it is late or busy, or when it has died, the answer says so, and the policy decides by its rates.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from live.controller.recent_load import RecentLoad
from live.controller.simulating import SimulatingProcess
from twin.policy.vocabulary import (
    NEVER_S,
    Advice,
    AdviceStatus,
    ClusterSpec,
    PolicyState,
    Question,
)

_log = structlog.get_logger()

SPARE_S = 0.1
"""Of the question's time, for the way there and back."""


class LookAhead:
    """Answers a policy's questions. Own it, `start` it, `stop` it."""

    def __init__(
        self,
        profile: dict[str, Any] | None,
        cluster: ClusterSpec,
        settings: dict[str, Any],
        snapshot: Callable[[], PolicyState],
        now: Callable[[], float],
        load: RecentLoad,
    ) -> None:
        """`profile`: of `ollamamax calibrate`; None: the twin is not calibrated for this cluster. `settings`: the policy's
        parameters, as a scenario has them; whoever changes the policy's changes these, too."""
        self._profile = profile
        self._cluster = cluster
        self._settings = settings
        self._snapshot = snapshot
        self.now = now
        self._load = load
        self._worker = SimulatingProcess("look_ahead", _warm_up)
        self._busy: asyncio.Future[dict[str, Any]] | None = None

    def start(self) -> None:
        """Start the worker, and have it import what it needs before it is asked."""
        if self._profile is not None:
            self._worker.start()

    async def stop(self) -> None:
        """End the worker, whatever it does."""
        await self._worker.stop()

    async def settled(self) -> None:
        """Wait until it simulates nothing, not even what would come too late."""
        if self._busy is not None:
            await asyncio.wait([self._busy])

    async def answer(self, question: Question) -> Advice:
        """The answer, in time."""
        if self._profile is None or not self._worker.running:
            detail = "no profile of these nodes; `ollamamax calibrate` writes one, `calibration:` names it"
            return Advice(question.question_id, question.node, "uncalibrated", {}, detail)
        if self._busy is not None and not self._busy.done():
            return Advice(
                question.question_id, question.node, "late", {}, "the question before is still being simulated"
            )
        workload = self._load.workload()
        if workload is None:
            return Advice(question.question_id, question.node, "unavailable", {}, "too few requests to know the load")
        limit_s = max(0.05, question.deadline_s - self.now() - SPARE_S)
        self._busy = self.simulate(self.task_of(question, workload, limit_s))
        try:
            said = await asyncio.wait_for(asyncio.shield(self._busy), limit_s)
            return Advice(question.question_id, question.node, said["status"], said["lost"], said["detail"])
        except TimeoutError:
            return Advice(question.question_id, question.node, "late", {}, f"it took longer than {limit_s:.2f} s")
        except BrokenProcessPool:
            _log.warning("look_ahead_worker_died")
            await self._worker.restart()
            return Advice(question.question_id, question.node, "unavailable", {}, "the simulating process has died")
        except Exception as error:  # noqa: BLE001
            # A simulation that is not possible is no reason to stop the controller; the reason of the action has it.
            _log.warning("look_ahead_failed", error=repr(error))
            return Advice(question.question_id, question.node, "unavailable", {}, f"it failed: {type(error).__name__}")

    async def ready(self) -> None:
        """Wait until the worker has warmed up."""
        await self._worker.warmed_up()

    def simulate(self, task: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Have the worker do a task, as `task_of` makes it."""
        return self._worker.submit(simulate, task)

    def task_of(self, question: Question, workload: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """What the worker gets: the present, and the question."""
        assert self._profile is not None
        names = {node.name: f"node-{place}" for place, node in enumerate(self._cluster.nodes)}
        return {
            "document": scenario_document(self._profile, self._cluster, workload, self._settings),
            "parts": renamed(self._snapshot().parts, names),
            "names": names,
            "question": {"node": question.node, "options": list(question.options), "horizon_s": question.horizon_s},
            "seed": question.question_id,
            "limit_s": limit_s,
        }


def scenario_document(
    profile: dict[str, Any], cluster: ClusterSpec, workload: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """The cluster as a scenario: the calibrated machine for every node, the models as the policy knows them."""
    models = {
        model.name: {
            "size_gib": max(model.memory_gib, 0.01),
            "kv_mib_per_1k_tokens": 0.0,
            "replicas": min(model.replicas, len(cluster.nodes)),
        }
        for model in cluster.models
    }
    known = profile.get("cluster", {})
    document = {
        "schema": 1,
        "name": "live",
        "claim": "The present state of a live cluster.",
        "cluster": {
            "groups": [
                {"count": len(list(alike)), "hardware": profile["hardware"], "hands": sorted(hands)}
                for hands, alike in itertools.groupby(cluster.nodes, lambda node: node.hands)
            ],
            "models": models,
            "slots_per_model": max((model.slots for model in cluster.models), default=1),
        }
        | {key: known[key] for key in ("restart_s", "restart_cv", "load_cv", "network") if key in known},
        "workload": workload,
        "policy": {"preset": "default", "overrides": settings},
    }
    return document


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data in which every node is called as in the simulation, also at the end of a key of the rates."""
    if isinstance(value, dict):
        return {_name(key, names): renamed(each, names) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def _name(key: str, names: Mapping[str, str]) -> str:
    before, space, last = key.rpartition(" ")
    return f"{before}{space}{names[last]}" if last in names else key


def read_calibration(path: Path | None) -> dict[str, Any] | None:
    """The profile that the configuration names; None without one. Raises `OperatorError`."""
    if path is None:
        return None
    from twin.scenario.calibrated import read_profile  # noqa: PLC0415  # a gateway without it starts quicker

    return read_profile(path)


# -- in the worker -----------------------------------------------------------------------------------------------------


WARM_UP: dict[str, Any] = {
    "schema": 1,
    "name": "warm-up",
    "claim": "The first question is answered as fast as the next.",
    "cluster": {"nodes": 1, "hardware": "rtx-4090", "models": {"llama3.1:8b": {"replicas": 1}}},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 1.0},
        "prompt_tokens": {"kind": "constant", "mean": 10},
        "output_tokens": {"kind": "constant", "mean": 10},
        "warmup_s": 0,
        "duration_s": 10,
    },
}


def _warm_up() -> None:
    """A question of no interest: what is imported and read at the first one takes longer than a question has."""
    from twin.experiment.advisor import answer  # noqa: PLC0415
    from twin.policy.cluster_policy import ClusterPolicy  # noqa: PLC0415
    from twin.scenario.schema import Scenario  # noqa: PLC0415

    scenario = Scenario.model_validate(WARM_UP)
    policy = ClusterPolicy(scenario.cluster.spec(), scenario.policy.parameters())
    policy.decide(0.0)
    answer(scenario, present_of(policy.snapshot().parts), Question(0, "node-0", ("nothing",), 10.0, NEVER_S), 0)


def simulate(task: dict[str, Any]) -> dict[str, Any]:
    """Answer a question from a state; runs in the worker. Plain data both ways: what is compiled and frozen cannot be
    pickled. The answer: `status`, `lost` by option, `detail`, as an `Advice` has them, and the processor time it took."""
    from twin.experiment.advisor import answer  # noqa: PLC0415
    from twin.scenario.schema import Scenario  # noqa: PLC0415

    began_s = time.process_time()
    asked: dict[str, Any] = task["question"]
    name = task["names"][asked["node"]]
    question = Question(1, name, tuple(asked["options"]), asked["horizon_s"], NEVER_S)
    try:
        scenario = Scenario.model_validate(task["document"])
    except ValidationError as error:  # above all: a load that the profile's machines were not measured with
        said = str(error.errors()[0]["msg"])
        status: AdviceStatus = "uncalibrated" if "calibration" in said else "unavailable"
        return {"status": status, "lost": {}, "detail": said}
    advice = answer(scenario, present_of(task["parts"]), question, task["seed"], task["limit_s"])
    took_s = time.process_time() - began_s
    return {"status": advice.status, "lost": dict(advice.lost), "detail": advice.detail, "processor_s": took_s}


def present_of(parts: dict[str, Any]) -> Any:
    """What the controller believes of its nodes, as a state from which a simulation can start."""
    from twin.sim.present import ClusterNow, NodeNow  # noqa: PLC0415

    open_incidents = {name: diagnosis for name, (diagnosis, _) in parts["open_incidents"].items()}
    nodes = {}
    for name, known in parts["nodes"].items():
        diagnosis = open_incidents.get(name, "")
        nodes[name] = NodeNow(
            alive=diagnosis != "server_down",
            hung=diagnosis == "runner_hung",
            loader_stuck=diagnosis == "load_path_stuck",
            unreachable=diagnosis == "unreachable",
            slowdown=max(1.0, float(known["pace"]["ratio"])),
            resident=tuple(known["resident"]),
        )
    return ClusterNow(nodes, (), PolicyState(0.0, parts))
