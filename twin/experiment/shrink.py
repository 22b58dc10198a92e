"""From a run that breaks an invariant to a small scenario that still does.

Delta debugging on the list of faults (A. Zeller, R. Hildebrandt, IEEE Trans. Softw. Eng. 28 (2002) 183, ddmin): leave
away ever smaller parts of it as long as the invariant is still broken. Then, in the same manner: end the run soon after
the violation, shorten what lasts, thin out the load, take nodes away. Every step is a run, so what comes out has been
seen to break the invariant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from twin.errors import OperatorError
from twin.experiment.engines import Engine
from twin.experiment.run import new_folder, reason_of
from twin.experiment.soak import Mode, examine, for_mode, soak, summarise_soak
from twin.experiment.soak_folder import SoakFolder, resumed
from twin.experiment.timeline import pinned
from twin.experiment.twin_world import TwinWorld
from twin.scenario.loader import as_document, load, put
from twin.scenario.schema import Scenario

RUNS_MAX = 400
"""Runs that shrinking may take; what it has by then is what comes out."""

DURATION_MIN_S = 1.0
AT_END_MARGIN_S = 1.0


class Shrinker:
    """Shrinks one run. `breaks` says whether a document still breaks the invariant; it counts its runs."""

    def __init__(self, invariant: str, seed: int, mode: Mode, world: TwinWorld) -> None:
        self.invariant = invariant
        self.seed = seed
        self.mode = mode
        self.world = world
        self.runs = 0
        self.first = ""  # the violation of the last document that broke it, in words

    def breaks(self, document: dict[str, Any]) -> bool:
        """Run it. A document that is no scenario breaks nothing, nor does one when no run is left."""
        if self.runs >= RUNS_MAX:
            return False
        try:
            scenario = Scenario.model_validate(document)
        except ValidationError:
            return False
        self.runs += 1
        found = examine(scenario, self.seed, self.mode, self.world)
        if self.invariant in found["violations"]:
            self.first = found["first"][self.invariant]
            return True
        return False

    def shrink(self, document: dict[str, Any]) -> dict[str, Any]:
        """The smallest that was found; the document must break the invariant."""
        before = None
        while before != document:
            before = document
            document = self._fewer_faults(document)
            for candidates in (_shorter_run, _shorter_faults, _no_signs, _thinner_load, _fewer_nodes, _plainer_policy):
                document = self._smaller(document, candidates)
        return document

    def _fewer_faults(self, document: dict[str, Any]) -> dict[str, Any]:
        """Zeller's ddmin: the complement of ever smaller parts, until no single fault can be left away."""
        faults = document.get("faults", [])
        parts = 2
        if faults and self.breaks(document | {"faults": []}):
            return document | {"faults": []}
        while len(faults) >= 2:
            size = -(-len(faults) // parts)
            for start in range(0, len(faults), size):
                fewer = faults[:start] + faults[start + size :]
                if self.breaks(document | {"faults": fewer}):
                    faults, parts = fewer, max(2, parts - 1)
                    break
            else:
                if size == 1:
                    break
                parts = min(len(faults), 2 * parts)
        return document | {"faults": faults}

    def _smaller(
        self, document: dict[str, Any], candidates: Callable[[dict[str, Any], str], Iterator[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Take the first candidate that still breaks it, as long as there is one."""
        going = True
        while going:
            going = False
            for candidate in candidates(document, self.first):
                if candidate != document and self.breaks(candidate):
                    document, going = candidate, True
                    break
        return document


def _changed(document: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A deep copy with other values at dotted paths (a double underscore is a dot)."""
    copy: dict[str, Any] = yaml.safe_load(yaml.safe_dump(document))
    for key, value in values.items():
        put(copy, key.replace("__", "."), value, "shrinking")
    return copy


def _shorter_run(document: dict[str, Any], first: str) -> Iterator[dict[str, Any]]:
    """End soon after the violation; else halve the measured time, or what settles."""
    workload = document["workload"]
    warmup_s, duration_s = workload.get("warmup_s", 0.0), workload["duration_s"]
    last_fault_s = max((fault["at_s"] for fault in document["faults"]), default=0.0)
    if warmup_s:
        yield _changed(document, workload__warmup_s=0.0, workload__duration_s=duration_s + warmup_s)
    violated = re.match(r"at (\d+\.\d+) s", first)
    ends = [float(violated[1]) + AT_END_MARGIN_S] if violated else []
    ends += [last_fault_s + AT_END_MARGIN_S, warmup_s + duration_s / 2.0]
    for end_s in ends:
        shorter_s = round(max(end_s, last_fault_s + AT_END_MARGIN_S) - warmup_s, 1)
        if DURATION_MIN_S <= shorter_s < 0.95 * duration_s:
            yield _changed(document, workload__duration_s=shorter_s)
    first_fault_s = min((fault["at_s"] for fault in document["faults"]), default=0.0)
    if first_fault_s > 2 * DURATION_MIN_S:
        earlier_s = first_fault_s / 2.0
        faults = [fault | {"at_s": round(fault["at_s"] - earlier_s, 3)} for fault in document["faults"]]
        if duration_s - earlier_s >= DURATION_MIN_S:
            yield _changed(document | {"faults": faults}, workload__duration_s=round(duration_s - earlier_s, 3))


def _shorter_faults(document: dict[str, Any], first: str) -> Iterator[dict[str, Any]]:
    """Halve how long a fault lasts."""
    for place, fault in enumerate(document["faults"]):
        duration_s = fault.get("duration_s")
        if duration_s is not None and duration_s >= 2 * DURATION_MIN_S:
            yield _changed(document, **{f"faults__{place}__duration_s": round(duration_s / 2.0, 3)})


def _no_signs(document: dict[str, Any], first: str) -> Iterator[dict[str, Any]]:
    """Let a fault come without its signs."""
    for place, fault in enumerate(document["faults"]):
        if "lead_s" in fault and not fault.get("comes_to_nothing"):
            sudden = {key: value for key, value in fault.items() if key not in ("lead_s", "comes_to_nothing")}
            yield document | {"faults": [*document["faults"][:place], sudden, *document["faults"][place + 1 :]]}


def _plainer_policy(document: dict[str, Any], first: str) -> Iterator[dict[str, Any]]:
    """Let a parameter of the policy have the preset's value."""
    overrides = document.get("policy", {}).get("overrides", {})
    for name in overrides:
        fewer = {key: value for key, value in overrides.items() if key != name}
        yield document | {"policy": {**document["policy"], "overrides": fewer}}


def _thinner_load(document: dict[str, Any], first: str) -> Iterator[dict[str, Any]]:
    """Halve the rate of the arrivals, where they have one."""
    rate_rps = document["workload"]["arrivals"].get("rate_rps")
    if rate_rps is not None and rate_rps > 0.1:
        yield _changed(document, workload__arrivals__rate_rps=round(rate_rps / 2.0, 4))


def _fewer_nodes(document: dict[str, Any], first: str) -> Iterator[dict[str, Any]]:
    """Take the last node away, where no fault strikes it; no model may want more replicas than there are nodes."""
    cluster = document["cluster"]
    nodes = cluster.get("nodes")
    if nodes is None or nodes < 2 or any(fault.get("target") == f"node-{nodes - 1}" for fault in document["faults"]):
        return
    fewer = _changed(document, cluster__nodes=nodes - 1)
    for model in fewer["cluster"]["models"].values():
        if model.get("replicas", 1) > nodes - 1:
            model["replicas"] = nodes - 1
    yield fewer


def shrink(scenario: Scenario, seed: int, invariant: str, mode: Mode, world: TwinWorld) -> tuple[dict[str, Any], int]:
    """The small scenario as a document, and how many runs it took.

    Raises `OperatorError` where the seed with its faults written down does not break the invariant.
    """
    shrinker = Shrinker(invariant, seed, mode, world)
    document = as_document(pinned(for_mode(scenario, mode), seed))
    for name in ("expect", "abort_when", "live", "why"):  # what judges or ends a run otherwise
        trimmed = {key: value for key, value in document.items() if key != name}
        if name in document and shrinker.breaks(trimmed):
            document = trimmed
    if not shrinker.breaks(document):
        raise OperatorError(
            f"seed {seed} does not break {invariant} again; the soak can be run again with that seed alone"
        )
    small = shrinker.shrink(document)
    name = f"{invariant.replace('_', '-')}-seed-{seed}"
    small |= {"name": name, "claim": f"{invariant.replace('_', ' ').capitalize()}.", "seed": seed, "replications": 1}
    small["why"] = f"Shrunk from seed {seed} of {scenario.name}: {shrinker.first}"
    return small, shrinker.runs


def write_scenario(document: dict[str, Any], folder: Path) -> Path:
    """Write it as a scenario file that loads. Raises `OperatorError`."""
    path = folder / f"{document['name']}.yaml"
    order = ["schema", "name", "claim", "why"]
    ordered = {key: document[key] for key in [*order, *(key for key in document if key not in order)]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(ordered, sort_keys=False, width=120, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"--out {folder}: {reason_of(error)}; name a folder that can be written") from error
    load(path)
    return path


def still_breaks(path: Path, invariant: str, mode: Mode, world: TwinWorld) -> bool:
    """Whether the file does what it was made for."""
    scenario = load(path)
    return invariant in examine(scenario, scenario.seed, mode, world)["violations"]


def soak_and_shrink(
    scenario: Scenario,
    seeds: Sequence[int],
    mode: Mode,
    engine: Engine,
    out: Path,
    on_result: Callable[[int, int], None] = lambda done, wanted: None,
    command: str = "",
    world: TwinWorld | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Soak, shrink the first seed that breaks each invariant, and write both down: what `soak --json` prints.

    The folder has `soak.json`, a line for each finished seed, and a scenario file for each broken invariant. `resume`:
    the folder of one that was broken off; what it has is not run again. Raises `OperatorError`.
    """
    world = world or TwinWorld()
    kept = resumed(resume) if resume is not None else SoakFolder(new_folder(out, f"{scenario.name}-soak"))
    folder = kept.folder
    try:
        kept.begin(scenario, mode)
        found = soak(scenario, seeds, mode, engine, on_result, world, kept.rows, kept.add)
        summary = summarise_soak(scenario, found, seeds, mode) | {"command": command, "folder": str(folder)}
        for broken in summary["broken"]:
            broken.update(_shrunk(scenario, broken["seeds"][0], broken["invariant"], mode, world, folder))
        kept.write(summary)
    except OSError as error:
        raise OperatorError(
            f"{folder}: {reason_of(error)}; what is finished is kept: make room, and give --resume {folder}"
        ) from error
    return summary


def _shrunk(
    scenario: Scenario, seed: int, invariant: str, mode: Mode, world: TwinWorld, folder: Path
) -> dict[str, Any]:
    """The small scenario that breaks it, as a file that was seen to; or why there is none."""
    try:
        document, runs = shrink(scenario, seed, invariant, mode, world)
        path = write_scenario(document, folder)
    except OperatorError as error:
        return {"file": None, "why_not": str(error), "faults": None, "runs_to_shrink": None, "reproduces": False}
    return {
        "file": str(path),
        "faults": len(document["faults"]),
        "runs_to_shrink": runs,
        "reproduces": still_breaks(path, invariant, mode, world),
    }
