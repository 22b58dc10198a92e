"""Whether a defect hurt anything, and what stays hurt: read from what the record knows of the machines and of loads.

A cooling that fails on a card which stays cold throttles nothing; a disk that slows down slows nothing where nothing is
loaded; where no model is loaded no runner can hang. Such a defect was there and broke nothing, like those that the record
itself waits for (`About.emerges`): it is no failure that could be foretold, and an alarm meanwhile is neither true nor
false.

The other way round a model that was loaded while memory was short lies partly in main memory, and is slow until it is
loaded anew, long after what took the memory has gone: a node of which nobody can say that it is sound.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from twin.record.reader import RunRecord
from twin.record.recovery import equals, numbers
from twin.sim.memory import RUNNER_RAM_GIB, SERVER_RAM_GIB

HEATS = frozenset({"thermal_throttle"})
"""Kinds that hurt once the clock falls."""
LOADS = frozenset({"slow_loads", "load_stall"})
"""Kinds that hurt what is loaded while they last."""
RUNNERS = frozenset({"runner_crash", "runner_hang", "slow_decay"})
"""Kinds that hurt what is loaded already."""

CLOCK_FELL = 0.95
"""Of the highest clock that was seen of the machine. Its noise is a few megahertz."""
WORKING = 0.25
"""Utilisation from which the clock says something: below, it is down between two bursts of work."""
OFFLOADED_GIB = 0.05
"""Of models in main memory, beyond what the server and its runners take: less is rounding."""

USUAL_SHARE = 0.1
"""What is so in all samples but this share of them is how the machine is, and no damage."""

Floats = npt.NDArray[np.float64]


class Machines:
    """What a record tells of each node's machine."""

    def __init__(self, record: RunRecord) -> None:
        self._telemetry = record.table(
            "telemetry",
            [
                "time_s",
                "node",
                "gpu_utilisation",
                "gpu_clock_mhz",
                "ollama_rss_gib",
                "ollama_resident_models",
            ],
        )
        self._requests = record.table("requests", ["node", "end_s", "total_duration_s", "load_duration_s"])
        self._actions = record.table("actions", ["kind", "node", "time_s", "result_s"])
        self._probes = record.table("probes", ["kind", "node", "time_s", "latency_s"])

    def met_s(self, kind: str, node: str, injected_s: float, ended_s: float) -> float:
        """When a defect first hurt something; nan: it did not. Where nobody can tell, it did at once."""
        if kind in HEATS:
            return self._clock_fell_s(node, injected_s, ended_s)
        if kind in LOADS:
            began_s, over_s = self._loads(node)
            during = (over_s >= injected_s) & (began_s <= ended_s)
            return max(injected_s, float(began_s[during].min())) if during.any() else math.nan
        if kind in RUNNERS:
            rows = equals(self._telemetry, "node", node)
            time_s = numbers(self._telemetry, "time_s")[rows]
            loaded = numbers(self._telemetry, "ollama_resident_models")[rows]
            before = np.flatnonzero((time_s <= injected_s) & ~np.isnan(loaded))
            during = (time_s > injected_s) & (time_s <= ended_s) & ~np.isnan(loaded)
            known = np.concatenate([loaded[before[-1:]], loaded[during]])
            return injected_s if not len(known) or (known > 0.0).any() else math.nan
        return injected_s

    def _clock_fell_s(self, node: str, injected_s: float, ended_s: float) -> float:
        rows = equals(self._telemetry, "node", node)
        time_s = numbers(self._telemetry, "time_s")[rows]
        clock = numbers(self._telemetry, "gpu_clock_mhz")[rows]
        works = numbers(self._telemetry, "gpu_utilisation")[rows] > WORKING
        if not (~np.isnan(clock)).any():
            return injected_s
        fell = works & (clock < CLOCK_FELL * np.nanmax(clock)) & (time_s >= injected_s) & (time_s <= ended_s)
        return float(time_s[fell][0]) if fell.any() else math.nan

    def _loads(self, node: str) -> tuple[Floats, Floats]:
        """Beginnings and ends of all loads that were asked for: by requests, by orders, by probes."""
        requests, actions, probes = self._requests, self._actions, self._probes
        own = equals(requests, "node", node) & (numbers(requests, "load_duration_s") > 0.0)
        served_s = (numbers(requests, "end_s") - numbers(requests, "total_duration_s"))[own]
        ordered = equals(actions, "node", node) & equals(actions, "kind", "load")
        probed = equals(probes, "node", node) & equals(probes, "kind", "load_path")
        answered_s = numbers(probes, "time_s")[probed]
        began_s = np.concatenate(
            [served_s, numbers(actions, "time_s")[ordered], answered_s - numbers(probes, "latency_s")[probed]]
        )
        over_s = np.concatenate(
            [
                served_s + numbers(requests, "load_duration_s")[own],
                np.nan_to_num(numbers(actions, "result_s")[ordered], nan=np.inf),
                answered_s,
            ]
        )
        return began_s, over_s

    def offloaded(self, node: str) -> list[tuple[float, float]]:
        """From when to when a model lay partly in main memory."""
        rows = equals(self._telemetry, "node", node)
        time_s = numbers(self._telemetry, "time_s")[rows]
        of_models = (
            numbers(self._telemetry, "ollama_rss_gib")[rows]
            - SERVER_RAM_GIB
            - RUNNER_RAM_GIB * numbers(self._telemetry, "ollama_resident_models")[rows]
        )
        loaded = of_models[numbers(self._telemetry, "ollama_resident_models")[rows] > 0.0]
        loaded = loaded[~np.isnan(loaded)]
        if not len(loaded) or np.quantile(loaded, USUAL_SHARE) > OFFLOADED_GIB:
            return []  # so it is always: a machine without a GPU, or a model larger than its memory
        found: list[tuple[float, float]] = []
        began_s: float | None = None
        known = ~np.isnan(of_models)  # a sample that did not come says nothing
        for at_s, gib in zip(time_s[known].tolist(), of_models[known].tolist(), strict=True):
            if gib > OFFLOADED_GIB:
                began_s = at_s if began_s is None else began_s
            elif began_s is not None:
                found.append((began_s, at_s))
                began_s = None
        if began_s is not None:
            found.append((began_s, float(time_s[-1])))
        return found

    def nodes(self) -> list[str]:
        """Those of which there is telemetry."""
        return sorted(set(self._telemetry["node"].to_pylist()))
