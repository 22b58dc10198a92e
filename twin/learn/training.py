"""Training: worlds are run in parallel, trees are grown for each class, the families are fused, and a threshold is found.

The trees are grown on the training worlds. Fusion and threshold are fitted on the calibration worlds, which the trees have
not seen. Times are split as well: nothing within a horizon of a failure's end, or of the end of a world, is used.
All is deterministic: the same worlds and versions give the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.errors import OperatorError
from twin.experiment.engines import Engine
from twin.experiment.world import scenario_digest
from twin.learn import model_file
from twin.learn.collect import Asked, Seen, see_all
from twin.learn.events import FALSE_A_NODE_DAY, threshold_for, total
from twin.learn.scoring import of_a_failure, probabilities, smoothed_logits
from twin.learn.truth import shows
from twin.learn.worlds import HELD_OUT_KINDS, WARMUP_S
from twin.policy.parameters import PredictorParameters
from twin.policy.predictor.features import FEATURES
from twin.policy.predictor.model import LOGIT_MAX, ML, PATTERN, STATISTICAL
from twin.policy.predictor.statistical import CLASSES
from twin.scenario.schema import Scenario

HORIZON_S = 300.0
TRAINING_WORLDS = 128
CALIBRATION_SHARE = 0.5
"""Calibration worlds for each training world."""

TREES = 40
LEAVES = 10
LEARNING_RATE = 0.15
ROWS_A_LEAF_MIN = 60
RIDGE = 5.0
PENALTY = 1e-6
"""On the squared weights of the fusion."""
POSITIVES_MIN = 20
"""A class with fewer rows before failures gets no trees."""

Progress = Callable[[str, int, int], None]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grown:
    """What one class's trees were asked to be grown from."""

    which: int
    features: npt.NDArray[np.float32]
    positive: npt.NDArray[np.bool_]


def train(
    engine: Engine,
    worlds: int = TRAINING_WORLDS,
    scenarios: Sequence[Scenario] = (),
    progress: Progress = lambda what, done, wanted: None,
    shuffle_labels: bool = False,
) -> dict[str, Any]:
    """A model document. `worlds`: training worlds, or seeds of each scenario where some are given.

    `shuffle_labels` deals the labels of each world out at random, for the trees and for the fusion: what comes of it must
    know nothing.
    """
    parameters = PredictorParameters()
    training = _asked("training", worlds, scenarios, parameters, 0)
    calibration = _asked("calibration", max(1, math.ceil(CALIBRATION_SHARE * worlds)), scenarios, parameters, worlds)
    seen = see_all(training + calibration, engine, lambda done, wanted: progress("worlds", done, wanted))
    learnt, checked = seen[: len(training)], seen[len(training) :]
    if shuffle_labels:
        random = np.random.default_rng(0)
        for each in seen:
            random.shuffle(each.label)
    features, label, until_s = _rows(learnt)
    if not (label >= 0).any():
        raise OperatorError("nothing failed in the training worlds; give more --seeds, or scenarios with faults")
    tasks = [Grown(which, features, label == which) for which in range(len(CLASSES))]
    ensembles: dict[int, dict[str, Any]] = {}
    for done, (which, ensemble) in enumerate(engine.results(grow, tasks)):
        ensembles[which] = ensemble
        progress("classes", done + 1, len(tasks))
    lead_s = [
        float(round(np.mean(until_s[label == which]), 1)) if (label == which).any() else HORIZON_S / 2.0
        for which in range(len(CLASSES))
    ]
    document: dict[str, Any] = {
        "format": model_file.FORMAT,
        "version": model_file.VERSION,
        "features": list(FEATURES),
        "classes": list(CLASSES),
        "horizon_s": HORIZON_S,
        "window_s": parameters.window_s,
        "interval_s": parameters.prediction_interval_s,
        "ensembles": [ensembles[which] for which in range(len(CLASSES))],
        "lead_s": lead_s,
    }
    document["fusion"] = _fused(document, checked)
    document["data"] = {
        "worlds": {"training": len(training), "calibration": len(calibration)},
        "scenarios": {it.name: scenario_digest(it) for it in scenarios},
        "held_out_kinds": list(HELD_OUT_KINDS),
        "shuffled_labels": shuffle_labels,
        "rows": len(label),
        "rows_before_failures": {name: int((label == which).sum()) for which, name in enumerate(CLASSES)},
        "node_days": round(sum(it.length_s * len(it.nodes) for it in learnt) / 86_400.0, 2),
        "statistical_threshold": parameters.threshold,
        "versions": {name: version(name) for name in ("ollamamax", "scikit-learn", "numpy", "scipy")},
    }
    document["figures"] = _figures(document, checked)
    document["digest"] = model_file.digest_of(document)
    return document


def _asked(
    split: Any, count: int, scenarios: Sequence[Scenario], parameters: PredictorParameters, first: int
) -> list[Asked]:
    if not scenarios:
        return [Asked(split, number, HORIZON_S, parameters) for number in range(first, first + count)]
    return [
        Asked(split, 1000 * place + number, HORIZON_S, parameters, scenario)
        for place, scenario in enumerate(scenarios)
        for number in range(first, first + count)
    ]


def _rows(worlds: Sequence[Seen]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8], Floats]:
    """The rows that trees are grown on. Those are left out at which a failure shows that comes later than a horizon: trees
    are not to be taught that such signs are none. How soon it comes is for the fusion to weigh, which sees them."""
    used = [(each.label != -2) & each.routable & ((each.label != -1) | ~_shows(each)) for each in worlds]
    return (
        np.concatenate([each.features[rows] for each, rows in zip(worlds, used, strict=True)]),
        np.concatenate([each.label[rows] for each, rows in zip(worlds, used, strict=True)]),
        np.concatenate([each.until_s[rows] for each, rows in zip(worlds, used, strict=True)]),
    )


def _shows(seen: Seen) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(seen.node), dtype=bool)
    for place, name in enumerate(seen.nodes):
        own = seen.node == place
        found[own] = shows(seen.truth, name, seen.time_s[own])
    return found


def grow(task: Grown) -> tuple[int, dict[str, Any]]:
    """Grow one class's trees, on one thread: so the sums have one order."""
    positives = int(task.positive.sum())
    share = min(max(positives / max(len(task.positive), 1), 1e-6), 1.0 - 1e-6)
    base = math.log(share / (1.0 - share))
    if positives < POSITIVES_MIN or positives == len(task.positive):
        return task.which, _flat(base, [])
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    learner = HistGradientBoostingClassifier(
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        learning_rate=LEARNING_RATE,
        min_samples_leaf=min(ROWS_A_LEAF_MIN, max(5, positives // 10)),
        l2_regularization=RIDGE,
        early_stopping=False,
        random_state=0,
    )
    low, high = np.nanmin(task.features, axis=0, initial=np.inf), np.nanmax(task.features, axis=0, initial=-np.inf)
    varies = np.flatnonzero(low < high)  # a column that is always the same, or never known, cannot be binned
    with threadpool_limits(limits=1):
        learner.fit(task.features[:, varies], task.positive)
    trees = [stage[0].nodes for stage in learner._predictors]
    return task.which, _flat(float(learner._baseline_prediction.ravel()[0]), trees, varies.tolist())


def _flat(base: float, trees: Sequence[Any], columns: Sequence[int] = ()) -> dict[str, Any]:
    """Trees of scikit-learn as the lists of `Ensemble`."""
    found: dict[str, Any] = {
        "base": _rounded(base),
        "roots": [],
        "feature": [],
        "threshold": [],
        "left": [],
        "right": [],
        "missing_left": [],
    }
    for nodes in trees:
        root = len(found["feature"])
        found["roots"].append(root)
        for node in nodes:
            leaf = bool(node["is_leaf"])
            found["feature"].append(-1 if leaf else columns[int(node["feature_idx"])])
            found["threshold"].append(_rounded(float(node["value"])) if leaf else float(node["num_threshold"]))
            found["left"].append(0 if leaf else root + int(node["left"]))
            found["right"].append(0 if leaf else root + int(node["right"]))
            found["missing_left"].append(int(not leaf and bool(node["missing_go_to_left"])))
    return found


def _rounded(value: float) -> float:
    """Eight digits of what is added up are enough; thresholds are kept as they are, since a value may lie next to one."""
    return float(f"{value:.8g}")


def _fused(document: dict[str, Any], checked: Sequence[Seen]) -> dict[str, list[list[float]]]:
    """The weights of each set of families and class: a logistic regression on rows that the trees have not seen."""
    used = [(it.label != -2) & it.routable for it in checked]
    label = np.concatenate([it.label[rows] for it, rows in zip(checked, used, strict=True)])
    scores = np.concatenate([it.scores[rows] for it, rows in zip(checked, used, strict=True)]).astype(float)
    logits = np.concatenate([smoothed_logits(document, it)[rows] for it, rows in zip(checked, used, strict=True)])
    found: dict[str, list[list[float]]] = {}
    for families in model_file.FAMILY_SETS:
        found[str(families)] = [
            _logistic(
                np.column_stack(
                    [
                        scores[:, which] if families & STATISTICAL else np.zeros(len(label)),
                        scores[:, len(CLASSES) + which] if families & PATTERN else np.zeros(len(label)),
                        logits[:, which] if families & ML else np.zeros(len(label)),
                    ]
                ),
                label == which,
            )
            for which in range(len(CLASSES))
        ]
    return found


def _logistic(columns: Floats, positive: npt.NDArray[np.bool_]) -> list[float]:
    """Intercept and weights, none of them negative: more evidence never makes a failure less likely."""
    from scipy.optimize import minimize  # noqa: PLC0415

    share = (positive.sum() + 0.5) / (len(positive) + 1.0)
    start = math.log(share / (1.0 - share))
    if not positive.any():
        return [_rounded(start), 0.0, 0.0, 0.0]
    target = positive.astype(float)

    def loss(weights: Floats) -> tuple[float, Floats]:
        total = np.clip(weights[0] + columns @ weights[1:], -LOGIT_MAX, LOGIT_MAX)
        missed = 1.0 / (1.0 + np.exp(-total)) - target
        value = float(np.mean(np.logaddexp(0.0, total) - target * total)) + PENALTY * float(weights[1:] @ weights[1:])
        slope = columns.T @ missed / len(target) + 2.0 * PENALTY * weights[1:]
        return value, np.concatenate([[missed.mean()], slope])

    bounds = [(-LOGIT_MAX, LOGIT_MAX), (0.0, None), (0.0, None), (0.0, None)]
    found = minimize(loss, np.array([start, 0.0, 0.0, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B")
    return [_rounded(float(it)) for it in found.x]


def _figures(document: dict[str, Any], checked: Sequence[Seen]) -> dict[str, Any]:
    """What the calibration worlds say of it, and the threshold that they give for hard actions."""
    found = [probabilities(document, it, STATISTICAL | PATTERN | ML) for it in checked]
    scores = [of_a_failure(it) for it in found]
    named = [it.argmax(axis=1) for it in found]
    threshold = threshold_for(checked, scores, named, HORIZON_S, WARMUP_S)
    if not math.isfinite(threshold):
        return {"hard_action_threshold": None}
    result = total(checked, scores, named, threshold, HORIZON_S, WARMUP_S)
    shown = [it for it, _, _ in result.foretold if it.foretellable]
    all_of = len(shown) + sum(it.foretellable for it in result.missed)
    return {
        "hard_action_threshold": _rounded(threshold),
        "false_a_node_day_allowed": FALSE_A_NODE_DAY,
        "calibration_false_a_node_day": round(result.false_a_node_day, 4),
        "calibration_recall": round(len(shown) / all_of, 4) if all_of else None,
        "calibration_failures": all_of,
    }
