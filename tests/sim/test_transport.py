"""How attempts travel: what costs an event, what is shared, what is a property of the path."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.policy.vocabulary import NEVER_S
from twin.record.reader import RunRecord
from twin.sim.engine import Engine
from twin.sim.network import Lane
from twin.sim.traffic import Traffic, Transfer

NODES = ("node-0", "node-1")


def run(network: dict[str, Any], **changes: Any) -> tuple[int, RunRecord]:
    """Calls of the engine, and the record."""
    world, record = simulate(scenario(cluster__network=network, policy={"preset": "none"}, **changes))
    assert {it.name: it.first for it in world.checkers if it.violations} == {}
    return world.engine.calls, record


def first_tokens_s(record: RunRecord) -> list[float]:
    rows = sorted(record.table("requests").to_pylist(), key=lambda row: row["arrival_s"])
    return [row["first_token_s"] - row["dispatched_s"] for row in rows]


def test_jitter_below_two_milliseconds_costs_no_event_and_is_seen() -> None:
    calls, still = run({"latency_ms": 0.4})
    calls_with_jitter, jittery = run({"latency_ms": 0.4, "jitter_ms": 0.3})
    assert calls_with_jitter == calls
    apart = [one - other for one, other in zip(first_tokens_s(jittery), first_tokens_s(still), strict=True)]
    assert len({round(each, 9) for each in apart}) > len(apart) / 2
    assert max(abs(each) for each in apart) <= 0.0006 + 1e-9


def test_a_wide_link_costs_no_event_and_changes_nothing() -> None:
    calls, plain = run({"latency_ms": 0.4})
    calls_wide, wide = run({"latency_ms": 0.4, "bandwidth_mbps": 1000})
    assert (calls_wide, first_tokens_s(wide)) == (calls, first_tokens_s(plain))


def test_a_far_zone_answers_later_by_its_round_trip() -> None:
    zones = [{"name": "near", "nodes": 1}, {"name": "far", "latency_ms": 40, "nodes": 1}]
    _, record = run({"latency_ms": 0.5, "zones": zones}, workload__arrivals={"kind": "constant", "rate_rps": 0.3})
    rows = record.table("requests").to_pylist()
    took_s = {node: [row["first_token_s"] - row["arrival_s"] for row in rows if row["node"] == node] for node in NODES}
    nearest = {node: min(all_of_it) for node, all_of_it in took_s.items()}
    assert nearest["node-1"] - nearest["node-0"] == pytest.approx(0.080)


def test_a_network_that_is_always_lossy_and_narrow_serves_everything_later() -> None:
    _, plain = run({"latency_ms": 0.4})
    _, bad = run({"latency_ms": 0.4, "loss": 0.05, "bandwidth_mbps": 1})
    assert {row["outcome"] for row in bad.table("requests").to_pylist()} == {"succeeded"}
    assert sum(first_tokens_s(bad)) > sum(first_tokens_s(plain))


class TrafficBench:
    def __init__(self) -> None:
        self.engine = Engine()
        self.traffic = Traffic(self.engine)
        self.done: dict[str, float] = {}

    def send(self, time_s: float, name: str, lanes: list[Lane], size: float) -> None:
        def begin() -> None:
            transfers.append(self.traffic.begin(lanes, size, end))

        def end() -> None:
            self.done[name] = round(self.engine.now, 6)
            self.traffic.end(transfers[0])

        transfers: list[Transfer] = []
        self.engine.call_at(time_s, begin)


def lane(bytes_per_s: float) -> Lane:
    it = Lane()
    it.bytes_per_s = bytes_per_s
    return it


def test_transfers_share_a_lane_evenly_while_they_are_there() -> None:
    it, narrow = TrafficBench(), lane(100.0)
    it.send(0.0, "a", [narrow], 300.0)
    it.send(1.0, "b", [narrow], 100.0)
    it.engine.run_calls()
    # a alone for 1 s (100), both share 50 each for 2 s (b is done at 3.0, a has 200), then a alone.
    assert it.done == {"b": 3.0, "a": 4.0}
    assert narrow.transfers == 0


def test_the_tightest_lane_says_how_fast_it_goes() -> None:
    it, uplink = TrafficBench(), lane(100.0)
    it.send(0.0, "slow", [uplink, lane(20.0)], 100.0)
    it.send(0.0, "fast", [uplink, lane(NEVER_S)], 100.0)
    it.engine.run_calls()
    assert it.done == {"fast": 2.0, "slow": 5.0}


def test_nothing_passes_a_lane_that_is_blocked_and_what_is_left_goes_on_when_it_opens() -> None:
    it, narrow = TrafficBench(), lane(100.0)
    it.send(0.0, "a", [narrow], 300.0)

    def block(blocked: bool) -> None:
        narrow.blocked = blocked
        it.traffic.changed()

    it.engine.call_at(1.0, lambda: block(True))
    it.engine.call_at(6.0, lambda: block(False))
    it.engine.run_calls()
    assert it.done == {"a": 8.0}
