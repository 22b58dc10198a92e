"""Times to detection, mitigation and recovery over many faults, those that were not seen to their end among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from twin.experiment.conduct import words
from twin.experiment.statistics import censored_times
from twin.experiment.study import Line, key_of
from twin.record.story import Story

Name: TypeAlias = Literal["ttd_s", "ttm_s", "ttr_s"]


@dataclass(frozen=True, slots=True)
class TimesOf:
    """The times of one group of faults: a point of a study, or the runs of one command.

    `faults` are {value_s, censored, kind, node, seed}; the value of a censored one is what it is longer than. Faults
    after which there was nothing to observe are only counted. `median` and the rest are `statistics.censored_times`.
    `limit_s` is what the scenario expects at most, `within` how many of the faults are known to have kept it.
    """

    label: str
    name: Name
    faults: list[dict[str, Any]]
    nothing: int
    summary: dict[str, Any]
    limit_s: float | None
    within: int | None


def times_of_study(study: Mapping[str, Any], lines: Sequence[Line], name: Name) -> list[TimesOf]:
    """One group for each point of a study."""
    found = []
    for point in study["points"]:
        of_point = [line for line in lines if key_of(line["settings"]) == key_of(point["settings"])]
        faults = [(recovery, line["seed"]) for line in of_point for recovery in line["recoveries"]]
        limits = [each["limit"].get("max") for each in point["expectations"] if each["name"] == name]
        found.append(_group(words(point["settings"]), name, faults, limits[0] if limits else None))
    return found


def times_of_runs(label: str, stories: Sequence[Story], name: Name) -> TimesOf:
    """The faults of some runs of one scenario as one group."""
    faults = []
    limit_s = None
    for story in stories:
        for each in story.recoveries:
            recovery = {**each, **{f"{key}_s": each[key] for key in ("ttd", "ttm", "ttr")}}
            faults.append((recovery, story.manifest.get("seed")))
        expected = (story.manifest["scenario"].get("expect") or {}).get(name) or {}
        limit_s = expected.get("max") if limit_s is None else limit_s
    return _group(label, name, faults, limit_s)


def not_yet(times: TimesOf) -> list[dict[str, float]]:
    """Kaplan and Meier's curve: {after_s, share} of the faults that have not come so far; empty where none was seen."""
    from scipy import stats  # noqa: PLC0415  # dear to import

    observed = [fault["value_s"] for fault in times.faults if not fault["censored"]]
    if not observed:
        return []
    at_least = [fault["value_s"] for fault in times.faults if fault["censored"]]
    survival = stats.ecdf(stats.CensoredData(uncensored=sorted(observed), right=sorted(at_least))).sf
    rows = [{"after_s": 0.0, "share": 1.0}]
    for after_s, share in zip(survival.quantiles.tolist(), survival.probabilities.tolist(), strict=True):
        rows.append({"after_s": float(after_s), "share": float(share)})
    last_s = max((*observed, *at_least))
    if last_s > rows[-1]["after_s"]:
        rows.append({"after_s": float(last_s), "share": rows[-1]["share"]})
    return rows


def _group(label: str, name: Name, faults: Sequence[tuple[Mapping[str, Any], Any]], limit_s: float | None) -> TimesOf:
    rows: list[dict[str, Any]] = []
    nothing = 0
    for recovery, seed in faults:
        duration = recovery[name]
        if duration["value_s"] is None and not duration["censored"]:
            nothing += 1
            continue
        censored = duration["value_s"] is None
        value_s = (duration["at_least_s"] or 0.0) if censored else duration["value_s"]
        rows.append(
            {
                "value_s": float(value_s),
                "censored": censored,
                "kind": recovery["kind"],
                "node": recovery["node"],
                "seed": seed,
            }
        )
    summary = censored_times(
        [row["value_s"] for row in rows if not row["censored"]], [row["value_s"] for row in rows if row["censored"]]
    )
    within = None
    if limit_s is not None:
        within = sum(not row["censored"] and row["value_s"] <= limit_s for row in rows)
    return TimesOf(label, name, rows, nothing, summary, limit_s, within)
