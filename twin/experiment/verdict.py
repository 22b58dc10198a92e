"""From the figures of the replications to one verdict on the claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from twin.experiment.replay import Replay
from twin.experiment.statistics import interval
from twin.record.reader import RunRecord
from twin.record.recovery import Duration, Recovery, recoveries
from twin.scenario.schema import Limit, Scenario

Verdict: TypeAlias = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Replication:
    """One run of a scenario, with its figures."""

    record: RunRecord
    figures: dict[str, Any]
    digest: str
    replayed: Replay | None = None  # None: the run has no journal

    @property
    def recoveries(self) -> list[Recovery]:
        """What became of each fault."""
        return recoveries(self.record)

    @property
    def aborted(self) -> str:
        """Why it was broken off, or nothing."""
        return str(self.record.manifest.get("aborted") or "")


def look_up(figures: dict[str, Any], name: str) -> float | None:
    """A figure by its dotted name."""
    value: Any = figures
    for step in name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return None if value is None else float(value)


def _keeps(limit: Limit, value: float) -> bool:
    return (limit.max is None or value <= limit.max) and (limit.min is None or value >= limit.min)


def judge_one(name: str, limit: Limit, replication: Replication) -> Verdict:
    """Whether one replication kept one limit."""
    if name in ("ttd_s", "ttm_s", "ttr_s"):
        durations: list[Duration] = [getattr(it, name.removesuffix("_s")) for it in replication.recoveries]
        verdict: Verdict = "pass" if durations else "unknown"
        for duration in durations:
            if duration.value_s is not None:
                if not _keeps(limit, duration.value_s):
                    return "fail"
            elif duration.censored and limit.max is not None and (duration.at_least_s or 0.0) > limit.max:
                return "fail"
            elif duration.censored or name != "ttm_s":
                verdict = "unknown"  # nothing failed, so there was nothing to mitigate: that breaks no limit
        return verdict
    value = look_up(replication.figures, name)
    if name.startswith("requests_") and not replication.figures["requests_offered"]:
        value = None  # nothing of nothing shows nothing
    if value is None:
        return "unknown"
    return "pass" if _keeps(limit, value) else "fail"


def expectation(name: str, limit: Limit, replications: Sequence[Replication]) -> dict[str, Any]:
    """One limit over all replications: it holds only if it holds in each of them."""
    verdicts = [judge_one(name, limit, replication) for replication in replications]
    return expectation_of(name, limit, verdicts, [look_up(it.figures, name) for it in replications])


def expectation_of(
    name: str, limit: Limit, verdicts: Sequence[Verdict], values: Sequence[float | None]
) -> dict[str, Any]:
    """The same from what was found in each replication: its verdict on this limit, and the figure (None: not observed).

    `value` is the mean over those that observed it, `worst` the one nearest to (or farthest beyond) the limit.
    """
    observed = [value for value in values if value is not None]
    mean, ci95 = interval(observed) if observed else (None, None)
    worst = None
    if observed:
        worst = max(observed) if limit.max is not None else min(observed)
    verdict: Verdict = "pass" if verdicts else "unknown"
    if "fail" in verdicts:
        verdict = "fail"
    elif "unknown" in verdicts:
        verdict = "unknown"
    return {
        "name": name,
        "limit": limit.model_dump(exclude_none=True),
        "value": mean,
        "ci95": ci95,
        "worst": worst,
        "observed": len(observed),
        "kept": verdicts.count("pass"),
        "verdict": verdict,
    }


def verdict(scenario: Scenario, expectations: Sequence[dict[str, Any]], replications: Sequence[Replication]) -> Verdict:
    """The claim's verdict: fail if any limit was broken, unknown if anything could not be judged."""
    return verdict_of(expectations, [replication.aborted for replication in replications])


def verdict_of(expectations: Sequence[dict[str, Any]], aborted: Sequence[str]) -> Verdict:
    """The same from the judged limits, and why each replication was broken off (or nothing)."""
    verdicts = [it["verdict"] for it in expectations]
    if "fail" in verdicts:
        return "fail"
    if not aborted or "unknown" in verdicts or any(aborted):
        return "unknown"
    return "pass" if expectations else "unknown"
