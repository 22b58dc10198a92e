"""The policy's own scores for whole tables of rows at once. A test holds both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.learn.collect import Seen, smooth
from twin.policy.predictor.model import FIRST_TREES, LOGIT_MAX, ML, PATTERN, STATISTICAL
from twin.policy.predictor.statistical import CLASSES

Floats = npt.NDArray[np.float64]


def class_scores(ensembles: Sequence[dict[str, Any]], features: npt.NDArray[np.float32]) -> Floats:
    """The logit of each class, a row each."""
    return np.column_stack([_logits(each, features) for each in ensembles])


def _logits(ensemble: dict[str, Any], features: npt.NDArray[np.float32]) -> Floats:
    feature = np.array(ensemble["feature"], dtype=np.int64)
    threshold = np.array(ensemble["threshold"])
    left, right = np.array(ensemble["left"], dtype=np.int64), np.array(ensemble["right"], dtype=np.int64)
    missing_left = np.array(ensemble["missing_left"], dtype=bool)
    found = np.full(len(features), float(ensemble["base"]))
    asked = np.arange(len(features))
    for count, root in enumerate(ensemble["roots"]):
        if count == FIRST_TREES:
            asked = np.flatnonzero(found >= float(ensemble["base"]))
        rows = asked
        node = np.full(len(rows), root, dtype=np.int64)
        walking = feature[node] >= 0
        while walking.any():
            here = node[walking]
            value = features[rows[walking], feature[here]].astype(float)
            goes_left = np.where(np.isnan(value), missing_left[here], value <= threshold[here])
            node[walking] = np.where(goes_left, left[here], right[here])
            walking = feature[node] >= 0
        found[rows] += threshold[node]
    clipped: Floats = np.clip(found, -LOGIT_MAX, LOGIT_MAX)
    return clipped


def smoothed_logits(document: dict[str, Any], seen: Seen) -> Floats:
    """The logit of each class, smoothed, a row each."""
    return smooth(class_scores(document["ensembles"], seen.features), seen.node, seen.fresh)


def of_a_failure(by_class: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The probability that a node fails, of whichever class, each by itself: as the policy has it where an action prevents
    several."""
    found: npt.NDArray[np.float32] = (1.0 - np.prod(1.0 - by_class.astype(float), axis=1)).astype(np.float32)
    return found


def probabilities(
    document: dict[str, Any], seen: Seen, families: int, logits: Floats | None = None
) -> npt.NDArray[np.float32]:
    """The fused probability of each class, a row each. `logits`: those of `smoothed_logits`, where they are known."""
    if logits is None:
        logits = smoothed_logits(document, seen) if families & ML else np.zeros((len(seen.node), len(CLASSES)))
    count = len(CLASSES)
    weights = np.array(document["fusion"][str(families)])
    total = (
        weights[:, 0]
        + weights[:, 1] * seen.scores[:, :count] * bool(families & STATISTICAL)
        + weights[:, 2] * seen.scores[:, count:] * bool(families & PATTERN)
        + weights[:, 3] * logits * bool(families & ML)
    )
    found: npt.NDArray[np.float32] = (1.0 / (1.0 + np.exp(-np.clip(total, -LOGIT_MAX, LOGIT_MAX)))).astype(np.float32)
    return found
