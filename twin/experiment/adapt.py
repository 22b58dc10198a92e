"""Adaptation of settings, driven: what a run showed, proposals tried in the twin on the recent load, and watching.

    adapt(record, adaptation) -> AdaptationReport      # propose, try, apply what is better with confidence
    adaptation.watched(now, seen(record))              # after the next interval: kept, or rolled back

Both worlds leave records, so both can be driven by it. The trials replay no single run: they have the recent load's rate,
burstiness, lengths and deadline, and for each incident a fault that gives such a one, on the same seeds with and without
the change (paired), corrected for how many changes were tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from twin.experiment.engines import LocalEngine
from twin.experiment.statistics import holm, paired
from twin.experiment.twin_world import TwinWorld
from twin.policy.adaptation import REASONS, Adaptation, Proposal, Seen, symptom_of
from twin.record.figures import compute_figures
from twin.record.reader import RunRecord, open_run
from twin.scenario.schema import PolicyChoice, Scenario

SIGNIFICANCE: Final = 0.05
REPLICATIONS: Final = 8
TRIAL_S: Final = 180.0
WARMUP_S: Final = 20.0
TRIAL_SEED: Final = 90_000
"""Trials have seeds of their own: what is tried on a run's own arrivals would fit these."""

FAULT_OF: Final[dict[str, dict[str, Any]]] = {
    "server_down": {"kind": "server_crash", "duration_s": 60},
    "unreachable": {"kind": "partition", "duration_s": 20},
    "runner_hung": {"kind": "runner_hang", "duration_s": 60},
    "runner_failing": {"kind": "runner_crash"},
    "crash_loop": {"kind": "runner_crash_loop", "duration_s": 30, "period_s": 4},
    "slow": {"kind": "slow_decay", "duration_s": 90},
}
"""A fault that gives an incident of that diagnosis; the scheduler's deadlock needs a model to probe with."""

FAULTS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """A proposal beside what is: bad requests (lost or turned away), mean of the paired differences; below 0 is better."""

    proposal: Proposal
    difference: float
    ci95: list[float] | None
    p_adjusted: float | None
    latency_difference_s: float


@dataclass(frozen=True, slots=True)
class AdaptationReport:
    """What was proposed, how each trial went, and what was applied (None: nothing)."""

    seen: Seen
    trials: list[Trial] = field(default_factory=list)
    applied: Proposal | None = None
    evidence: str = ""


def seen(record: RunRecord) -> Seen:
    """An interval in counts, from its record."""
    figures = compute_figures(record)
    errors = Counter(str(error) for error in record.table("attempts", ["error"])["error"].to_pylist())
    reasons = Counter(str(error) for error in record.table("requests", ["error"])["error"].to_pylist())
    symptoms = {name: errors[name] for name in ("first_token_timeout", "stall_timeout")}
    for _, symptom in REASONS:
        symptoms[symptom] = sum(count for why, count in reasons.items() if symptom_of(why) == symptom)
    incidents = record.table("incidents", ["actions", "state"]).to_pylist()
    symptoms["false_suspicions"] = sum(it["actions"] == 0 and it["state"] == "closed" for it in incidents)
    symptoms["false_actions"] = figures["false_actions"] or 0
    bad = figures["requests_lost"] + figures["requests_rejected"]
    return Seen(figures["requests_offered"], bad, symptoms)


def recent_load(record: RunRecord, parameters: dict[str, Any]) -> Scenario:
    """A scenario with the load of a run: its cluster, rate, burstiness, lengths, deadline, and faults as its incidents."""
    document = dict(record.manifest["scenario"])
    requests = record.table("requests", ["arrival_s", "deadline_s", "prompt_tokens", "output_tokens"])
    arrivals = np.sort(requests["arrival_s"].to_numpy())
    gaps = np.diff(arrivals)
    rate_rps = len(arrivals) / max(1e-9, float(arrivals[-1] - arrivals[0])) if len(arrivals) > 1 else 0.1
    cv = float(gaps.std() / gaps.mean()) if gaps.size and gaps.mean() else 1.0
    kind = {"kind": "poisson"} if cv < 1.2 else {"kind": "bursty", "cv": round(cv, 2)}
    prompts = _lengths(requests["prompt_tokens"].to_numpy())
    outputs = _lengths(requests["output_tokens"].to_numpy())
    deadline_s = float(np.median(requests["deadline_s"].to_numpy() - requests["arrival_s"].to_numpy()))
    faults = faults_like(record.table("incidents", ["diagnosis"])["diagnosis"].to_pylist())
    kept = {key: document["workload"][key] for key in ("streaming", "models") if document["workload"].get(key)}
    return Scenario.model_validate(
        {
            "schema": 1,
            "name": "recent-load",
            "claim": "The recent load, as it was.",
            "cluster": document["cluster"],
            "workload": kept
            | {
                "arrivals": kind | {"rate_rps": round(rate_rps, 4)},
                "prompt_tokens": prompts,
                "output_tokens": outputs,
                "deadline_s": max(1.0, round(deadline_s, 3)),
                "warmup_s": WARMUP_S,
                "duration_s": TRIAL_S,
            },
            "policy": {"preset": document["policy"]["preset"], "overrides": parameters},
            "faults": faults,
            "record": {"journal": False, "telemetry_period_s": 60},
        }
    )


def faults_like(diagnoses: Sequence[str]) -> list[dict[str, Any]]:
    """Faults that give incidents such as these, the most frequent first."""
    faults: list[dict[str, Any]] = []
    for diagnosis, _ in Counter(diagnoses).most_common():
        if diagnosis in FAULT_OF and len(faults) < FAULTS_MAX:
            faults.append({**FAULT_OF[diagnosis], "at_s": WARMUP_S + 20.0 + 40.0 * len(faults)})
    return faults


def _lengths(tokens: Any) -> dict[str, Any]:
    """Lognormal with the mean and the variation of what was seen."""
    known = tokens[tokens > 0].astype(float)
    mean = float(known.mean()) if known.size else 1.0
    cv = float(known.std() / mean) if known.size else 0.0
    return {"kind": "lognormal", "mean": round(mean, 2), "cv": round(max(0.05, cv), 3)}


def _bad_and_latency(task: tuple[dict[str, Any], dict[str, Any], int]) -> tuple[int, float, float]:
    document, overrides, seed = task
    policy = document["policy"]
    document = document | {"policy": policy | {"overrides": policy["overrides"] | overrides}}
    record = TwinWorld().run(Scenario.model_validate(document), seed, None, lambda line: None)
    figures = compute_figures(record)
    return seed, figures["requests_lost"] + figures["requests_rejected"], figures["e2e_s"]["mean"] or 0.0


def adapt(
    record: RunRecord,
    adaptation: Adaptation,
    now: float = 0.0,
    *,
    replications: int = REPLICATIONS,
    jobs: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> AdaptationReport:
    """Propose for what the run showed, try it, and apply the best that is better with confidence."""
    interval = seen(record)
    proposals = adaptation.propose(now, interval)
    if not proposals:
        return AdaptationReport(interval, evidence="nothing that was seen points at a setting")
    own = dict(record.manifest["scenario"]["policy"]["overrides"])
    base = recent_load(record, own).model_dump(mode="json", by_alias=True)
    judged, best, evidence = try_out(base, proposals, replications=replications, jobs=jobs, progress=progress)
    adaptation.tried(best, evidence)
    return AdaptationReport(interval, judged, best, evidence)


def try_out(
    base: dict[str, Any],
    proposals: Sequence[Proposal],
    *,
    replications: int = REPLICATIONS,
    jobs: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[list[Trial], Proposal | None, str]:
    """Each proposal beside what is, in paired runs of a scenario; the one that is better with confidence, or None, and
    the evidence in words."""
    seeds = range(TRIAL_SEED, TRIAL_SEED + replications)
    before = _runs(base, {}, seeds, jobs)
    trials: list[tuple[Proposal, Any, Any]] = []
    for proposal in proposals:
        progress(f"tries {proposal.key} {proposal.value} (was {proposal.was})")
        after = _runs(base, {proposal.key: proposal.value}, seeds, jobs)
        bad = paired([run[0] for run in before], [run[0] for run in after])
        latency = paired([run[1] for run in before], [run[1] for run in after])
        trials.append((proposal, bad, latency))
    adjusted = holm([bad.p_value if bad.p_value is not None else 1.0 for _, bad, _ in trials])
    judged = [
        Trial(proposal, bad.mean, bad.ci95, p, latency.mean)
        for (proposal, bad, latency), p in zip(trials, adjusted, strict=True)
    ]
    better = [it for it in judged if it.difference < 0.0 and it.p_adjusted is not None and it.p_adjusted < SIGNIFICANCE]
    best = min(better, key=lambda it: (it.difference, it.latency_difference_s, it.proposal.key), default=None)
    if best is None:
        evidence = f"none of {len(judged)} changes was better with confidence in {replications} paired runs"
    else:
        assert best.ci95 is not None
        evidence = (
            f"in {replications} paired runs of the recent load {best.difference:+.1f} bad requests a run "
            f"(95 % {best.ci95[0]:+.1f} to {best.ci95[1]:+.1f}, p {best.p_adjusted:.3g})"
        )
    return judged, best.proposal if best is not None else None, evidence


def _runs(
    document: dict[str, Any], overrides: dict[str, Any], seeds: Sequence[int], jobs: int | None
) -> list[tuple[float, float]]:
    """Bad requests and mean latency by seed."""
    tasks = [(document, overrides, seed) for seed in seeds]
    found = {seed: (bad, latency_s) for seed, bad, latency_s in LocalEngine(jobs).results(_bad_and_latency, tasks)}
    return [found[seed] for seed in seeds]


def adapt_run(folder: Path, replications: int, jobs: int | None, progress: Callable[[str], None]) -> dict[str, Any]:
    """The report for a run's folder, as plain data; `set`: the setting that was better. Raises `RunUnreadable`."""
    record = open_run(folder)
    policy = PolicyChoice.model_validate(record.manifest["scenario"]["policy"])
    report = adapt(record, Adaptation(policy.parameters()), replications=replications, jobs=jobs, progress=progress)
    trials = [
        asdict(it.proposal)
        | {"difference": it.difference, "ci95": it.ci95, "p_adjusted": it.p_adjusted}
        | {"latency_difference_s": it.latency_difference_s}
        for it in report.trials
    ]
    applied = f"{report.applied.key}={report.applied.value}" if report.applied is not None else None
    return {"seen": asdict(report.seen), "trials": trials, "set": applied, "evidence": report.evidence}
