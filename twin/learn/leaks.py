"""`ollamamax evaluate --shuffle-labels`: whether the predictor is too good to be true.

Two checks. Trees are grown as `ollamamax train` grows them, but from labels that were dealt out at random: they have nothing
to know, so on test worlds they may foretell no more than alarms at the same rate would hit by chance. (The trees alone: the
other families were written by people, and any weight above nothing keeps their order.) And the model as it is may foretell
no more than chance where every precursor was removed. What does better reads the future, or the simulator tells it.

Two rates of alarms, each from calibration worlds: that of hard actions, and a loose one, at which a weak leak would show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.experiment.engines import Engine
from twin.learn.collect import DAY_S, Asked, Seen, see_all
from twin.learn.evaluation import (
    ALL,
    CALIBRATION_WORLDS,
    FIRST_CALIBRATION,
    LOOSE_FALSE_A_NODE_DAY,
    Progress,
    wilson,
)
from twin.learn.events import FALSE_A_NODE_DAY, threshold_for, total
from twin.learn.scoring import of_a_failure, probabilities, smoothed_logits
from twin.learn.training import train
from twin.learn.worlds import WARMUP_S, Split
from twin.policy.parameters import PredictorParameters
from twin.record.foretelling import ACTION_S

Score = Callable[[Seen], tuple[npt.NDArray[Any], npt.NDArray[Any]]]
"""For each look the score, and the class that it stands for."""

RATES = {"strict": FALSE_A_NODE_DAY, "loose": LOOSE_FALSE_A_NODE_DAY}
"""False alarms a node-day that the calibration worlds may have."""

BEYOND_CHANCE_MAX = 0.02
"""What recall may have beyond chance: above it the check fails, where that itself is not chance."""

SURE = 0.975


def shares(worlds: int) -> dict[Split, int]:
    """How many worlds of each kind, beside those of the training."""
    return {"calibration": CALIBRATION_WORLDS * worlds, "test": worlds, "without_signs": worlds}


def leak_check(
    document: dict[str, Any],
    engine: Engine,
    worlds: int,
    training_worlds: int,
    progress: Progress = lambda what, done, wanted: None,
) -> dict[str, Any]:
    """{"rows": [...], "passed"}: each row one method on one kind of worlds at one rate of alarms."""
    blind = train(engine, training_worlds, (), progress, shuffle_labels=True)
    horizon_s = float(document["horizon_s"])
    asked = [
        Asked(split, number, horizon_s, PredictorParameters())
        for split, count in shares(worlds).items()
        for number in range(FIRST_CALIBRATION, FIRST_CALIBRATION + count)
    ]
    seen = see_all(asked, engine, lambda done, wanted: progress("worlds", done, wanted))
    return checked(document, blind, seen) | {"training_worlds": training_worlds}


def checked(document: dict[str, Any], blind: dict[str, Any], seen: Sequence[Seen]) -> dict[str, Any]:
    """The rows, of worlds that were run. `blind`: the model from shuffled labels."""
    of = {split: [it for it in seen if it.split == split] for split in shares(1)}
    horizon_s = float(document["horizon_s"])

    def rows(what: str, score: Score, worlds: Sequence[Seen], *, is_check: bool) -> list[dict[str, Any]]:
        return [
            _row(what, rate, score, of["calibration"], worlds, horizon_s) | {"is_check": is_check} for rate in RATES
        ]

    found = [
        *rows("trees, labels as they are", _trees(document), of["test"], is_check=False),
        *rows("trees, labels shuffled", _trees(blind), of["test"], is_check=True),
        *rows("predictor, signs as they are", _whole(document), of["test"], is_check=False),
        *rows("predictor, signs removed", _whole(document), of["without_signs"], is_check=True),
    ]
    return {
        "model": document["digest"],
        "worlds": {split: len(those) for split, those in of.items()},
        "beyond_chance_max": BEYOND_CHANCE_MAX,
        "rows": found,
        "passed": all(row["at_chance"] for row in found if row["is_check"]),
    }


def _trees(document: dict[str, Any]) -> Score:
    """By how much more likely than usual the trees call a failure, of the class for which that is most: what was learnt from
    labels, and nothing of what people knew before (the two other families)."""
    usual = np.array([float(each["base"]) for each in document["ensembles"]])

    def score(seen: Seen) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        by_class = smoothed_logits(document, seen) - usual
        return by_class.max(axis=1), by_class.argmax(axis=1)

    return score


def _whole(document: dict[str, Any]) -> Score:
    def score(seen: Seen) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        by_class = probabilities(document, seen, ALL)
        return of_a_failure(by_class), by_class.argmax(axis=1)

    return score


def _row(
    what: str, rate: str, score: Score, calibration: Sequence[Seen], worlds: Sequence[Seen], horizon_s: float
) -> dict[str, Any]:
    from scipy.stats import binom  # noqa: PLC0415

    def scored(those: Sequence[Seen]) -> tuple[list[Any], list[Any]]:
        found = [score(it) for it in those]
        return [it for it, _ in found], [named for _, named in found]

    threshold = threshold_for(calibration, *scored(calibration), horizon_s, WARMUP_S, RATES[rate])
    result = total(worlds, *scored(worlds), threshold, horizon_s, WARMUP_S)
    hit = len(result.foretold)
    failures = hit + len(result.missed)
    alarms = result.false + result.true + result.look_alikes
    alarms_a_node_day = alarms / result.node_days if result.node_days else 0.0
    chance = 1.0 - math.exp(-alarms_a_node_day * (horizon_s - ACTION_S) / DAY_S)
    most = int(binom.ppf(SURE, failures, min(1.0, chance + BEYOND_CHANCE_MAX))) if failures else 0
    return {
        "what": what,
        "alarms": rate,
        "failures": failures,
        "foretold": hit,
        "recall": round(hit / failures, 4) if failures else None,
        "recall_ci95": wilson(hit, failures),
        "alarms_a_node_day": round(alarms_a_node_day, 4),
        "chance": round(chance, 4),
        "at_most": most,
        "at_chance": hit <= most,
    }


def words(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The table for people."""
    return [
        {
            "": row["what"],
            "alarms": row["alarms"],
            "a node-day": row["alarms_a_node_day"],
            "failures": row["failures"],
            "foretold": row["foretold"],
            "recall": row["recall"],
            "chance": row["chance"],
            "by chance at most": row["at_most"],
            "verdict": ("at chance" if row["at_chance"] else "LEAKS") if row["is_check"] else "",
        }
        for row in found["rows"]
    ]
