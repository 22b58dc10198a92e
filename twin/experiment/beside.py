"""Two worlds, one scenario: the figures of live runs beside those of the twin, each with its spread, and a verdict.

The verdict on a figure:

- **indistinguishable**: the means differ by no more than live runs do among each other (from the lowest to the highest
  run). That shows nothing, so nobody may call it accurate. Of a single live run nobody knows that spread; it is
  indistinguishable where it lies between the lowest and the highest run of the twin: it could have been one of them.
- **close**: else, where the relative difference is at most 5 % of a mean, a median or a count, and at most 10 % of a
  95th or 99th percentile or of a time of recovery.
- **off**: else. **unknown** where one of the worlds did not observe it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from twin.experiment.statistics import interval
from twin.experiment.verdict import look_up
from twin.record.names import SUMMARIES
from twin.record.story import Story

Verdict: TypeAlias = Literal["indistinguishable", "close", "off", "unknown"]

FIGURES_COMPARED = (
    "requests_offered",
    "requests_lost",
    "success_ratio",
    "attempts_per_request",
    "ttd_s",
    "ttm_s",
    "ttr_s",
    *(f"{name}.{key}" for name in SUMMARIES for key in ("mean", "p50", "p95", "p99")),
    "tokens_generated",
    "incidents",
    "false_actions",
)
UNLIKE = 0.15  # of a mean of the load: more than chance makes it in a few hundred requests
CLOSE = 0.05
CLOSE_IN_THE_TAIL = 0.10
TAIL = ("ttd_s", "ttm_s", "ttr_s")


def compare_worlds(live: Sequence[dict[str, Any]], twin: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a figure: {figure, live, twin, difference, relative, verdict}, from the figures of the runs of each world.

    `live` and `twin` there are {mean, low, high, ci95, n} or None. `difference` is twin - live, `relative` the same as a
    share of live, None where live is 0.
    """
    return [_row(name, live, twin) for name in FIGURES_COMPARED]


def limit_of(name: str) -> float:
    """Up to which relative difference a figure is close."""
    return CLOSE_IN_THE_TAIL if name in TAIL or name.endswith((".p95", ".p99")) else CLOSE


def unlike(live: Story, twin: Story) -> list[str]:
    """In what the two are no runs of the same thing, each in a few words: load, nodes, machines, policy. Empty: they are."""
    found = []
    for key, what in (
        ("requests_per_s", "requests per second"),
        ("prompt_tokens", "tokens of a prompt"),
        ("output_tokens", "tokens of an answer"),
    ):
        one, two = live.load[key], twin.load[key]
        if one and two and abs(two - one) > UNLIKE * one:
            found.append(f"{what} (live {one:.3g}, twin {two:.3g} on average)")
    if live.nodes_in_all != twin.nodes_in_all:
        found.append(f"nodes (live {live.nodes_in_all}, twin {twin.nodes_in_all})")
    if live.manifest.get("nodes") not in (None, "emulated") and (machine := _guessed(twin.manifest["scenario"])):
        found.append(f"machines (live its own, twin {machine}; `ollamamax calibrate` makes a profile of one's own)")
    presets = [str(it.manifest["scenario"].get("policy")) for it in (live, twin)]
    if presets[0] != presets[1]:
        found.append("the policy's settings")
    return found


def _guessed(scenario: dict[str, Any]) -> str:
    """The machine of the catalogue that the twin has in place of the real one; empty where a calibrated one stands."""
    cluster = scenario.get("cluster") or {}
    machines = [group.get("hardware") or cluster.get("hardware") for group in cluster.get("groups") or [cluster]]
    guessed = [
        it if isinstance(it, str) else "one that was not measured" for it in machines if it and not _measured(it)
    ]
    return ", ".join(dict.fromkeys(guessed))


def _measured(hardware: Any) -> bool:
    return isinstance(hardware, dict) and bool(hardware.get("calibration"))


def as_live(scenario: dict[str, Any]) -> list[str]:
    """What to `--set` so that the twin runs what the live world ran: the scenario's own `live` settings."""
    settings = scenario.get("live") or {}
    paths = {
        "slots_per_model": "cluster.slots_per_model",
        "rate_rps": "workload.arrivals.rate_rps",
        "arrivals": "workload.arrivals",
        "prompt_tokens": "workload.prompt_tokens",
        "output_tokens": "workload.output_tokens",
    }
    return [
        f"{path}={json.dumps(_given(settings[key]))}" for key, path in paths.items() if settings.get(key) is not None
    ]


def _given(value: Any) -> Any:
    """Without the keys that were not given."""
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value


def band(stories: Sequence[Story], series: str, column: str) -> list[dict[str, Any]]:
    """A value over the time of several runs: {at, low, middle, high} over the runs at each step.

    `series` and `column` name a list of a `Story` and a column of it, for instance `latency` and `e2e_p95`.
    """
    at_step: dict[float, list[float]] = {}
    for story in stories:
        for row in getattr(story, series):
            if row[column] is not None:
                at_step.setdefault(float(row["at"]), []).append(float(row[column]))
    return [
        {"at": at, "low": min(values), "middle": statistics.median(values), "high": max(values)}
        for at, values in sorted(at_step.items())
    ]


def _row(name: str, live: Sequence[dict[str, Any]], twin: Sequence[dict[str, Any]]) -> dict[str, Any]:
    of_live, of_twin = _spread(name, live), _spread(name, twin)
    row: dict[str, Any] = {"figure": name, "live": of_live, "twin": of_twin, "difference": None, "relative": None}
    if of_live is None or of_twin is None:
        return row | {"verdict": "unknown"}
    difference = of_twin["mean"] - of_live["mean"]
    relative = difference / abs(of_live["mean"]) if of_live["mean"] else None
    return row | {
        "difference": difference,
        "relative": relative,
        "verdict": agreement(_values(name, live), _values(name, twin), limit_of(name)),
    }


def agreement(live: Sequence[float], twin: Sequence[float], limit: float) -> Verdict:
    """The verdict on what a figure was in the runs of each world; `limit` is the relative difference that is close."""
    if not live or not twin:
        return "unknown"
    of_live = statistics.fmean(live)
    error = statistics.fmean(twin) - of_live
    same = min(twin) <= of_live <= max(twin) if len(live) == 1 else abs(error) <= max(live) - min(live)
    if same:
        return "indistinguishable"
    return "close" if of_live and abs(error) <= limit * abs(of_live) else "off"


def _spread(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    values = _values(name, runs)
    if not values:
        return None
    mean, ci95 = interval(values)
    return {"mean": mean, "low": min(values), "high": max(values), "ci95": ci95, "n": len(values)}


def _values(name: str, runs: Sequence[dict[str, Any]]) -> list[float]:
    return [value for value in (look_up(figures, name) for figures in runs) if value is not None]
