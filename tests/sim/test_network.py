from __future__ import annotations

import pytest

from twin.sim.network import GATEWAY, SWITCH, SimulatedNetwork


def test_a_path_is_as_long_as_its_edges_there_and_back() -> None:
    network = SimulatedNetwork(["node-0", "node-1"], latency_ms=0.3)
    assert network.paths["node-0"].round_trip_s == pytest.approx(0.0006)
    assert sorted(network.graph.edges) == sorted([(GATEWAY, SWITCH), (SWITCH, "node-0"), (SWITCH, "node-1")])


def test_a_cut_takes_one_node_away_and_a_mended_one_is_as_it_was() -> None:
    network = SimulatedNetwork(["node-0", "node-1"], latency_ms=0.3)
    network.cut("node-0")
    network.cut("node-0")
    assert (network.paths["node-0"].cut, network.paths["node-1"].cut) == (True, False)
    network.restore("node-0")
    assert not network.paths["node-0"].cut
    assert network.paths["node-0"].round_trip_s == pytest.approx(0.0006)


def test_what_is_slowed_down_takes_longer_each_way_and_does_not_add_up() -> None:
    network = SimulatedNetwork(["node-0", "node-1"], latency_ms=0.3)
    network.slow("node-0", 500.0)
    network.slow("node-0", 200.0)
    assert network.paths["node-0"].round_trip_s == pytest.approx(0.4006)
    assert network.paths["node-1"].round_trip_s == pytest.approx(0.0006)
    network.restore("node-0")
    assert network.paths["node-0"].round_trip_s == pytest.approx(0.0006)


def test_a_cut_of_the_trunk_takes_all_nodes_away() -> None:
    network = SimulatedNetwork(["node-0", "node-1"], latency_ms=0.3)
    network.graph.remove_edge(GATEWAY, SWITCH)
    network.restore("node-0")
    assert network.paths["node-0"].cut
