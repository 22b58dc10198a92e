"""What prediction is worth: the same worlds under the preset `reactive`, under the default policy without prediction and
with it, and under the default policy with an oracle.

*Downtime* of a run: each minute counts with the share of its requests that failed, were turned away, or waited longer than
`LATE_S` for their first token. The oracle knows every failure of a class a horizon ahead, the sudden ones too, and the very
time; it is nothing but the end of the scale. Worlds are accelerated, so the budget of hard actions in vain is as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from twin.experiment.engines import Engine
from twin.experiment.twin_world import TwinWorld
from twin.learn.model_file import model_of
from twin.learn.truth import CLASS_OF_KIND
from twin.learn.worlds import TIME_BETWEEN_EPISODES_S, world
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.forecast import Forecast, Forecaster
from twin.policy.vocabulary import Policy
from twin.record.reader import RunRecord
from twin.scenario.schema import Scenario

Arm: TypeAlias = Literal["reactive", "without", "predictor", "oracle"]
ARMS: tuple[Arm, ...] = ("reactive", "without", "predictor", "oracle")

LATE_S = 5.0
FIRST_WORLD = 9_000
REAL_EPISODE_DAYS = 10.0
FALSE_A_NODE_DAY = 0.05
RESAMPLES = 2_000


class Oracle(Forecaster):
    """Knows what the scenario will do."""

    def __init__(self, scenario: Scenario, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._coming = [
            (fault.at_s, str(fault.target), CLASS_OF_KIND[fault.about.kind])
            for fault in scenario.faults
            if fault.about.kind in CLASS_OF_KIND and not fault.comes_to_nothing
        ]

    def forecasts(self, now: float) -> Sequence[Forecast]:
        """Every failure within the horizon."""
        return [
            Forecast(node, failure, 0.99, self._horizon_s, at_s - now, ("the scenario says so",))
            for at_s, node, failure in self._coming
            if 0.0 < at_s - now <= self._horizon_s
        ]


class ArmWorld(TwinWorld):
    """The simulated world with the policy of an arm."""

    def __init__(self, arm: Arm, document: dict[str, Any]) -> None:
        self._arm = arm
        self._document = document

    def policy(self, scenario: Scenario) -> Policy:
        """The scenario's own policy; what foresees is the arm's."""
        spec, parameters = scenario.cluster.spec(), scenario.policy.parameters()
        if self._arm == "oracle":
            return ClusterPolicy(spec, parameters, Oracle(scenario, float(self._document["horizon_s"])))
        return ClusterPolicy(spec, parameters, model=_model(self._document["digest"], self._document))


_MODELS: dict[str, Any] = {}


def _model(digest: str, document: dict[str, Any]) -> Any:
    if digest not in _MODELS:
        _MODELS[digest] = model_of(document)
    return _MODELS[digest]


@dataclass(frozen=True, slots=True)
class Pair:
    """One world and arm to run."""

    number: int
    arm: Arm
    document: dict[str, Any]


def look(pair: Pair) -> tuple[int, Arm, float, int]:
    """Run it: its downtime in minutes, and its restarts."""
    scenario, seed = world("test", pair.number)
    accelerated = REAL_EPISODE_DAYS * 86_400.0 / TIME_BETWEEN_EPISODES_S
    policy = scenario.policy.model_copy(
        update={
            "preset": "reactive" if pair.arm == "reactive" else "default",
            "overrides": {
                **scenario.policy.overrides,
                "predictor.enabled": pair.arm == "predictor",
                "healer.false_hard_actions_per_node_day": FALSE_A_NODE_DAY * accelerated,
            },
        }
    )
    scenario = scenario.model_copy(update={"policy": policy})
    record = ArmWorld(pair.arm, pair.document).run(scenario, seed, None, lambda line: None)
    restarts = sum(row["kind"] == "restart" for row in record.table("actions", ["kind"]).to_pylist())
    return pair.number, pair.arm, downtime_minutes(record), restarts


def downtime_minutes(record: RunRecord) -> float:
    """See the head of the module."""
    table = record.table("requests", ["arrival_s", "first_token_s", "outcome"])
    arrival_s = table["arrival_s"].to_numpy()
    first_s = table["first_token_s"].to_numpy(zero_copy_only=False).astype(float)
    outcome = np.array(table["outcome"].to_pylist())
    bad = np.isin(outcome, ("failed", "rejected", "lost")) | ((first_s - arrival_s) > LATE_S)
    minute = (arrival_s // 60.0).astype(int)
    if not len(minute):
        return 0.0
    asked = np.bincount(minute)
    missed = np.bincount(minute, weights=bad.astype(float))
    return float(np.sum(missed[asked > 0] / asked[asked > 0]))


def downtime(
    document: dict[str, Any],
    engine: Engine,
    worlds: int,
    on_result: Callable[[int, int], None] = lambda done, wanted: None,
) -> dict[str, Any]:
    """The table, with the interval of a bootstrap over worlds."""
    pairs = [Pair(number, arm, document) for number in range(FIRST_WORLD, FIRST_WORLD + worlds) for arm in ARMS]
    minutes: dict[Arm, dict[int, float]] = {arm: {} for arm in ARMS}
    restarts: dict[Arm, int] = dict.fromkeys(ARMS, 0)
    for done, (number, arm, value, count) in enumerate(engine.results(look, pairs)):
        on_result(done + 1, len(pairs))
        minutes[arm][number] = value
        restarts[arm] += count
    numbers = sorted(minutes["reactive"])
    table = np.array([[minutes[arm][number] for arm in ARMS] for number in numbers])
    return summary(table, restarts)


def summary(table: np.ndarray[Any, np.dtype[np.float64]], restarts: dict[Arm, int]) -> dict[str, Any]:
    """What `table` says: a row for each world, a column for each arm."""
    random = np.random.default_rng(0)
    draws = random.integers(len(table), size=(RESAMPLES, len(table)))
    drawn = sorted(it for it in (_closed(table[draw]) for draw in draws) if it is not None)
    difference = table[:, 2] - table[:, 0]
    own = table[:, 2] - table[:, 1]
    means = np.sort(np.array([difference[draw].mean() for draw in draws]))
    row = {
        "worlds": "test",
        "n": len(table),
        "reactive_minutes": round(float(table[:, 0].sum()), 2),
        "without_prediction_minutes": round(float(table[:, 1].sum()), 2),
        "predictor_minutes": round(float(table[:, 2].sum()), 2),
        "oracle_minutes": round(float(table[:, 3].sum()), 2),
        "gap_closed": None if (whole := _closed(table)) is None else round(whole, 4),
        "gap_closed_ci95": _ends(drawn) if len(drawn) > RESAMPLES / 2 else None,
        "difference_minutes": round(float(difference.mean()), 4),
        "difference_ci95": _ends(means.tolist()),
        "worlds_worse": int((difference > 1e-9).sum()),
        "restarts": restarts,
    }
    worse = _worse("the preset reactive", difference)
    worse += f"; {_worse('the same policy without it', own)}"
    return {
        "worlds": [row],
        "late_s": LATE_S,
        "words": f"With the predictor: {worse}. Restarts: {', '.join(f'{arm} {count}' for arm, count in restarts.items())}.",
    }


def _worse(than: str, difference: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    worse, better = int((difference > 1e-9).sum()), int((difference < -1e-9).sum())
    return f"against {than} worse in {worse} of {len(difference)} worlds, better in {better}"


def _closed(table: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    """Share of the gap between the reactive preset and the oracle that is closed with the predictor."""
    reactive, _, predictor, oracle = table.sum(axis=0)
    gap = float(reactive - oracle)
    return float(reactive - predictor) / gap if gap > 1e-9 else None


def _ends(values: Sequence[float]) -> list[float]:
    low, high = np.quantile(np.array(values), [0.025, 0.975])
    return [round(float(low), 4), round(float(high), 4)]
