"""Path arithmetic against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from twin.scenario.faults.base import LinkChange
from twin.scenario.topology import GatewayPlace, Network, Topology
from twin.sim.network import Path, SimulatedNetwork

NODES = [f"node-{place}" for place in range(4)]


def network(gateways: int = 1, **settings: object) -> SimulatedNetwork:
    return placed([None] * gateways, **settings)


def placed(gateways: list[str | None], **settings: object) -> SimulatedNetwork:
    places = [GatewayPlace(zone=zone) for zone in gateways]
    return SimulatedNetwork(Topology(Network.model_validate(settings), NODES, places), seed=1)


def path(it: SimulatedNetwork, node: str = "node-0", gateway: str = "gateway-0") -> Path:
    return it.paths[gateway][node]


TWO_ZONES = {
    "latency_ms": 0.1,
    "zones": [
        {"name": "east", "latency_ms": 0.5, "racks": [{"name": "e1", "nodes": 1}, {"name": "e2", "nodes": ["node-2"]}]},
        {"name": "west", "latency_ms": 8, "jitter_ms": 3, "bandwidth_mbps": 80, "loss": 0.1, "nodes": 2},
    ],
}


def test_without_racks_it_is_a_star_and_a_path_is_as_long_as_its_edges_there_and_back() -> None:
    it = network(latency_ms=0.3)
    assert {frozenset(edge) for edge in it.graph.edges} == {frozenset((end, "core")) for end in ("gateway-0", *NODES)}
    assert path(it).round_trip_s == pytest.approx(0.0006)
    assert path(it).plain


def test_racks_and_zones_are_where_the_scenario_puts_them() -> None:
    it = placed(["east"], **TWO_ZONES)
    assert set(it.graph.neighbors("core")) == {"east", "west"}
    assert set(it.graph.neighbors("east")) == {"core", "gateway-0", "e1", "e2"}
    assert (it.topology.racks, it.topology.zones) == (
        {"e1": ["node-0"], "e2": ["node-2"]},
        {"east": ["node-0", "node-2"], "west": ["node-1", "node-3"]},
    )


def test_nodes_are_dealt_out_in_turn_in_the_short_form() -> None:
    assert network(racks=3).topology.racks == {"r1": ["node-0", "node-3"], "r2": ["node-1"], "r3": ["node-2"]}


def test_latency_jitter_loss_and_bandwidth_of_a_path_follow_from_its_edges() -> None:
    it = placed(["east", "west"], **(TWO_ZONES | {"jitter_ms": 4.0, "loss": 0.2, "bandwidth_mbps": 400}))
    assert path(it, "node-0").round_trip_s == pytest.approx(2 * 0.0001), "its own zone: only the node's own link"
    far = path(it, "node-1")
    assert far.round_trip_s == pytest.approx(2 * (0.0005 + 0.008 + 0.0001))
    assert far.jitter_s == pytest.approx(0.005), "root of 3 and 4 squared"
    assert far.loss == pytest.approx(1 - 0.9 * 0.8)
    assert far.bytes_per_s == pytest.approx(10e6), "80 Mb/s is the narrowest"
    assert far.retransmission_s == pytest.approx(0.0172 + 0.2)
    assert path(it, "node-1", "gateway-1").loss == pytest.approx(0.2)
    assert (far.carries, far.plain) == (True, False)


def test_jitter_varies_by_as_much_as_is_said_and_each_path_has_a_stream_of_its_own() -> None:
    def trips(asked: tuple[str, ...]) -> list[float]:
        it = network(latency_ms=10, jitter_ms=5)
        return [path(it, node).trip_s() for node in asked for _ in range(500)]

    drawn = trips(("node-0",))
    assert 0.010 < min(drawn) < 0.013
    assert 0.027 < max(drawn) < 0.030
    assert sum(drawn) / len(drawn) == pytest.approx(0.020, abs=0.0005)
    assert trips(("node-1", "node-0"))[500:] == drawn, "others' draws shift nothing"


@pytest.mark.parametrize("segments", [1, 5])
def test_a_lost_segment_waits_for_a_timeout_that_doubles(segments: int) -> None:
    it = path(network(latency_ms=50, loss=0.3))
    rto_s = 0.1 + 0.2
    assert [it.retransmitted_s(losses) for losses in range(4)] == pytest.approx([0, rto_s, 3 * rto_s, 7 * rto_s])
    assert it.retransmitted_s(12) == pytest.approx(rto_s * (2**9 - 1) + 3 * 120.0), "no wait is above 120 s"
    losses = [it.losses_in_a_row(segments) for _ in range(20_000)]
    for most in range(3):
        share = sum(each <= most for each in losses) / len(losses)
        assert share == pytest.approx((1 - 0.3 ** (most + 1)) ** segments, abs=0.01)


def test_the_mean_delay_of_a_segment_is_that_of_the_geometric_series() -> None:
    it = path(network(latency_ms=50, loss=0.1))
    assert it.loss_delay_mean_s() == pytest.approx(0.3 * 0.1 / (1 - 0.2), rel=1e-3)  # RTO p / (1 - 2 p)


def test_a_cut_takes_one_node_away_and_a_mended_one_is_as_it_was() -> None:
    it = network(latency_ms=0.3)
    for _ in range(2):
        it.change("a", "node-0", LinkChange(blocked="both"))
    assert not path(it).requests_pass
    assert not path(it).answers_pass
    assert path(it, "node-1").plain
    assert it.restore("a", "node-0") == [path(it)]
    assert path(it).plain
    assert path(it).round_trip_s == pytest.approx(0.0006)


def test_two_faults_on_a_link_add_up_and_each_takes_back_its_own() -> None:
    it = network(latency_ms=0.3)
    it.change("a", "node-0", LinkChange(latency_ms=500.0))
    it.change("b", "node-0", LinkChange(blocked="both", latency_ms=200.0))
    assert path(it).round_trip_s == pytest.approx(1.4006)
    it.restore("a", "node-0")
    assert path(it).round_trip_s == pytest.approx(0.4006)
    assert not path(it).requests_pass
    it.change("b", "node-0", LinkChange(latency_ms=100.0))
    assert path(it).round_trip_s == pytest.approx(0.2006), "a later step of one fault replaces its earlier one"


@pytest.mark.parametrize("direction", ["to_node", "from_node"])
def test_a_one_way_cut_of_a_zone_works_the_other_way_for_a_gateway_inside(direction: str) -> None:
    it = placed(["east", None], **TWO_ZONES)
    it.change("a", "east", LinkChange(blocked=direction))  # type: ignore[arg-type]
    inwards = direction == "to_node"  # what goes down into the zone is blocked
    outside, inside, local = path(it, "node-0", "gateway-1"), path(it, "node-1"), path(it, "node-0")
    assert (outside.requests_pass, outside.answers_pass) == (not inwards, inwards)
    assert (inside.requests_pass, inside.answers_pass) == (inwards, not inwards)
    assert local.plain or local.requests_pass


def test_a_cut_gateway_sees_nothing_and_the_other_one_all() -> None:
    it = network(gateways=2)
    it.change("a", "gateway-1", LinkChange(blocked="to_node"))
    assert [path(it, node, "gateway-1").requests_pass for node in NODES] == [False] * 4
    assert [path(it, node, "gateway-1").answers_pass for node in NODES] == [True] * 4
    assert all(path(it, node).plain for node in NODES)
    assert (it.reaches_core("gateway-0"), it.reaches_core("gateway-1")) == (True, False)


def test_a_change_seen_from_one_gateway_leaves_the_others_alone() -> None:
    it = network(gateways=2, racks=2)
    touched = it.change("a", "r1", LinkChange(blocked="from_node"), seen_from="gateway-1")
    assert [(each.gateway, each.node) for each in touched] == [("gateway-1", "node-0"), ("gateway-1", "node-2")]
    assert (touched[0].requests_pass, touched[0].answers_pass) == (True, False)
    assert path(it).plain
    assert it.restore("a", "r1") == touched
    assert all(each.plain for paths in it.paths.values() for each in paths.values())


def test_only_paths_over_the_changed_edge_are_worked_out() -> None:
    it = network(racks=2)
    assert {each.node for each in it.change("a", "r2", LinkChange(loss=0.5))} == {"node-1", "node-3"}
    assert [path(it, node).loss for node in NODES] == pytest.approx([0, 0.5, 0, 0.5])


def test_a_path_without_loss_never_waits() -> None:
    assert path(network()).loss_delay_s(1000) == 0.0
    assert math.isinf(path(network()).bytes_per_s)
