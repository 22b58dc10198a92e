"""Runs to calibrate from, made on the spot: a sweep of loads, and where it is allowed a crash with what follows it.

First as many clients as there are slots, each asking as soon as it was answered: what the nodes carry. Then Poisson loads of
30, 60 and 90 % of that, since steps under a real load differ from those under a steady one. On the rig crashes show
restarts, and a run in which idle models are let go at once shows loads; nodes of an operator's own are spared both.
What lies in the folder from an earlier call is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twin.errors import OperatorError
from twin.experiment.calibration.profile import Source, capacity_rps, source
from twin.experiment.world import World, scenario_digest
from twin.record.reader import MANIFEST, open_run
from twin.scenario.schema import Scenario

SHARES = (0.3, 0.6, 0.9)
WARMUP_S = 3.0
LEAST_S = 10.0
CRASHES = 3
LOADS_APART_S = 3.0
"""Between two requests that a node must load for, in the mean."""
SHORT_TOKENS = 8
"""Of their answers, so that a model is idle soon."""


def drive(
    world: World, scenario: Scenario, folder: Path, seconds: float, *, disrupt: bool, progress: Callable[[str], None]
) -> Iterator[Source]:
    """Make the runs, each of about `seconds`, into folders of their own, one whenever the next is asked for; the first shows
    what the nodes carry. Raises `OperatorError`."""
    if seconds < LEAST_S:
        raise OperatorError(f"--seconds {seconds:g}: at least {LEAST_S:g}, or a run tells nothing")
    live = scenario.for_live()
    slots = sum(
        live.cluster.slots_of(model) * sum(model in loaded for loaded in live.cluster.spec().placement.values())
        for model in live.cluster.models
    )
    progress(f"{slots} clients at once, for {seconds:g} s")
    clients = {"kind": "closed_loop", "clients": slots, "think_time": {"kind": "constant", "mean_s": 0.01}}
    first = _run(world, _changed(live, clients, seconds, []), folder / "all-at-once", progress)
    rate_rps = capacity_rps([first])
    if not rate_rps:
        raise OperatorError(f"{folder / 'all-at-once'}: no request succeeded, so nothing can be measured")
    yield first
    for share in SHARES:
        arrivals = {"kind": "poisson", "rate_rps": round(share * rate_rps, 4)}
        progress(f"{100 * share:g} % of what they carry: {share * rate_rps:.3g} requests/s")
        place = folder / f"poisson-{round(100 * share)}"
        yield _run(world, _changed(live, arrivals, seconds, []), place, progress)
    if disrupt:
        names = live.cluster.node_names()
        apart_s = seconds / CRASHES
        crashes = [
            {
                "kind": "server_crash",
                "at_s": round(WARMUP_S + 1.0 + number * apart_s, 3),
                "target": names[number % len(names)],
                "duration_s": apart_s,
            }
            for number in range(CRASHES)
        ]
        arrivals = {"kind": "poisson", "rate_rps": round(SHARES[0] * rate_rps, 4)}
        progress(f"{CRASHES} crashes")
        yield _run(world, _changed(live, arrivals, seconds, crashes), folder / "crash", progress)
        progress("loads: idle models are let go, so that requests find none")
        yield _run(world, _loading(live, seconds), folder / "loads", progress)


def _changed(live: Scenario, arrivals: dict[str, Any], seconds: float, faults: list[dict[str, Any]]) -> Scenario:
    document = live.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for key in ("live", "fault_generators", "orders", "abort_when", "expect"):
        document.pop(key, None)
    document["faults"] = faults
    document["workload"] |= {"arrivals": arrivals, "warmup_s": WARMUP_S, "duration_s": seconds}
    document["workload"].pop("patience", None)
    document["workload"].pop("sessions", None)
    document["record"] = {**document.get("record", {}), "journal": False}
    return Scenario.model_validate(document)


def _loading(live: Scenario, seconds: float) -> Scenario:
    """A few requests, far apart, to nodes that let go of a model as soon as it is idle; no probe keeps it."""
    arrivals = {"kind": "poisson", "rate_rps": len(live.cluster.node_names()) / LOADS_APART_S}
    document = _changed(live, arrivals, seconds, []).model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["cluster"]["keep_alive_s"] = 0.5
    document["policy"] = {"preset": "none"}
    document["workload"]["output_tokens"] = {"kind": "constant", "mean": SHORT_TOKENS}
    return Scenario.model_validate(document)


def _run(world: World, scenario: Scenario, folder: Path, progress: Callable[[str], None]) -> Source:
    if not (folder / MANIFEST).is_file():
        return source(folder, world.run(scenario, scenario.seed, folder, progress))
    record = open_run(folder)
    if record.manifest["digest"] != scenario_digest(scenario.for_live()):
        raise OperatorError(f"{folder}: it is of another scenario than asked for now; name another folder")
    return source(folder, record)
