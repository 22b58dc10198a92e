"""Scoring by event: which failures were foretold in time, and how many hard actions were called for in vain.

An *alarm* calls for a hard action (a restart): the score of a node reaches the threshold; for a horizon after it there is
no other of this node. An alarm is *true* where a failure of the node comes within the horizon, or shows already and
comes. It is *of a look-alike* where signs show that come to nothing. Left out are alarms while a node fails already and
one horizon after, and during signs of which nobody knows what would have come. Every other alarm is *false*.

A failure is *foretold* by an alarm at least `ACTION_S` before it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from twin.learn.collect import DAY_S, Seen
from twin.learn.truth import Failure
from twin.record.foretelling import ACTION_S

FALSE_A_NODE_DAY = 0.05
"""What may be called for in vain."""

Scores = npt.NDArray[np.float32]


@dataclass(slots=True)
class Tally:
    """What a threshold gives over many worlds."""

    node_days: float = 0.0
    false: int = 0
    disturbed: int = 0  # of these, while another's fault (of the network, others' load) was at the node
    look_alikes: int = 0  # that were acted on
    look_alikes_in_all: int = 0
    true: int = 0
    foretold: list[tuple[Failure, float, bool]] = field(default_factory=list)  # lead; whether its class was named
    missed: list[Failure] = field(default_factory=list)

    @property
    def false_a_node_day(self) -> float:
        """False alarms, look-alikes not counted."""
        return self.false / self.node_days if self.node_days else 0.0

    def add(self, other: Tally) -> None:
        """Take in another one."""
        self.node_days += other.node_days
        self.false += other.false
        self.disturbed += other.disturbed
        self.look_alikes += other.look_alikes
        self.look_alikes_in_all += other.look_alikes_in_all
        self.true += other.true
        self.foretold += other.foretold
        self.missed += other.missed


def alarms(times_s: npt.NDArray[np.float64], above: npt.NDArray[np.bool_], rest_s: float) -> list[int]:
    """The places of the alarms of one node."""
    found: list[int] = []
    next_s = -1.0
    for place in np.flatnonzero(above).tolist():
        if times_s[place] >= next_s:
            found.append(place)
            next_s = float(times_s[place]) + rest_s
    return found


def tally(
    seen: Seen, score: Scores, named: npt.NDArray[np.int64], threshold: float, horizon_s: float, first_s: float
) -> Tally:
    """Score one world. `named`: the class that each row's score stands for, -1 where it stands for none."""
    result = Tally(node_days=seen.length_s * len(seen.nodes) / DAY_S)
    truth = seen.truth
    for place, name in enumerate(seen.nodes):
        own = np.flatnonzero((seen.node == place) & (seen.time_s >= first_s))
        times_s = seen.time_s[own]
        rung = alarms(times_s, (score[own] >= threshold) & seen.routable[own], horizon_s)
        failures = [it for it in truth.failures if it.node == name and it.at_s >= first_s + horizon_s]
        episodes = [it for it in truth.episodes if it.node == name]
        look_alikes = [it for it in episodes if it.outcome == "nothing" and it.began_s >= first_s]
        result.look_alikes_in_all += len(look_alikes)
        struck: set[int] = set()
        rung_s = [float(times_s[it]) for it in rung]
        for at_s in rung_s:
            if any(
                min(it.signs_s if it.foretellable else np.inf, it.at_s - horizon_s) <= at_s < it.at_s for it in failures
            ):
                result.true += 1
                continue
            if any(it.node == name and it.at_s <= at_s <= it.ended_s + horizon_s for it in truth.failures):
                continue
            inside = [it for it in episodes if it.began_s <= at_s <= it.ended_s + horizon_s]
            if inside:
                struck.update(id(it) for it in inside if it.outcome == "nothing")
                continue
            result.false += 1
            result.disturbed += any(it == name and a <= at_s <= b + horizon_s for it, a, b in truth.disturbed)
        result.look_alikes += sum(id(it) in struck for it in look_alikes)
        for failure in failures:
            if any(
                o is not failure and o.node == name and o.at_s < failure.at_s <= o.ended_s + horizon_s
                for o in truth.failures
            ):
                continue  # it came while another one was there
            from_s = min(failure.signs_s if failure.foretellable else np.inf, failure.at_s - horizon_s)
            first = bisect.bisect_left(rung_s, from_s)
            if first < len(rung_s) and rung_s[first] <= failure.at_s - ACTION_S:
                row = own[rung[first]]
                result.foretold.append((failure, failure.at_s - rung_s[first], bool(named[row] == failure.which)))
            else:
                result.missed.append(failure)
    return result


def total(
    worlds: Sequence[Seen],
    scores: Sequence[Scores],
    named: Sequence[npt.NDArray[np.int64]],
    threshold: float,
    horizon_s: float,
    first_s: float,
) -> Tally:
    """Score many worlds."""
    result = Tally()
    for seen, score, name in zip(worlds, scores, named, strict=True):
        result.add(tally(seen, score, name, threshold, horizon_s, first_s))
    return result


def thresholds_of(scores: Sequence[Scores], count: int = 40) -> list[float]:
    """Thresholds worth trying: upper quantiles of the scores, spaced evenly in the logarithm of their share."""
    whole = np.concatenate(list(scores))
    shares = np.geomspace(1e-5, 0.1, count)
    return sorted({float(it) for it in np.quantile(whole, 1.0 - shares)}, reverse=True)


def threshold_for(
    worlds: Sequence[Seen],
    scores: Sequence[Scores],
    named: Sequence[npt.NDArray[np.int64]],
    horizon_s: float,
    first_s: float,
    false_a_node_day: float = FALSE_A_NODE_DAY,
) -> float:
    """The lowest threshold that rings falsely no more often than allowed in these worlds."""
    best = float("inf")
    for threshold in thresholds_of(scores, 120):
        if total(worlds, scores, named, threshold, horizon_s, first_s).false_a_node_day > false_a_node_day:
            break
        best = threshold
    return best
