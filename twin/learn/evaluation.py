"""`ollamamax evaluate MODEL`: the twin's table, by event, with n and intervals and the baselines beside.

Thresholds come from the calibration worlds, for the model and for each baseline alike; the test worlds only tell what they
are worth. Beside it stands what the best threshold would give if it were known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.experiment.engines import Engine
from twin.learn import baselines
from twin.learn.collect import DAY_S, Asked, Seen, see_all
from twin.learn.downtime import downtime
from twin.learn.events import FALSE_A_NODE_DAY, Tally, threshold_for, thresholds_of, total
from twin.learn.model_file import model_of
from twin.learn.scoring import of_a_failure, probabilities, smoothed_logits
from twin.learn.worlds import LENGTH_S, LOOK_ALIKE_SHARE, WARMUP_S, Split
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import Parameters, PredictorParameters
from twin.policy.predictor.model import ML, PATTERN, STATISTICAL, family_names
from twin.policy.predictor.statistical import CLASSES
from twin.policy.vocabulary import ClusterSpec, ModelSpec, NodeSpec, TelemetrySample
from twin.record.foretelling import ACTION_S
from twin.record.telemetry_columns import TELEMETRY_NAMES

ALL = STATISTICAL | PATTERN | ML
WORLDS = 100
FIRST_CALIBRATION = 5_000
"""The calibration worlds of an evaluation are not those of the training."""
CALIBRATION_WORLDS = 4
"""For each test world: a threshold is set by the few oddest nodes. Where the budget allows two false alarms in all, chance
decides how odd they are; where it allows eight, the rate is known to a third."""
BINS = 10
WARNED_FROM = 0.05
LOOSE_FALSE_A_NODE_DAY = 5.0
"""A second, loose rate: at the strict one, a leak through which sudden failures are foretold could stay below what is told
apart."""
REAL_EPISODE_DAYS = 10.0
"""Assumption: a real node shows signs of something once in so many days. The worlds are accelerated, and with them their
look-alikes; the rate of a real cluster follows with this."""
NODES_TIMED = 50
LOOKS_TIMED = 40

Score = Callable[[Seen], npt.NDArray[np.float32]]
Progress = Callable[[str, int, int], None]


def shares(worlds: int) -> dict[Split, int]:
    """How many worlds of each kind."""
    return {
        "calibration": CALIBRATION_WORLDS * worlds,
        "test": worlds,
        "untreated": max(1, worlds // 4),
        "held_out": max(1, worlds * 4 // 10),
        "sudden": max(1, worlds * 4 // 10),
        "without_signs": max(1, worlds // 4),
    }


def evaluate(
    document: dict[str, Any],
    engine: Engine,
    worlds: int = WORLDS,
    progress: Progress = lambda what, done, wanted: None,
) -> dict[str, Any]:
    """The figures of a model, as one object. `worlds`: test worlds; the others are in proportion."""
    horizon_s = float(document["horizon_s"])
    parameters = PredictorParameters()
    asked = [
        Asked(split, number, horizon_s, parameters)
        for split, count in shares(worlds).items()
        for number in range(FIRST_CALIBRATION, FIRST_CALIBRATION + count)
    ]
    seen = see_all(asked, engine, lambda done, wanted: progress("worlds", done, wanted))
    found = figures(document, seen)
    arms = max(2, worlds // 4)
    found["downtime"] = downtime(document, engine, arms, lambda done, wanted: progress("downtime", done, wanted))
    return found


def figures(document: dict[str, Any], seen: Sequence[Seen]) -> dict[str, Any]:
    """The figures of a model on worlds that were run."""
    of = {split: [it for it in seen if it.split == split] for split in shares(1)}
    judge = Judge(document, of["calibration"])
    found: dict[str, Any] = {
        "model": {
            "digest": document["digest"],
            "horizon_s": document["horizon_s"],
            "data": document["data"],
            "figures": document["figures"],
        },
        "worlds": {split: len(those) for split, those in of.items()},
        "definitions": {
            "action_s": ACTION_S,
            "false_a_node_day_allowed": FALSE_A_NODE_DAY,
            "look_alike_share": LOOK_ALIKE_SHARE,
            "real_episode_days": REAL_EPISODE_DAYS,
            "world_length_s": LENGTH_S,
        },
        "methods": [judge.row(name, of["test"]) for name in judge.names()],
        "untreated": judge.row("predictor", of["untreated"]),
        "held_out": [judge.row(name, of["held_out"]) for name in judge.names()],
        "sudden": judge.sudden(of["sudden"]),
        "without_signs": judge.sudden(of["without_signs"]),
        "classes": judge.classes(of["test"]),
        "kinds": judge.kinds(of["test"] + of["held_out"]),
        "calibration": judge.reliability(of["test"]),
        "curves": {name: judge.curve(name, of["test"]) for name in judge.names() if not name.startswith("without ")},
        "budget": budget(document),
    }
    return found


class Judge:
    """Scores worlds by every method, each at the threshold that the calibration worlds gave it."""

    def __init__(self, document: dict[str, Any], calibration: Sequence[Seen]) -> None:
        self.document = document
        self.horizon_s = float(document["horizon_s"])
        self._calibration = calibration
        self._logits: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
        forest = baselines.Forest(calibration)
        self._baselines: dict[str, Score] = {
            "threshold rule": baselines.rules,
            "phi-accrual and outlier ejection": baselines.accrual,
            "isolation forest": forest,
            "AR + EWMA": baselines.autoregression,
        }
        self._families = {
            "predictor": ALL,
            "without statistical": PATTERN | ML,
            "without pattern": STATISTICAL | ML,
            "without ml": STATISTICAL | PATTERN,
            "only statistical": STATISTICAL,
            "only pattern": PATTERN,
            "only ml": ML,
        }
        self._scores: dict[tuple[str, str, int], npt.NDArray[np.float32]] = {}
        self._named: dict[tuple[str, str, int], npt.NDArray[np.int64]] = {}
        self.thresholds = {name: self._threshold(name, FALSE_A_NODE_DAY) for name in self.names()}
        self.loose = self._threshold("predictor", LOOSE_FALSE_A_NODE_DAY)

    def names(self) -> list[str]:
        """All methods, the predictor first."""
        return [*self._families, *self._baselines]

    def probabilities(self, seen: Seen, families: int = ALL) -> npt.NDArray[np.float32]:
        """Of each class, a row each."""
        key = (seen.split, seen.number)
        if key not in self._logits:
            self._logits[key] = smoothed_logits(self.document, seen)
        return probabilities(self.document, seen, families, self._logits[key])

    def scores(self, name: str, seen: Seen) -> npt.NDArray[np.float32]:
        """A method's scores of a world."""
        key = (name, seen.split, seen.number)
        if key not in self._scores:
            if name in self._families:
                found = self.probabilities(seen, self._families[name])
                self._scores[key], self._named[key] = of_a_failure(found), found.argmax(axis=1)
            else:
                self._scores[key] = self._baselines[name](seen)
                self._named[key] = np.full(len(seen.node), -1)
        return self._scores[key]

    def tally(self, name: str, worlds: Sequence[Seen], threshold: float) -> Tally:
        """What a threshold gives."""
        scores = [self.scores(name, it) for it in worlds]
        named = [self._named[(name, it.split, it.number)] for it in worlds]
        return total(worlds, scores, named, threshold, self.horizon_s, WARMUP_S)

    def _threshold(self, name: str, allowed: float) -> float:
        scores = [self.scores(name, it) for it in self._calibration]
        named = [self._named[(name, it.split, it.number)] for it in self._calibration]
        return threshold_for(self._calibration, scores, named, self.horizon_s, WARMUP_S, allowed)

    # -- tables ---------------------------------------------------------------------------------------------------

    def row(self, name: str, worlds: Sequence[Seen]) -> dict[str, Any]:
        """A method on worlds: at its own threshold, and at the best one that these worlds would allow."""
        result = self.tally(name, worlds, self.thresholds[name])
        curve = self.curve(name, worlds)
        shown, hit = _foretellable(result)
        kept = [it["recall"] for it in curve if it["false_a_node_day"] <= FALSE_A_NODE_DAY]
        if shown and result.false_a_node_day <= FALSE_A_NODE_DAY:
            kept.append(hit / shown)  # the curve has few points, and its own threshold may lie between them
        best = max(kept, default=0.0)
        leads = sorted(lead for failure, lead, _ in result.foretold if failure.foretellable)
        node_days = result.node_days
        looked_alike = result.look_alikes / result.look_alikes_in_all if result.look_alikes_in_all else None
        look_alike_rate = LOOK_ALIKE_SHARE / REAL_EPISODE_DAYS * (looked_alike or 0.0)
        return {
            "method": name,
            "threshold": _number(self.thresholds[name]),
            "failures": shown,
            "foretold": hit,
            "recall": _share(hit, shown),
            "recall_ci95": wilson(hit, shown),
            "recall_at_best_threshold": round(best, 4),
            "class_named": sum(it for failure, _, it in result.foretold if failure.foretellable),
            "node_days": round(node_days, 1),
            "false": result.false,
            "false_while_disturbed": result.disturbed,
            "false_a_node_day": round(result.false_a_node_day, 4),
            "false_a_node_day_ci95": poisson(result.false, node_days),
            "look_alikes": result.look_alikes_in_all,
            "look_alikes_acted_on": result.look_alikes,
            "false_a_node_day_with_look_alikes_of_real_rate": round(result.false_a_node_day + look_alike_rate, 4),
            "false_a_node_day_with_look_alikes_of_these_worlds": round(
                (result.false + result.look_alikes) / node_days if node_days else 0.0, 4
            ),
            "precision": _share(result.true, result.true + result.false + result.look_alikes),
            "lead_s": {
                "median": _quantile(leads, 0.5),
                "p10": _quantile(leads, 0.1),
                "p90": _quantile(leads, 0.9),
            },
        }

    def curve(self, name: str, worlds: Sequence[Seen]) -> list[dict[str, float]]:
        """Recall of what shows, against false alarms, over thresholds."""
        found = []
        for threshold in thresholds_of([self.scores(name, it) for it in worlds], 25):
            result = self.tally(name, worlds, threshold)
            shown, hit = _foretellable(result)
            found.append(
                {
                    "threshold": _number(threshold) or 0.0,
                    "false_a_node_day": round(result.false_a_node_day, 4),
                    "recall": round(hit / shown, 4) if shown else 0.0,
                }
            )
        return found

    def sudden(self, worlds: Sequence[Seen]) -> dict[str, Any]:
        """Failures without a sign: how many were foretold, against what alarms at the same rate would hit by chance."""
        found: dict[str, Any] = {}
        for what, threshold in (("strict", self.thresholds["predictor"]), ("loose", self.loose)):
            result = self.tally("predictor", worlds, threshold)
            all_of = [it for it, _, _ in result.foretold] + result.missed
            sudden = sum(not it.foretellable for it in all_of)
            hit = sum(not it.foretellable for it, _, _ in result.foretold)
            chance = 1.0 - math.exp(-result.false_a_node_day * (self.horizon_s - ACTION_S) / DAY_S)
            found[what] = {
                "failures": sudden,
                "foretold": hit,
                "recall": _share(hit, sudden),
                "recall_ci95": wilson(hit, sudden),
                "chance": round(chance, 4),
                "beyond_chance": round(hit / sudden - chance, 4) if sudden else None,
                "false_a_node_day": round(result.false_a_node_day, 4),
            }
        return found

    def classes(self, worlds: Sequence[Seen]) -> list[dict[str, Any]]:
        """Recall and lead of each class, of what shows."""
        result = self.tally("predictor", worlds, self.thresholds["predictor"])
        return [
            {"class": name, **_group(result, lambda it, which=which: it.which == which and it.foretellable)}
            for which, name in enumerate(CLASSES)
        ]

    def kinds(self, worlds: Sequence[Seen]) -> list[dict[str, Any]]:
        """The same of each kind of fault."""
        result = self.tally("predictor", worlds, self.thresholds["predictor"])
        kinds = sorted({it.kind for it in [f for f, _, _ in result.foretold] + result.missed if it.foretellable})
        return [
            {"kind": kind, **_group(result, lambda it, kind=kind: it.kind == kind and it.foretellable)}
            for kind in kinds
        ]

    def reliability(self, worlds: Sequence[Seen]) -> dict[str, Any]:
        """Calibration of the probability that a class fails within the horizon, over all rows and classes."""
        used = [(it.label != -2) & it.routable for it in worlds]
        given = np.concatenate([self.probabilities(it)[rows] for it, rows in zip(worlds, used, strict=True)])
        label = np.concatenate([it.label[rows] for it, rows in zip(worlds, used, strict=True)])
        came = label[:, None] == np.arange(len(CLASSES))
        fails, failing = of_a_failure(given), label >= 0
        points = _bins(given.ravel(), came.ravel())
        warned = given >= WARNED_FROM
        rows = given.size
        return {
            "rows": int(rows),
            "ece": _ece(points, rows),
            "ece_of_forecasts": _ece(_bins(given[warned], came[warned]), int(warned.sum())),
            "forecasts": int(warned.sum()),
            "brier": round(float(np.mean((given - came) ** 2)), 6),
            "brier_of_base_rates": round(float(np.mean((came.mean(axis=0) - came) ** 2)), 6),
            "points": points,
            "accuracy": round(float(np.mean((fails >= 0.5) == failing)), 6),
            "accuracy_of_never_fails": round(float(np.mean(~failing)), 6),
        }


def _foretellable(result: Tally) -> tuple[int, int]:
    hit = sum(it.foretellable for it, _, _ in result.foretold)
    return hit + sum(it.foretellable for it in result.missed), hit


def _group(result: Tally, belongs: Callable[..., bool]) -> dict[str, Any]:
    hits = [(lead, named) for it, lead, named in result.foretold if belongs(it)]
    all_of = len(hits) + sum(belongs(it) for it in result.missed)
    leads = sorted(lead for lead, _ in hits)
    return {
        "failures": all_of,
        "foretold": len(hits),
        "recall": _share(len(hits), all_of),
        "recall_ci95": wilson(len(hits), all_of),
        "class_named": sum(named for _, named in hits),
        "lead_s": {"median": _quantile(leads, 0.5), "p10": _quantile(leads, 0.1), "p90": _quantile(leads, 0.9)},
        "leads_s": [round(lead, 1) for lead in leads],
    }


def _bins(given: npt.NDArray[np.float32], came: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    place = np.minimum((given * BINS).astype(int), BINS - 1)
    found = []
    for which in range(BINS):
        inside = place == which
        count = int(inside.sum())
        if count:
            hit = int(came[inside].sum())
            found.append(
                {
                    "from": which / BINS,
                    "to": (which + 1) / BINS,
                    "n": count,
                    "forecast": round(float(given[inside].mean()), 5),
                    "observed": round(hit / count, 5),
                    "observed_ci95": wilson(hit, count),
                }
            )
    return found


def _ece(points: Sequence[dict[str, Any]], rows: int) -> float | None:
    """Expected calibration error: the mean gap between what was forecast and what came, weighted by rows."""
    if not rows:
        return None
    gaps = [float(it["n"]) * abs(float(it["forecast"]) - float(it["observed"])) for it in points]
    return round(sum(gaps) / rows, 5)


def wilson(hit: int, of: int) -> list[float] | None:
    """Wilson's 95 % interval of a share."""
    if not of:
        return None
    z = 1.959964
    share = hit / of
    middle = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return [
        round(max(0.0, (middle - half) / (1 + z * z / of)), 4),
        round(min(1.0, (middle + half) / (1 + z * z / of)), 4),
    ]


def poisson(count: int, of: float) -> list[float] | None:
    """The exact 95 % interval of a rate."""
    if not of:
        return None
    from scipy.stats import chi2  # noqa: PLC0415

    low = float(chi2.ppf(0.025, 2 * count)) / 2.0 if count else 0.0
    return [round(low / of, 4), round(float(chi2.ppf(0.975, 2 * count + 2)) / 2.0 / of, 4)]


def _share(hit: int, of: int) -> float | None:
    return round(hit / of, 4) if of else None


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.quantile(values, share)), 1) if values else None


def budget(document: dict[str, Any]) -> dict[str, Any]:
    """Processor time of a decision over fifty nodes: a look at each, all families, and the forecasts sorted."""
    names = [f"node-{place}" for place in range(NODES_TIMED)]
    spec = ClusterSpec(
        tuple(NodeSpec(name, 24.0) for name in names),
        (ModelSpec("a", 6.0, NODES_TIMED, 4),),
        {name: ("a",) for name in names},
    )
    interval_s = float(document["interval_s"])
    policy = ClusterPolicy(spec, Parameters(), model=model_of(document))
    random = np.random.default_rng(0)
    took_s = []
    for look in range(LOOKS_TIMED):
        now = look * interval_s
        samples = [
            TelemetrySample(name, dict(zip(TELEMETRY_NAMES, values, strict=True)))
            for name, values in zip(names, random.random((NODES_TIMED, len(TELEMETRY_NAMES))).tolist(), strict=True)
        ]
        started_s = time.process_time()
        for sample in samples:
            policy.watching.sampled(now, sample)
        policy.predictor.forecasts(now)
        took_s.append(time.process_time() - started_s)
    return {
        "nodes": NODES_TIMED,
        "median_ms": round(float(np.median(took_s)) * 1000.0, 3),
        "families": family_names(ALL),
    }
