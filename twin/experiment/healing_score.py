"""How many incidents the policy heals: of all that it opened, beside what doing nothing gives on the same seeds.

An incident is healed if it was verified and closed within `HEALED_WITHIN_S` of its opening, and its node had no further
incident for `RELAPSE_S`. All incidents count, also those of nodes that no fault held, but those that seemed healed so late
that the run ended before a relapse could be seen (`unjudged`). The worlds: eight nodes under load; in each run four of them
are struck, one after the other and each by one fault of a kind that the seed draws, and nobody from outside helps within
the time that is looked at.

An incident that is not healed may be *contained* (`contained`, a count beside the share, which it does not enter): what is
broken stays broken, but from `HEALED_WITHIN_S` on nothing more is lost to it for `RELAPSE_S`. The incident stays open, so
that its operator is told; no request fails at the node, nothing is done to it in vain, and nothing further is found there.
(A dead node that nobody repairs is contained, too, as long as the others can take its load: that much the routing does
alone, and stands in the column of doing nothing.)

Two sets of kinds. `mendable_kinds`: what something done to a node can end, by the catalogue. `own_kinds`: all of a node's.
The others only pass: somebody else's job ends, a prompt that kills is asked no more, a driver is put in order. Whatever is
done to the node there, it can be avoided, not healed; an incident that the policy opens all the same comes again as long as
the cause is there, and counts. `python -m twin.experiment.healing_score` prints both (`--kinds mendable|all` one of them).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twin.experiment.engines import LocalEngine
from twin.experiment.statistics import proportion_interval
from twin.experiment.twin_world import TwinWorld
from twin.policy.vocabulary import DISRUPTIVE_ACTIONS
from twin.record.reader import RunRecord
from twin.scenario.draws import stream
from twin.scenario.faults import FAULT_KINDS
from twin.scenario.faults.base import NetworkFault
from twin.scenario.schema import Scenario

HEALED_WITHIN_S = 300.0
RELAPSE_S = 1800.0
FIRST_S, EVERY_S, STRUCK = 60.0, 90.0, 4
DURATION_S = FIRST_S + EVERY_S * STRUCK + HEALED_WITHIN_S + RELAPSE_S
SAYS_NOTHING = frozenset({"", "aborted", "client_error", "deadline"})
"""Ends of attempts that are no failure of the node."""
RUNS_AT_ONCE = 16
OUTSIDE_HELP_S = 3000.0
"""When the outside world would end a fault: after all that is looked at."""

NODES = 8
CLUSTER = {
    "nodes": NODES,
    "hardware": "rtx-4090",
    "models": {"llama3.1:8b": {"replicas": 5}, "qwen2.5:7b": {"replicas": 4}, "llama3.2:1b": {"replicas": 0}},
    "slots_per_model": 4,
}
WORKLOAD = {
    "arrivals": {"kind": "poisson", "rate_rps": 2.0},
    "models": {"llama3.1:8b": 0.6, "qwen2.5:7b": 0.4},
    "prompt_tokens": {"kind": "lognormal", "mean": 200, "cv": 1.0},
    "output_tokens": {"kind": "lognormal", "mean": 150, "cv": 0.8},
    "deadline_s": 60,
    "warmup_s": 30,
    "duration_s": DURATION_S,
}
NOTHING = {"healer.enabled": False, "redundancy.enabled": False}


def own_kinds() -> list[str]:
    """The kinds of faults that are of a node itself, not of the way to it."""
    return [
        kind
        for kind, fault in FAULT_KINDS.items()
        if fault.about.part == "node" and not issubclass(fault, NetworkFault) and kind != "rack_failure"
    ]


def mendable_kinds() -> list[str]:
    """Of these, the kinds that a new server process, the end of the runners, a reload or a pull ends, or that are over at
    once."""
    found = []
    for kind in own_kinds():
        about = FAULT_KINDS[kind].about
        ended = about.ended_by_restart or about.ended_by_kill or about.ended_by_reload or about.ended_by_pull
        if ended or about.instant:
            found.append(kind)
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """An incident. `kind`: of the fault that held its node, empty where none did."""

    kind: str
    diagnosis: str
    healed: bool
    closed: bool
    actions: int
    judged: bool = True  # a relapse would have been seen
    contained: bool = False  # not healed, and it costs nothing more


def scenario_for(seed: int, kinds: Sequence[str], overrides: dict[str, Any]) -> Scenario:
    """The world of a seed."""
    draw = stream(seed, "healing-score")
    nodes = draw.permutation(NODES)[:STRUCK].tolist()
    faults = []
    for place, node in enumerate(nodes):
        kind = kinds[int(draw.integers(len(kinds)))]
        at_s = FIRST_S + EVERY_S * place
        fault: dict[str, Any] = {"kind": kind, "at_s": at_s, "target": f"node-{node}"}
        if not FAULT_KINDS[kind].about.instant:
            fault["duration_s"] = OUTSIDE_HELP_S
        faults.append(fault)
    return Scenario.model_validate(
        {
            "schema": 1,
            "name": "healing-score",
            "claim": "What breaks is healed.",
            "cluster": CLUSTER,
            "workload": WORKLOAD,
            "policy": {"overrides": {"probes.load_path_model": "llama3.2:1b"} | overrides},
            "faults": faults,
            "record": {"journal": False, "telemetry_period_s": 5},
        }
    )


def incidents_of(seed: int, kinds: Sequence[str], overrides: dict[str, Any]) -> list[Seen]:
    """The incidents of one run."""
    record = TwinWorld().run(scenario_for(seed, kinds, overrides), seed, None, lambda line: None)
    incidents = record.table("incidents").to_pylist()
    faults = record.table("faults").to_pylist()
    seen = []
    for it in incidents:
        if it["diagnosis"].startswith("foreseen_"):
            continue
        held = [f["kind"] for f in faults if f["node"] == it["node"] and f["injected_s"] <= it["opened_s"]]
        closed = it["state"] == "closed" and it["closed_s"] is not None
        healed = closed and it["verified_s"] is not None and it["closed_s"] - it["opened_s"] <= HEALED_WITHIN_S
        if healed:
            until_s = it["closed_s"] + RELAPSE_S
            healed = not any(
                later["node"] == it["node"] and it["closed_s"] <= later["opened_s"] <= until_s
                for later in incidents
                if later is not it
            )
        contained = not healed and _is_contained(record, it)
        if healed:
            judged = it["closed_s"] + RELAPSE_S <= DURATION_S
        else:
            judged = not contained or it["opened_s"] + HEALED_WITHIN_S + RELAPSE_S <= DURATION_S
        kind = held[-1] if held else ""
        seen.append(Seen(kind, it["diagnosis"], healed and judged, closed, it["actions"], judged, contained and judged))
    return seen


def _is_contained(record: RunRecord, incident: dict[str, Any]) -> bool:
    """Whether an incident that is not healed costs nothing more, until `RELAPSE_S` later or the run's end."""
    from_s = incident["opened_s"] + HEALED_WITHIN_S
    until_s = from_s + RELAPSE_S
    if incident["closed_s"] is not None and incident["closed_s"] <= until_s:
        return False

    def meanwhile(table: str, time: str) -> list[dict[str, Any]]:
        rows = record.table(table).to_pylist()
        return [row for row in rows if row["node"] == incident["node"] and from_s <= row[time] <= until_s]

    failed = any(row["error"] not in SAYS_NOTHING for row in meanwhile("attempts", "end_s"))
    disturbed = any(row["kind"] in DISRUPTIVE_ACTIONS for row in meanwhile("actions", "time_s"))
    return not failed and not disturbed and not meanwhile("incidents", "opened_s")


def share_of(seen: Sequence[Seen]) -> dict[str, Any]:
    """Healed of all that could be judged, with a Wilson interval."""
    judged = sum(it.judged for it in seen)
    healed = sum(it.healed for it in seen)
    share = healed / judged if judged else None
    ci95 = proportion_interval(healed, judged) if judged else None
    return {
        "n": judged,
        "healed": healed,
        "share": share,
        "ci95": ci95,
        "unjudged": len(seen) - judged,
        "contained": sum(it.contained for it in seen),
    }


def _both(task: tuple[int, tuple[str, ...], dict[str, Any]]) -> tuple[list[Seen], list[Seen]]:
    seed, kinds, overrides = task
    return incidents_of(seed, kinds, overrides), incidents_of(seed, kinds, NOTHING)


def healing_score(
    *,
    incidents: int = 400,
    kinds: Sequence[str] | None = None,
    overrides: dict[str, Any] | None = None,
    first_seed: int = 1,
    jobs: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run seed after seed until the policy has opened so many incidents.

    {"healed": {"n", "healed", "share", "ci95", "contained", "unjudged"}, "nothing": likewise with the healer off on the same
    seeds, "by_kind": {KIND: both}, "seeds"}. `kinds`: `mendable_kinds` where none are given.
    """
    drawn = tuple(kinds or mendable_kinds())
    with_healer: list[Seen] = []
    without: list[Seen] = []
    seed = first_seed
    while sum(it.judged for it in with_healer) < incidents:
        tasks = [(number, drawn, overrides or {}) for number in range(seed, seed + RUNS_AT_ONCE)]
        seed += len(tasks)
        for ours, nothing in LocalEngine(jobs).results(_both, tasks):
            with_healer += ours
            without += nothing
        progress(f"{len(with_healer)} of {incidents} incidents, {seed - first_seed} runs")
    by_kind = {
        kind or "none": {
            "healed": share_of([it for it in with_healer if it.kind == kind]),
            "nothing": share_of([it for it in without if it.kind == kind]),
        }
        for kind in sorted({it.kind for it in [*with_healer, *without]})
    }
    return {
        "healed": share_of(with_healer),
        "nothing": share_of(without),
        "by_kind": by_kind,
        "seeds": seed - first_seed,
        "healed_within_s": HEALED_WITHIN_S,
        "relapse_s": RELAPSE_S,
    }


def main() -> None:
    """Both sets of kinds, or one; how many incidents at least."""
    parser = argparse.ArgumentParser(description="How many incidents the policy heals, beside doing nothing.")
    parser.add_argument("--kinds", choices=["mendable", "all", "both"], default="both")
    parser.add_argument("--incidents", type=int, default=400, help="go on until so many could be judged")
    parser.add_argument("--jobs", type=int, default=None, help="processes at once; all cores where it is left away")
    given = parser.parse_args()
    sets = {"mendable": mendable_kinds(), "all": own_kinds()}
    found = {
        name: healing_score(incidents=given.incidents, kinds=kinds, jobs=given.jobs, progress=_say)
        for name, kinds in sets.items()
        if given.kinds in (name, "both")
    }
    json.dump(found, sys.stdout, indent=1)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
