"""What truly happened to the nodes of a run: the only place where the simulator's truth meets what is learnt.

A *failure* is a row of `faults` whose kind belongs to a class; a *sign* a row of `signs`. Nothing here is ever seen by a
policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.learn.harm import HEATS, Machines
from twin.policy.forecast import FailureClass
from twin.policy.predictor.statistical import CLASSES
from twin.record.reader import RunRecord
from twin.scenario.faults import FAULT_KINDS

CLASS_OF_KIND: dict[str, FailureClass] = {
    "vram_leak": "gpu_memory",
    "orphan_runner": "gpu_memory",
    "gpu_out_of_memory": "gpu_memory",
    "load_out_of_memory": "gpu_memory",
    "load_failure": "gpu_memory",
    "cpu_offload": "gpu_memory",
    "host_out_of_memory": "host_memory",
    "thermal_throttle": "overheating",
    "slow_decay": "overheating",
    "gpu_off_the_bus": "gpu_fault",
    "gpu_vanished": "gpu_fault",
    "gpu_discovery": "gpu_fault",
    "long_prompt_crash": "gpu_fault",
    "scheduler_deadlock": "scheduler_stuck",
    "unload_hang": "scheduler_stuck",
    "load_stall": "scheduler_stuck",
    "slow_loads": "scheduler_stuck",
    "disk_full": "disk_full",
    "runner_crash": "runner_failure",
    "runner_crash_loop": "runner_failure",
    "runner_hang": "runner_failure",
    "hang_after_requests": "runner_failure",
    "poison_request": "runner_failure",
    "server_crash": "server_failure",
}
"""Kinds that make a node fail, by what mends them. Others (network, answers, downloads, foreign load) belong to no class:
they are around in every world, and a forecast that they provoke is false."""

FORETELLABLE = tuple(kind for kind in CLASS_OF_KIND if FAULT_KINDS[kind].has_signs())
"""Kinds that can show beforehand."""

OFFLOADED = "cpu_offload"
"""The kind of the state in which a model lies partly in main memory, whatever brought it there."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of a node. `signs_s`: when it began to show; nan: it did not."""

    node: str
    kind: str
    which: int  # its class, by place in `CLASSES`
    at_s: float
    ended_s: float
    signs_s: float

    @property
    def foretellable(self) -> bool:
        """It showed beforehand."""
        return self.signs_s == self.signs_s


@dataclass(frozen=True, slots=True)
class Episode:
    """Signs that did not pass into a failure: `nothing` (a look-alike), `averted` by an action, `teardown`, or `failed`
    where the defect was there, and nothing came of it (another program had the memory, and no request wanted it), or where
    its damage is still there (a model that lies partly in main memory)."""

    node: str
    kind: str
    began_s: float
    ended_s: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Truth:
    """All failures and episodes of a run."""

    failures: list[Failure]
    episodes: list[Episode]
    disturbed: list[tuple[str, float, float]]
    """Faults of no class, by node: from, to. Nothing of the node's own fails, and nothing may be foretold."""
    restarts: list[tuple[str, float]]
    """What somebody restarted, and when it was done."""


def truth_of(record: RunRecord) -> Truth:
    """Read the truth of a run."""
    end_s = float(record.manifest["simulated_s"])
    signs = record.table("signs").to_pylist()
    showed = {(row["fault_id"], row["node"]): row["began_s"] for row in signs if row["outcome"] == "failed"}
    actions = record.table("actions", ["kind", "node", "status", "result_s"]).to_pylist()
    restarts = [
        (row["node"], row["result_s"]) for row in actions if row["kind"] == "restart" and row["status"] == "done"
    ]
    failures, disturbed, harmless = [], [], []
    came = set()
    machines = Machines(record)
    for row in record.table("faults").to_pylist():
        key = (row["fault_id"], row["node"])
        ended_s = row["ended_s"] if row["ended_s"] is not None else end_s
        if FAULT_KINDS[
            row["kind"]
        ].about.ended_by_reload:  # what was loaded so stays so, whoever restarted the server then
            ended_s = min((it for name, it in restarts if name == row["node"] and it > ended_s), default=end_s)
        which = CLASS_OF_KIND.get(row["kind"])
        if which is None:
            disturbed.append((row["node"], row["injected_s"], ended_s))
            continue
        at_s = machines.met_s(row["kind"], row["node"], row["injected_s"], ended_s)
        if math.isnan(at_s):
            harmless.append(Episode(row["node"], row["kind"], row["injected_s"], ended_s, "failed"))
            continue
        came.add(key)
        showed_s = showed.get(key, math.nan)
        if row["kind"] in HEATS and at_s > row["injected_s"] and math.isnan(showed_s):
            showed_s = row["injected_s"]  # it gets hot before the clock falls, however suddenly the cooling failed
        failures.append(Failure(row["node"], row["kind"], CLASSES.index(which), at_s, ended_s, showed_s))
    episodes = [
        Episode(row["node"], row["kind"], row["began_s"], row["ended_s"], row["outcome"])
        for row in signs
        if (row["fault_id"], row["node"]) not in came
    ]
    episodes += harmless
    episodes += dormant(record.manifest["scenario"].get("faults") or (), failures, restarts, end_s)
    for node in machines.nodes():
        episodes += [
            Episode(node, OFFLOADED, began_s, ended_s, "failed") for began_s, ended_s in machines.offloaded(node)
        ]
    return Truth(failures, episodes, disturbed, restarts)


def dormant(
    faults: Sequence[dict[str, Any]], failures: Sequence[Failure], restarts: Sequence[tuple[str, float]], end_s: float
) -> list[Episode]:
    """Defects that were there and broke nothing, signs or not: the record has no row of them, and an alarm meanwhile is
    neither true nor false. One that ends with the server lasts until somebody restarts that."""
    found = []
    for fault in faults:
        kind, node, at_s = fault["kind"], str(fault.get("target")), float(fault["at_s"])
        about = FAULT_KINDS[kind].about
        if not about.emerges or kind not in CLASS_OF_KIND or fault.get("comes_to_nothing"):
            continue
        ended_s = at_s + float(fault.get("duration_s") or end_s)
        if any(it.node == node and it.kind == kind and at_s <= it.at_s <= ended_s for it in failures):
            continue
        if about.ended_by_restart:
            ended_s = min((it for name, it in restarts if name == node and it > ended_s), default=end_s)
        found.append(Episode(node, kind, at_s, ended_s, "failed"))
    return found


def shows(truth: Truth, node: str, times_s: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether a failure of the node that will come shows already, at each time."""
    found = np.zeros(len(times_s), dtype=bool)
    for failure in truth.failures:
        if failure.node == node and failure.foretellable:
            found |= (times_s >= failure.signs_s) & (times_s < failure.at_s)
    return found


def labels(truth: Truth, node: str, times_s: FloatArray, horizon_s: float) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """For each time of a node: the class that fails within the horizon (-1: none; -2: not to be used) and the time until
    then (nan where none).

    Not used are times at which the node fails already, one horizon after that (the embargo), and one horizon before an
    action that averted a failure, or a defect that never came about (censored: nobody knows what would have been). Times at
    which a node is disturbed by what is no failure of its own (a slow network, others' load) are times without failure: an
    alarm then is false, and who never saw them in training would take them for something.
    """
    found = np.full(len(times_s), -1, dtype=np.int8)
    until_s = np.full(len(times_s), np.nan)
    for failure in sorted((it for it in truth.failures if it.node == node), key=lambda it: -it.at_s):
        before = (times_s < failure.at_s) & (times_s >= failure.at_s - horizon_s)
        found[before] = failure.which
        until_s[before] = failure.at_s - times_s[before]
    spoilt = np.zeros(len(times_s), dtype=bool)
    for failure in truth.failures:
        if failure.node == node:
            spoilt |= (times_s >= failure.at_s) & (times_s <= failure.ended_s + horizon_s)
    for episode in truth.episodes:
        if episode.node == node and episode.outcome != "nothing":
            spoilt |= (times_s >= episode.began_s) & (times_s <= episode.ended_s + 2.0 * horizon_s)
    for name, at_s in truth.restarts:  # the restart of a node that was not failing changes what follows
        if name == node:
            spoilt |= (times_s >= at_s - horizon_s) & (times_s <= at_s + horizon_s) & (found == -1)
    found[spoilt] = -2
    until_s[spoilt] = np.nan
    return found, until_s
