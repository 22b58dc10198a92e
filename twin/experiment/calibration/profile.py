"""A calibrated profile: what was measured, from which runs, how surely, and what was not covered; and its file.

The file is YAML. A scenario names it where a machine is named (`cluster.hardware: measured.yaml`); its machine, its way and
its time for a restart take the places that the scenario leaves open.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from twin.errors import OperatorError
from twin.experiment.calibration.fits import bootstrapped, decoding, least_load_s, prefill, room, server, way_s
from twin.experiment.calibration.occupancy import Numbers, joined, served, shared
from twin.experiment.replication import this_version
from twin.experiment.world import given_twice, other_machine
from twin.record.figures import compute_figures
from twin.record.reader import RunRecord, RunUnreadable
from twin.record.recovery import numbers, recoveries
from twin.record.schema import RECORD_VERSION
from twin.scenario.schema import Scenario

RUNNER_START_S = 0.3
"""Of a load that was seen at one size alone, so much is taken for the start of the process (`Hardware.runner_start_s`)."""

USUAL = (5.0, 95.0)
"""Percentiles of the lengths between which a mean is taken to have been measured."""
ENOUGH_FOR_SPREAD = 5
"""Loads or restarts from which on their spread says something; with fewer the scenario's own is kept."""


@dataclass(frozen=True, slots=True)
class Source:
    """A run to calibrate from."""

    folder: Path
    record: RunRecord
    scenario: Scenario


def source(folder: Path, record: RunRecord) -> Source:
    """A run with the scenario that it was made from. Raises `OperatorError` where it broke off or cannot be used."""
    if record.manifest.get("aborted"):
        raise OperatorError(f"{folder}: it was broken off ({record.manifest['aborted']}); calibrate from whole runs")
    try:
        scenario = Scenario.model_validate(record.manifest["scenario"])
    except ValueError as error:
        raise RunUnreadable(f"{folder}: its scenario is of another version; run it again") from error
    return Source(folder, record, scenario.for_live() if record.manifest["world"] == "live" else scenario)


def calibrate(name: str, sources: Sequence[Source]) -> dict[str, Any]:
    """The profile as plain data. Raises `OperatorError` where the runs do not belong together or tell too little."""
    first = sources[0].scenario.cluster
    models = list(first.models)
    of_first = sources[0].record.manifest
    twice = given_twice([it.folder for it in sources])
    if twice is not None:
        raise OperatorError(f"{twice}: given twice; it would count double")
    for it in sources[1:]:
        manifest = it.record.manifest
        unlike = other_machine(of_first["machine"], manifest["machine"])
        if manifest["version"] != of_first["version"]:
            unlike.insert(0, ("version", of_first["version"], manifest["version"]))
        for what, there, here in unlike:
            raise OperatorError(
                f"{it.folder}: {what} {here}, that of {sources[0].folder} is {there}; calibrate each by itself"
            )
        cluster = it.scenario.cluster
        if list(cluster.models) != models or cluster.slots_per_model != first.slots_per_model:
            raise OperatorError(
                f"{it.folder}: another cluster ({', '.join(cluster.models)}, {cluster.slots_per_model} slots) than that of "
                f"{sources[0].folder}; calibrate each by itself"
            )
        if cluster.hardware_of_nodes()[0] != first.hardware_of_nodes()[0]:
            raise OperatorError(
                f"{it.folder}: another machine than that of {sources[0].folder}; calibrate each by itself"
            )
    model = max(models, key=lambda each: first.models[each].replicas)
    slots = first.slots_of(model)
    together = [nodes_each(it.record) for it in sources]
    if len(set(together)) > 1:
        raise OperatorError(
            f"{sources[0].folder} had {together[0]} nodes on one processor, another {max(together)}; "
            "calibrate from runs of one cluster"
        )
    parts, block = [], 0
    for it in sources:
        part = served(it.record, slots, model, block, together[0])
        block = int(part.block.max(initial=block)) + 2
        parts.append(part)
    apart = joined(parts)
    room_of_host = room(apart)
    whole = shared(apart, room_of_host if room_of_host > 0.0 else 1.0)
    found = decoding(whole)
    steps_s = found.steps_s
    per_token_s, start_s, growth_s = prefill(whole, found)
    if np.isnan(steps_s).all():
        raise OperatorError(
            f"{len(whole)} requests of {model} with Ollama's timings are too few to tell a step; give longer runs"
        )
    intervals = bootstrapped(apart)
    loads = _loads(sources, model)
    restarts = _durations(sources, "restart")
    not_covered = _not_covered(steps_s, per_token_s, loads, restarts, models, model)
    covered_sizes = np.flatnonzero(~np.isnan(steps_s)) + 1
    filled_ms = _filled(steps_s) * 1000.0
    server_s, joining_s, joining_steps, server_cv = np.nan_to_num(server(whole, found)).tolist()
    server_s += 0.0 if np.isnan(start_s) else start_s
    hardware: dict[str, Any] = {
        **first.hardware_of_nodes()[0].model_dump(exclude={"calibration", "thermal"}, exclude_defaults=True),
        "decode_ms": [_round(it) for it in filled_ms.tolist()],
        "prefill_tokens_per_s": None if np.isnan(per_token_s) else _round(1.0 / per_token_s),
        "prefill_growth_us": 0.0 if np.isnan(growth_s) else _round(growth_s * 1e6),
        "server_ms": _round(server_s * 1000.0),
        "server_cv": _round(min(3.0, server_cv)),
        "joining_ms": _round(joining_s * 1000.0),
        # In the node model a prefill is the prompt alone: the steps that Ollama counts to it are waited for before.
        "joining_steps": _round(joining_steps + found.beside_prompt),
        "reference_model_gib": first.size_gib(model),
        "calibration": {
            "name": name,
            "batch_max": int(covered_sizes.max()),
            "prompt_tokens": np.percentile(whole.prompt_tokens, USUAL).tolist(),
            "output_tokens": np.percentile(whole.output_tokens, USUAL).tolist(),
            "models": [model],
            "nodes_each": together[0],
        },
    }
    cold = loads["cold_s"] or loads["warm_s"]
    if cold:
        load_s = float(np.mean(cold))
        begin_s = min(RUNNER_START_S, 0.8 * load_s)
        hardware |= {
            "runner_start_s": _round(begin_s),
            "load_gib_per_s": _round(first.size_gib(model) / (load_s - begin_s)),
        }
    way = way_s(whole)
    of_cluster: dict[str, Any] = {"network": {"latency_ms": _round(way / 2.0 * 1000.0)}}
    if room_of_host > 0.0:
        of_cluster["hosts"] = {"nodes_each": together[0], "room": _round(room_of_host)}
    if restarts:
        of_cluster["restart_s"] = _round(float(np.mean(restarts)))
        if len(restarts) >= ENOUGH_FOR_SPREAD:
            of_cluster["restart_cv"] = _cv(restarts)
    if len(cold) >= ENOUGH_FOR_SPREAD:
        of_cluster["load_cv"] = _cv(cold)
    return {
        "profile": 1,
        "name": name,
        "hardware": hardware,
        "cluster": of_cluster,
        "measured": {
            "requests": len(whole),
            "capacity_rps": capacity_rps(sources),
            "room": _with_ends(np.array([room_of_host]), intervals["room"], 1.0),
            "decode_ms": _with_ends(steps_s * 1000.0, intervals["decode_s"]),
            "prefill_us_per_token": _with_ends(np.array([per_token_s * 1e6]), intervals["prefill_s"][:1], 1e6),
            "prefill_growth_us": _with_ends(np.array([growth_s * 1e6]), intervals["prefill_s"][2:], 1e6),
            "prompt_start_ms": _round(start_s * 1000.0),
            "server_ms": _with_ends(np.array([server_s * 1000.0]), intervals["server"][:1]),
            "joining_ms": _with_ends(np.array([joining_s * 1000.0]), intervals["server"][1:2]),
            "joining_steps": _with_ends(np.array([joining_steps]), intervals["server"][2:3], 1.0),
            "beside_prompt_steps": _with_ends(np.array([found.beside_prompt]), intervals["beside_prompt"], 1.0),
            "server_cv": _with_ends(np.array([server_cv]), intervals["server"][3:], 1.0),
            "gateway_and_network_ms": _with_ends(np.array([way * 1000.0]), intervals["way_s"]),
            **{key: _summary(values) for key, values in loads.items()},
            "restart_s": _summary(restarts),
            "detection_s": _detections(sources),
        },
        "not_covered": not_covered,
        "runs": [
            {"folder": it.folder.name, "digest": it.record.manifest["digest"], "seed": it.record.manifest["seed"],
             "world": it.record.manifest["world"]}
            for it in sources
        ],
        "machine": sources[0].record.manifest["machine"],
        "version": this_version(),
        "record_version": RECORD_VERSION,
    }  # fmt: skip


def nodes_each(record: RunRecord) -> int:
    """How many nodes of a run had a processor in common: what its scenario says, else how the rig pinned them."""
    manifest = record.manifest
    cluster = Scenario.model_validate(manifest["scenario"]).cluster
    if manifest["world"] != "live":
        return 1 if cluster.hosts is None else cluster.hosts.nodes_each
    cores = (manifest.get("cores") or {}).get("nodes")
    if manifest.get("nodes") != "real" or not cores:
        return 1
    return math.ceil(len(cluster.node_names()) / len(cores))


def capacity_rps(sources: Sequence[Source]) -> float | None:
    """Requests per second that the nodes carry when they are never idle, the mean of the runs that had as many clients as
    slots; None where none had."""
    found = [
        compute_figures(it.record)["requests_succeeded"] / it.scenario.workload.duration_s
        for it in sources
        if it.scenario.workload.arrivals.kind == "closed_loop"
    ]
    return _round(statistics.fmean(found)) if found else None


def _round(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(float(f"{value:.5g}"), 9)


def _cv(values: Sequence[float]) -> float | None:
    """Coefficient of variation; at most what a scenario takes."""
    return _round(min(3.0, float(np.std(values, ddof=1) / np.mean(values))))


def _filled(steps_s: Numbers) -> Numbers:
    """Steps up to the largest batch that was seen; what is missing between is drawn as a straight line."""
    seen = np.flatnonzero(~np.isnan(steps_s))
    return np.interp(np.arange(seen.max() + 1), seen, steps_s[seen])


def _with_ends(values: Numbers, ends: list[list[float | None]], scale: float = 1000.0) -> list[dict[str, Any]]:
    return [
        {"value": _round(value), "ci95": [None if it is None else _round(it * scale) for it in pair]}
        for value, pair in zip(values.tolist(), ends, strict=True)
    ]


def _summary(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"n": 0, "median": None, "range": None}
    return {
        "n": len(values),
        "median": _round(float(np.median(values))),
        "range": [_round(min(values)), _round(max(values))],
    }


def _loads(sources: Sequence[Source], model: str) -> dict[str, list[float]]:
    """How long loads took: the first on a node is cold, the others are warm (its files may be in memory)."""
    cold: list[float] = []
    warm: list[float] = []
    waits = np.concatenate(
        [numbers(it.record.table("requests", ["load_duration_s"]), "load_duration_s") for it in sources]
    )
    least_s = least_load_s(waits)
    for it in sources:
        seen: set[str] = set()
        found = [
            (action["result_s"], action["node"], action["result_s"] - action["time_s"])
            for action in it.record.table("actions").to_pylist()
            if action["kind"] == "load" and action["status"] == "done" and action["model"] == model
        ]
        table = it.record.table("requests", ["model", "node", "outcome", "load_duration_s", "end_s"]).to_pylist()
        found += [
            (row["end_s"], row["node"], row["load_duration_s"])
            for row in table
            if row["outcome"] == "succeeded" and row["model"] == model and (row["load_duration_s"] or 0.0) > least_s
        ]
        for _, node, took_s in sorted(found):
            (warm if node in seen else cold).append(took_s)
            seen.add(node)
    return {"cold_s": cold, "warm_s": warm}


def _durations(sources: Sequence[Source], kind: str) -> list[float]:
    return [
        action["result_s"] - action["time_s"]
        for it in sources
        for action in it.record.table("actions").to_pylist()
        if action["kind"] == kind and action["status"] == "done"
    ]


def _detections(sources: Sequence[Source]) -> dict[str, Any]:
    """TTD by fault kind."""
    found: dict[str, list[float]] = {}
    for it in sources:
        for recovery in recoveries(it.record):
            if recovery.ttd.value_s is not None:
                found.setdefault(recovery.kind, []).append(recovery.ttd.value_s)
    return {kind: _summary(values) for kind, values in sorted(found.items())}


def _not_covered(
    steps_s: Numbers,
    per_token_s: float,
    loads: dict[str, list[float]],
    restarts: Sequence[float],
    models: Sequence[str],
    model: str,
) -> list[str]:
    """What nobody saw, in words."""
    missing = [str(place + 1) for place, step in enumerate(steps_s.tolist()) if np.isnan(step)]
    said = [f"batches of {', '.join(missing)}: too few tokens"] if missing else []
    if np.isnan(per_token_s):
        said.append("prefill: too few prompts were evaluated alone")
    if not loads["cold_s"]:
        said.append("cold loads: none was seen; the speed of loading is the one of the runs' scenario")
    if not restarts:
        said.append("restarts: none was seen; the time of a restart is the scenario's")
    said += [f"model {other}: only {model} was calibrated" for other in models if other != model]
    return said


def write_profile(path: Path, profile: dict[str, Any]) -> None:
    """Raises `OperatorError`."""
    head = "# A machine as `ollamamax calibrate` measured it. Name this file under cluster.hardware in a scenario.\n"
    try:
        path.write_text(head + yaml.safe_dump(profile, sort_keys=False, width=120), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"--out {path}: {error.strerror}; name a file that can be written") from error
