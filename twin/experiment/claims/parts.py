"""One run of a part, and what is kept of it: a study's line, and what the measures of the promises want beside."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twin.experiment.claims.promises import RELAPSE_S
from twin.experiment.replication import Task, line_of
from twin.experiment.run import looked_at
from twin.experiment.twin_world import TwinWorld
from twin.experiment.world import World
from twin.policy.vocabulary import (
    Command,
    Observation,
    Policy,
    Probe,
    RequestId,
    RequestSpec,
    Route,
)
from twin.record.forwarding import ForwardingPolicy
from twin.record.reader import RunRecord
from twin.scenario.schema import Scenario


class TimedPolicy(ForwardingPolicy):
    """A policy that does what another one does, and adds up how long its calls take."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.route_s = 0.0  # spent on requests
        self.care_s = 0.0  # spent on the nodes: probes, results, decisions
        self.probes = 0

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        """The policy's route."""
        started_s = time.perf_counter()
        answer = self.policy.route(now, request, attempt)
        self.route_s += time.perf_counter() - started_s
        return answer

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        """The policy's releases."""
        started_s = time.perf_counter()
        answer = self.policy.released(now)
        self.route_s += time.perf_counter() - started_s
        return answer

    def observe(self, now: float, observation: Observation) -> None:
        """Hand it on."""
        started_s = time.perf_counter()
        self.policy.observe(now, observation)
        self.care_s += time.perf_counter() - started_s

    def decide(self, now: float) -> Sequence[Command]:
        """The policy's decisions."""
        started_s = time.perf_counter()
        answer = self.policy.decide(now)
        self.care_s += time.perf_counter() - started_s
        self.probes += sum(isinstance(command, Probe) for command in answer)
        return answer


class TimedWorld(TwinWorld):
    """The twin, with its policy under a stop watch."""

    def __init__(self) -> None:
        self.timed: TimedPolicy | None = None

    def policy(self, scenario: Scenario) -> Policy:
        """The usual one, timed."""
        self.timed = TimedPolicy(super().policy(scenario))
        return self.timed


def perform_part(task: Task) -> dict[str, Any]:
    """Simulate it; the line. `settings.timed` says whether the policy is timed."""
    world = TimedWorld() if task.settings["timed"] else TwinWorld()
    return line_of_part(world, Scenario.model_validate(task.document), task.settings, task.seed, None)


def line_of_part(
    world: World, scenario: Scenario, settings: dict[str, Any], seed: int, folder: Path | None
) -> dict[str, Any]:
    """Run it in a world; the line of a study, with `healing` and `policy_cost` beside."""
    record = world.run(scenario, seed, folder, lambda line: None)
    line = line_of(looked_at(record, scenario), scenario, settings)
    line["healing"] = healing(record)
    timed = world.timed if isinstance(world, TimedWorld) else None
    line["policy_cost"] = (
        {"route_s": timed.route_s, "care_s": timed.care_s, "probes": timed.probes} if timed is not None else None
    )
    written: dict[str, Any] = json.loads(json.dumps(line))
    return written


def healing(record: RunRecord) -> dict[str, int]:
    """Of all incidents those that were healed: {"incidents", "judged", "healed", "relapsed"}.

    Healed: closed, with at least one action, verified by a generation, and without a relapse: no other incident on the
    same node within 30 minutes of its closing, unless a new fault struck the node before that. Incidents that were opened
    so late that the run ended while they were cared for are not judged: what would have become of them is not known.
    """
    incidents = record.table(
        "incidents", ["node", "opened_s", "state", "verified_s", "closed_s", "actions"]
    ).to_pylist()
    faults = record.table("faults", ["node", "injected_s"]).to_pylist()
    end_s = record.number("simulated_s")
    healed = relapsed = judged = 0
    for it in incidents:
        closed_s = it["closed_s"]
        if closed_s is None and end_s - it["opened_s"] < 120.0:
            continue
        judged += 1
        if closed_s is None or it["verified_s"] is None or not it["actions"]:
            continue
        struck_s = min(
            (fault["injected_s"] for fault in faults if fault["node"] == it["node"] and fault["injected_s"] > closed_s),
            default=end_s,
        )
        again = any(
            other["node"] == it["node"] and closed_s < other["opened_s"] < min(struck_s, closed_s + RELAPSE_S)
            for other in incidents
        )
        relapsed += again
        healed += not again
    return {"incidents": len(incidents), "judged": judged, "healed": healed, "relapsed": relapsed}
