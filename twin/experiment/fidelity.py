"""The twin held against live runs: the same arrivals and token counts, the same faults on the same nodes, figure by figure.

Contracts for reports:

    twin_and_live(live, twin) -> list of rows, one for each figure of FIGURES:
        {"figure", "unit", "live": {"mean", "values", "spread"}, "twin": {"mean", "ci95", "n"}, "error", "error_share",
         "aim_share", "verdict", "reason", "each_run"}
        `each_run`: for each live run the error as a share of it, of the twin runs that stand beside it (as many for the
        first as for the second, and so on): where all have one sign the twin is wrong, however much live runs differ
    with_own_speed(rows, live, twin) -> the rows with "own_speed": {"twin", "error_share", "each_run", "verdict"}, of twin
        runs whose steps take as long as in the live run that each stands beside
    rank_agreement(live, twin, figure) -> {"figure", "policies", "live", "twin", "pairs", "tau"}

`live` and `twin` are records (`RunRecord`) of the same scenario. `error` is twin - live in the figure's unit,
`error_share` of live's mean. `spread` is the largest less the smallest of the live runs of one seed: what the live system
differs by from itself. Verdicts and aims are those of `twin.experiment.beside`.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from twin.errors import OperatorError
from twin.experiment.beside import TAIL, agreement, limit_of
from twin.experiment.calibration.fits import way_s
from twin.experiment.calibration.occupancy import Served, joined, served, shared
from twin.experiment.statistics import interval
from twin.experiment.twin_world import TwinWorld
from twin.experiment.verdict import look_up
from twin.record.figures import compute_figures
from twin.record.names import FIGURES as UNITS
from twin.record.reader import RunRecord
from twin.scenario.calibrated import put_profiles, read_profile
from twin.scenario.generators import expanded
from twin.scenario.schema import Scenario

AIMS: dict[str, float] = {
    name: limit_of(name)
    for name in (
        "e2e_s.mean",
        "e2e_s.p50",
        "e2e_s.p95",
        "ttft_s.mean",
        "ttft_s.p50",
        "ttft_s.p95",
        "queue_wait_s.mean",
        "success_ratio",
        "requests_lost",
        "ttd_s",
        "ttm_s",
        "ttr_s",
    )
}
"""Figures that are held against each other, and the share of live's mean within which the twin is close."""
PARTS_OF = {"queue_wait_s.mean": "e2e_s.mean"}
"""Figures that are next to nothing on a calm day, and the figure that they are a part of."""
DRIFT_SHARE = 0.10
"""What takes so much longer or shorter than in the profile has drifted."""
WAY_DRIFT_MS = 5.0
LEAST_REPEATS = 3


def twin_and_live(live: Sequence[RunRecord], twin: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Live beside twin, figure by figure; the module's text says what is in a row."""
    of_live = [compute_figures(record) for record in live]
    of_twin = [compute_figures(record) for record in twin]
    beside = len(of_twin) // len(of_live)
    pairs = [([one], of_twin[at * beside : (at + 1) * beside]) for at, one in enumerate(of_live)]
    return [
        _row(name, of_live, of_twin) | {"each_run": [_row(name, *pair)["error_share"] for pair in pairs]}
        for name in AIMS
    ]


def with_own_speed(
    rows: Sequence[Mapping[str, Any]], live: Sequence[RunRecord], twin: Sequence[RunRecord]
) -> list[dict[str, Any]]:
    """The rows, and beside each what the twin says where its machines decode as fast as those of the live runs did."""
    again = twin_and_live(live, twin)
    kept = ("error_share", "each_run", "verdict")
    return [
        {**row, "own_speed": {"twin": it["twin"]["mean"], **{key: it[key] for key in kept}}}
        for row, it in zip(rows, again, strict=True)
    ]


def _row(name: str, live: Sequence[Mapping[str, Any]], twin: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seen = [value for one in live if (value := look_up(dict(one), name)) is not None]
    simulated = [value for one in twin if (value := look_up(dict(one), name)) is not None]
    row: dict[str, Any] = {
        "figure": name,
        "unit": UNITS[name.partition(".")[0]][0],
        "live": {"mean": None, "values": seen, "spread": None},
        "twin": {"mean": None, "ci95": None, "n": len(simulated)},
        "error": None,
        "error_share": None,
        "aim_share": AIMS[name],
        "verdict": "unknown",
        "reason": "",
    }
    if simulated:
        row["twin"]["mean"], row["twin"]["ci95"] = interval(simulated)
    if seen:
        row["live"]["mean"] = statistics.fmean(seen)
        row["live"]["spread"] = max(seen) - min(seen) if len(seen) >= LEAST_REPEATS else None
    if not seen or not simulated:
        neither = not seen and not simulated
        row["reason"] = "observed in neither world" if neither else f"observed in {'live' if seen else 'twin'} alone"
        return row
    error = row["twin"]["mean"] - row["live"]["mean"]
    share = error / abs(row["live"]["mean"]) if row["live"]["mean"] else None
    row |= {"error": error, "error_share": share}
    found = agreement(seen, simulated, AIMS[name])
    if found == "off" and name in PARTS_OF:  # a part of a latency counts by what it does to the whole
        whole = [value for one in live if (value := look_up(dict(one), PARTS_OF[name])) is not None]
        if whole and abs(error) <= AIMS[name] * statistics.fmean(whole):
            return row | {"verdict": "close", "reason": f"within {100 * AIMS[name]:g} % of {PARTS_OF[name]}"}
    if found == "off" and len(seen) < LEAST_REPEATS:
        return row | {"reason": f"observed in {len(seen)} of {len(live)} live runs: how much they differ is not known"}
    reasons = {
        "indistinguishable": "no more than live runs differ from each other",
        "close": f"within {100 * AIMS[name]:g} %",
        "off": f"more than {100 * AIMS[name]:g} % and than live's own spread",
    }
    return row | {"verdict": found, "reason": reasons[found]}


def beyond_its_aim(row: Mapping[str, Any]) -> bool:
    """Whether a latency is farther off than it should be, and passes for no more than that live runs differ as much.

    Times of detection, mitigation and recovery hang on which request met a failure: of those no more is asked.
    """
    share = row["error_share"]
    excused = row["verdict"] == "indistinguishable" and row["figure"] not in TAIL
    return bool(excused and share is not None and abs(share) > row["aim_share"])


def rank_agreement(
    live: Mapping[str, Sequence[float]], twin: Mapping[str, Sequence[float]], figure: str
) -> dict[str, Any]:
    """Kendall's tau between the orders in which the two worlds put the policies, by the means of a figure over their runs.

    Of the pairs that live can tell apart it is the share in the same order less the share in the opposite one; None where
    no pair can be told apart. That is where the means differ by no more than the runs of one of the two policies do.
    """
    names = [name for name in live if name in twin]
    of_live = {name: statistics.fmean(live[name]) for name in names}
    of_twin = {name: statistics.fmean(twin[name]) for name in names}
    spread = {name: max(live[name]) - min(live[name]) for name in names}
    told = [
        (one, two)
        for one, two in combinations(names, 2)
        if abs(of_live[one] - of_live[two]) > max(spread[one], spread[two])
    ]
    signs = [math.copysign(1.0, of_live[one] - of_live[two]) * _sign(of_twin[one] - of_twin[two]) for one, two in told]
    return {
        "figure": figure,
        "policies": names,
        "live": list(of_live.values()),
        "twin": list(of_twin.values()),
        "pairs": len(told),
        "tau": sum(signs) / len(signs) if signs else None,
    }


def _sign(value: float) -> float:
    return math.copysign(1.0, value) if value else 0.0


# -- the same load in the twin ------------------------------------------------------------------------------------


def write_trace(record: RunRecord, path: Path) -> float:
    """What a live run was asked, as a trace: true times and token counts. When its first request came, in seconds.

    A request that was answered has the tokens that the node really evaluated and gave; of others what was wanted is known.
    """
    rows = record.table("requests").to_pylist()
    if not rows:
        raise OperatorError(f"{record.folder}: no request was offered, so there is nothing to replay")
    rows.sort(key=lambda row: row["arrival_s"])
    begin_s = float(rows[0]["arrival_s"])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arrival_s", "prompt_tokens", "output_tokens", "model", "stream"])
        for row in rows:
            ended_well = row["outcome"] == "succeeded"
            prompt = row["prompt_eval_count"] if ended_well and row["prompt_eval_count"] else row["prompt_tokens"]
            output = row["tokens_received"] if ended_well and row["tokens_received"] else row["output_tokens"]
            stream = "true" if row["stream"] else "false"
            writer.writerow([f"{row['arrival_s'] - begin_s:.6f}", max(1, prompt), max(1, output), row["model"], stream])
    return begin_s


def replayed_in_twin(record: RunRecord, profile: Path, trace: Path) -> Scenario:
    """The scenario of a live run for the twin: calibrated machines, the very requests, the faults on the nodes they struck.

    Raises `OperatorError`, also where the run lies outside of what was calibrated.
    """
    live = Scenario.model_validate(record.manifest["scenario"])
    if live.workload.patience is not None or live.workload.sessions is not None:
        raise OperatorError(
            "fidelity replays requests as they came; clients with patience or sessions ask by what they get"
        )
    live = expanded(live, int(record.manifest["seed"]))
    begin_s = write_trace(record, trace)
    document = live.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["cluster"] |= {"hardware": str(profile.absolute())}
    for key in read_profile(profile).get("cluster", {}):  # measured, so not what the scenario assumes
        document["cluster"].pop(key, None)
    if any(group.hardware is not None for group in live.cluster.groups or []):
        raise OperatorError("fidelity is for nodes of one kind: groups of several need a profile for each")
    put_profiles(document, Path.cwd())
    document["workload"] |= {
        "arrivals": {"kind": "trace", "file": str(trace.absolute())},
        "prompt_tokens": {"kind": "from_trace"},
        "output_tokens": {"kind": "from_trace"},
        "warmup_s": max(0.0, live.workload.warmup_s - begin_s),
    }
    document.pop("live", None)
    document["record"] = {**document.get("record", {}), "journal": False}
    struck: dict[int, list[str]] = {}
    for row in record.table("faults", ["fault_id", "node"]).to_pylist():
        struck.setdefault(row["fault_id"], []).append(row["node"])
    for place, fault in enumerate(document.get("faults", [])):
        fault["at_s"] = max(0.0, fault["at_s"] - begin_s)
        if len(struck.get(place, [])) == 1:
            fault["target"] = struck[place][0]
    return _valid(document)


def _valid(document: dict[str, Any]) -> Scenario:
    try:
        return Scenario.model_validate(document)
    except ValueError as error:
        reason = str(error).splitlines()
        said = next((line.strip() for line in reason if "outside of the calibration" in line), reason[-1])
        raise OperatorError(said.removeprefix("Value error, ").partition(" [type=")[0]) from error


def simulate_beside(
    live: Sequence[RunRecord],
    profile: Path,
    folder: Path,
    replications: int,
    progress: Callable[[str], None],
    decoding_takes: Sequence[float] = (),
) -> list[RunRecord]:
    """Twin runs of each live run, with other phases of the policy's clock, and of its turns where the nodes are alike.

    `decoding_takes`: for each live run, how many times as long a step takes as in the profile; empty: as long.
    Raises `OperatorError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, record in enumerate(live):
        scenario = replayed_in_twin(record, profile, folder / f"requests-{number}.csv")
        if decoding_takes:
            scenario = _slower(scenario, decoding_takes[number])
        for seed in range(1, replications + 1):
            progress(f"twin: run {number + 1} of {len(live)}, {seed} of {replications}")
            found.append(TwinWorld().run(struck_in_turn(scenario, seed - 1), seed, None, lambda line: None))
    return found


def _slower(scenario: Scenario, times: float) -> Scenario:
    """The same on machines whose steps take so many times as long."""
    hardware = scenario.cluster.hardware_of_nodes()[0]
    slower = hardware.model_copy(update={"decode_ms": [step_ms * times for step_ms in hardware.decode_ms]})
    return scenario.model_copy(update={"cluster": scenario.cluster.model_copy(update={"hardware": slower})})


def struck_in_turn(scenario: Scenario, turns: int) -> Scenario:
    """The same with every struck node so many places further on, where all nodes are alike.

    Whose turn it was when a node failed decides which request meets the failure first. Live, it follows from
    everything before; in a replay it would be the same in every run, and one accident would pass for a law.
    """
    cluster = scenario.cluster
    names = cluster.node_names()
    targets = [str(fault.target) for fault in scenario.faults]
    alike = cluster.network.racks is None and cluster.network.zones is None
    alike = alike and all(model.replicas == len(names) for model in cluster.models.values())
    if not alike or not all(target in names for target in targets):
        return scenario
    place = {name: names[(at + turns) % len(names)] for at, name in enumerate(names)}
    faults = [fault.model_copy(update={"target": place[str(fault.target)]}) for fault in scenario.faults]
    return scenario.model_copy(update={"faults": faults})


def decoding_takes(profile: Mapping[str, Any], live: Sequence[RunRecord]) -> float:
    """How many times as long decoding takes in these runs as with the profile's steps, over all their batches."""
    return _decoding_takes(profile, _served(profile, live))


def _decoding_takes(profile: Mapping[str, Any], of: Served) -> float:
    steps_ms = profile["hardware"]["decode_ms"]
    exposure_s = of.exposure_s.sum(axis=2)
    places = np.minimum(np.arange(exposure_s.shape[1]), len(steps_ms) - 1)
    expected = (exposure_s / (np.array(steps_ms)[places] / 1000.0)).sum()
    [beside_prompt] = profile["measured"].get("beside_prompt_steps", [{"value": 0.0}])  # older profiles have none
    expected += beside_prompt["value"] * of.prompts_beside.sum()
    return float(expected / of.steps.sum()) if of.steps.sum() else 1.0


def _served(profile: Mapping[str, Any], live: Sequence[RunRecord]) -> Served:
    calibration = profile["hardware"]["calibration"]
    parts, block = [], 0
    for record in live:
        cluster = Scenario.model_validate(record.manifest["scenario"]).cluster
        model = calibration["models"][0]
        part = served(record, cluster.slots_of(model), model, block, calibration.get("nodes_each", 1))
        block = int(part.block.max(initial=block)) + 2
        parts.append(part)
    return shared(joined(parts), profile["cluster"].get("hosts", {}).get("room", 1.0))


def drift(profile: Mapping[str, Any], live: Sequence[RunRecord]) -> list[str]:
    """Where live runs have left the profile: a line for each of decoding, way and restart that takes another time now."""
    model = profile["hardware"]["calibration"]["models"][0]
    if any(model not in Scenario.model_validate(it.manifest["scenario"]).cluster.models for it in live):
        return [f"the profile is of {model}, which these runs do not serve"]
    said = []
    whole = _served(profile, live)
    now_ms, then_ms = way_s(whole) * 1000.0, 2.0 * profile["cluster"]["network"]["latency_ms"]
    if abs(now_ms - then_ms) > WAY_DRIFT_MS + DRIFT_SHARE * then_ms:
        said.append(f"gateway and network take {now_ms:.3g} ms, the profile has {then_ms:.3g} ms: calibrate again")
    restarts = [
        action["result_s"] - action["time_s"]
        for record in live
        for action in record.table("actions", ["kind", "status", "time_s", "result_s"]).to_pylist()
        if action["kind"] == "restart" and action["status"] == "done"
    ]
    span_s = profile["measured"]["restart_s"]["range"]
    if restarts and span_s:
        now_s = statistics.median(restarts)
        if not span_s[0] * (1.0 - DRIFT_SHARE) <= now_s <= span_s[1] * (1.0 + DRIFT_SHARE):
            said.append(f"a restart takes {now_s:.3g} s, in the profile {span_s[0]:.3g} to {span_s[1]:.3g} s")
    times = _decoding_takes(profile, whole)
    if abs(times - 1.0) > DRIFT_SHARE:
        said.append(f"decoding takes {times:.3g} times as long as with the profile's steps: calibrate again")
    return said
