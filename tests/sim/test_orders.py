"""An operator's orders in the simulated world: nothing is lost, and a node that comes back gets its share slowly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from twin.experiment.run import Result, run_scenario
from twin.experiment.twin_world import TwinWorld
from twin.record.reader import RunRecord
from twin.scenario.loader import load

SCENARIO = Path("scenarios/rolling-restart.yaml")
BUSY = ["workload.arrivals.rate_rps=8", "replications=1"]  # about four requests at each node


def run(*changes: str) -> Result:
    return run_scenario(TwinWorld(), load(SCENARIO, [*BUSY, *changes]), None, lambda line: None)


def starts(record: RunRecord, node: str) -> list[float]:
    """When the requests of a node were sent there."""
    rows = record.table("requests", ["node", "dispatched_s"]).to_pylist()
    return sorted(row["dispatched_s"] for row in rows if row["node"] == node)


def test_a_rolling_restart_loses_nothing_and_is_no_failure() -> None:
    summary = run("replications=3").summary
    assert summary["verdict"] == "pass"
    assert summary["figures"]["requests_lost"]["mean"] == 0
    assert summary["figures"]["incidents"]["mean"] == 0
    assert summary["figures"]["actions"]["restart"]["mean"] == 4
    assert not any(summary["invariants"].values()), summary["notes"]


def test_a_drained_node_gets_nothing_until_it_is_returned() -> None:
    record = run().replications[0].record
    assert [time_s for time_s in starts(record, "node-3") if 105.0 < time_s < 140.0] == []
    assert [time_s for time_s in starts(record, "node-3") if time_s > 140.0]


def shares_after_a_return(slow_start_s: float, rate_rps: float) -> list[float]:
    """The share of all requests that goes to the node that came back at 60 s, in quarters of 20 s; ten runs together."""
    orders = "orders=[{at_s: 40, order: drain, node: node-0}, {at_s: 60, order: return, node: node-0}]"
    changes = [f"policy.router.slow_start_s={slow_start_s}", f"workload.arrivals.rate_rps={rate_rps}"]
    all_: Counter[int] = Counter()
    mine: Counter[int] = Counter()
    for replication in run(orders, *changes, "replications=10").replications:
        for node in ("node-0", "node-1", "node-2", "node-3"):
            for time_s in starts(replication.record, node):
                quarter = int((time_s - 60.2) // 5.0)
                all_[quarter] += 1
                mine[quarter] += node == "node-0"
    return [mine[quarter] / all_[quarter] for quarter in range(5)]


def test_traffic_rises_little_by_little_after_a_return() -> None:
    first, second, third, fourth, after = shares_after_a_return(20.0, 4.0)
    assert first < 0.08
    assert first < second < third < fourth
    assert after == pytest.approx(0.25, abs=0.07)


def test_without_a_slow_start_it_has_its_share_at_once() -> None:
    assert shares_after_a_return(0.0, 4.0)[0] > 0.2


def test_a_slow_start_lets_nobody_wait_where_the_others_are_full() -> None:
    assert shares_after_a_return(20.0, 8.0)[0] > 0.18


def test_the_decisions_are_replayed_with_the_orders() -> None:
    replayed = run().replications[0].replayed
    assert replayed is not None
    assert replayed.same
