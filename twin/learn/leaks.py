"""`ollamamax evaluate --shuffle-labels`: whether the predictor is too good to be true.

Two checks. A model is made as `ollamamax train` makes it, but from labels that were dealt out at random, in the training and
in the calibration worlds: it has nothing to know, so on test worlds it may foretell no more than alarms at the same rate
would hit by chance. And the model as it is may foretell no more than chance where every precursor was removed. What does
better reads the future, or the simulator tells it.

Two rates of alarms, each from calibration worlds: that of hard actions, and a loose one, at which a weak leak would show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from twin.experiment.engines import Engine
from twin.learn.collect import DAY_S, Asked, Seen, see_all
from twin.learn.evaluation import FIRST_CALIBRATION, Judge, Progress, wilson
from twin.learn.events import ACTION_S
from twin.learn.training import train
from twin.learn.worlds import Split
from twin.policy.parameters import PredictorParameters

BEYOND_CHANCE_MAX = 0.02
"""What recall may have beyond chance: above it the check fails, where that itself is not chance."""

SURE = 0.975


def shares(worlds: int) -> dict[Split, int]:
    """How many worlds of each kind, beside those of the training."""
    return {"calibration": worlds, "test": worlds, "without_signs": worlds}


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
    knows, guesses = Judge(document, of["calibration"]), Judge(blind, of["calibration"])
    rows = [
        *_rows("labels as they are", knows, of["test"], is_check=False),
        *_rows("labels shuffled", guesses, of["test"], is_check=True),
        *_rows("precursors removed", knows, of["without_signs"], is_check=True),
    ]
    return {
        "model": document["digest"],
        "worlds": {split: len(those) for split, those in of.items()},
        "beyond_chance_max": BEYOND_CHANCE_MAX,
        "rows": rows,
        "passed": all(row["at_chance"] for row in rows if row["is_check"]),
    }


def _rows(what: str, judge: Judge, worlds: Sequence[Seen], *, is_check: bool) -> list[dict[str, Any]]:
    from scipy.stats import binom  # noqa: PLC0415

    found = []
    for rate, threshold in (("strict", judge.thresholds["predictor"]), ("loose", judge.loose)):
        result = judge.tally("predictor", worlds, threshold)
        hit = len(result.foretold)
        failures = hit + len(result.missed)
        alarms = result.false + result.true + result.look_alikes
        alarms_a_node_day = alarms / result.node_days if result.node_days else 0.0
        chance = 1.0 - math.exp(-alarms_a_node_day * (judge.horizon_s - ACTION_S) / DAY_S)
        most = int(binom.ppf(SURE, failures, min(1.0, chance + BEYOND_CHANCE_MAX))) if failures else 0
        found.append(
            {
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
                "is_check": is_check,
            }
        )
    return found


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
