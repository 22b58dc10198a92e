"""The trained model as plain data: trees, the weights of the fusion, and what it was made for.

The trees are gradient-boosted ones, one ensemble for each class; they came out of scikit-learn, and are walked here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

LOGIT_MAX: Final = 12.0
FIRST_TREES: Final = 6
"""Where the first trees of a class find nothing that speaks for its failure, the others are not asked: most nodes are well
most of the time, and it saves most of the cost."""
STATISTICAL: Final = 1
PATTERN: Final = 2
ML: Final = 4
"""Bits of the families; their sum names a set of families."""


class Branch:
    """A node of a tree, linked to its children: walked about five times as fast as the flat lists. A leaf (feature -1) is
    its own child."""

    __slots__ = ("feature", "left", "missing_left", "right", "threshold")

    def __init__(self, feature: int, threshold: float, missing_left: bool) -> None:
        self.feature = feature
        self.threshold = threshold
        self.missing_left = missing_left
        self.left: Branch = self
        self.right: Branch = self


class Ensemble:
    """The trees of one class, flat: node `i` asks whether feature `feature[i]` is at most `threshold[i]`, and goes to
    `left[i]` or `right[i]`; nan goes left where `missing_left[i]`. A leaf has feature -1 and its value as threshold."""

    __slots__ = ("_trees", "base", "feature", "left", "missing_left", "right", "roots", "threshold")

    def __init__(
        self,
        base: float,
        roots: list[int],
        feature: list[int],
        threshold: list[float],
        left: list[int],
        right: list[int],
        missing_left: list[bool],
    ) -> None:
        self.base = base
        self.roots = roots
        self.feature = feature
        self.threshold = threshold
        self.left = left
        self.right = right
        self.missing_left = missing_left
        branches = [Branch(feature[i], threshold[i], missing_left[i]) for i in range(len(feature))]
        for place, branch in enumerate(branches):
            if branch.feature >= 0:
                branch.left = branches[left[place]]
                branch.right = branches[right[place]]
        self._trees: list[Branch] = [branches[root] for root in roots]

    def logit(self, vector: list[float]) -> float:
        """The sum of the leaves that a vector comes to; of the first trees alone, where they find nothing."""
        total = self.base
        for count, root in enumerate(self._trees):
            if count == FIRST_TREES and total < self.base:
                break
            branch = root
            while branch.feature >= 0:
                value = vector[branch.feature]
                goes_left = value <= branch.threshold or (branch.missing_left and value != value)
                branch = branch.left if goes_left else branch.right
            total += branch.threshold
        return -LOGIT_MAX if total < -LOGIT_MAX else LOGIT_MAX if total > LOGIT_MAX else total


class Fusion:
    """Weights of one class for one set of families: intercept, statistical, pattern, ML (its logit)."""

    __slots__ = ("intercept", "ml", "pattern", "statistical")

    def __init__(self, intercept: float, statistical: float, pattern: float, ml: float) -> None:
        self.intercept = intercept
        self.statistical = statistical
        self.pattern = pattern
        self.ml = ml


class Model:
    """What `ollamamax train` makes. `ensembles` and `lead_s` go by class, `fusion` by set of families, then by class."""

    __slots__ = ("digest", "ensembles", "fusion", "horizon_s", "interval_s", "lead_s", "window_s")

    def __init__(
        self,
        digest: str,
        horizon_s: float,
        window_s: float,
        interval_s: float,
        ensembles: list[Ensemble],
        fusion: dict[int, list[Fusion]],
        lead_s: list[float],
    ) -> None:
        self.digest = digest
        self.horizon_s = horizon_s
        self.window_s = window_s
        self.interval_s = interval_s
        self.ensembles = ensembles
        self.fusion = fusion
        self.lead_s = lead_s

    def probability(self, families: int, which: int, statistical: float, pattern: float, logit: float) -> float:
        """Calibrated probability of a class, from the families that are on."""
        weights = self.fusion[families][which]
        total = weights.intercept + weights.statistical * statistical + weights.pattern * pattern + weights.ml * logit
        if total < -LOGIT_MAX:
            total = -LOGIT_MAX
        elif total > LOGIT_MAX:
            total = LOGIT_MAX
        return 1.0 / (1.0 + math.exp(-total))


def families_of(*, statistical: bool, pattern: bool, ml: bool) -> int:
    """The number that names a set of families."""
    return STATISTICAL * statistical + PATTERN * pattern + ML * ml


def family_names(families: int) -> Sequence[str]:
    """Its families in words."""
    names = ((STATISTICAL, "statistical"), (PATTERN, "pattern"), (ML, "ml"))
    return [name for bit, name in names if families & bit]
