from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from tests.scenario.documents import scenario
from twin.scenario.draws import strikes
from twin.scenario.topology import Network, Topology

ZONES = {
    "zones": [
        {"name": "east", "racks": [{"name": "e1", "nodes": 2}, {"name": "e2", "nodes": ["node-0"]}]},
        {"name": "west", "nodes": 1},
    ]
}


def cluster(network: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"nodes": 4, "models": {"llama3.1:8b": {"replicas": 2}}, "network": network, **more}


def test_a_number_means_the_next_nodes_that_no_rack_names() -> None:
    it = scenario(cluster=cluster(ZONES)).cluster.topology()
    assert it.racks == {"e1": ["node-1", "node-2"], "e2": ["node-0"]}
    assert it.zones == {"east": ["node-1", "node-2", "node-0"], "west": ["node-3"]}
    assert {name: it.parents[name] for name in ("node-0", "node-3", "e2", "east", "gateway-0")} == {
        "node-0": "e2",
        "node-3": "west",
        "e2": "east",
        "east": "core",
        "gateway-0": "core",
    }


def test_gateways_are_counted_or_placed() -> None:
    assert scenario(cluster__gateways=2).cluster.gateway_names() == ["gateway-0", "gateway-1"]
    it = scenario(cluster=cluster(ZONES, gateways=[{"zone": "west"}, {}])).cluster.topology()
    assert (it.parents["gateway-0"], it.parents["gateway-1"]) == ("west", "core")


def test_zones_may_be_dealt_out_too() -> None:
    it = Topology(Network(zones=2), ["a", "b", "c"], [])
    assert it.zones == {"z1": ["a", "c"], "z2": ["b"]}


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"racks": 5}, "network: 5 racks for 4 nodes"),
        ({"racks": 2, "zones": 2}, "network: give either racks or zones (a zone may have racks)"),
        ({"racks": [{"name": "r1", "nodes": 3}]}, "network: node-3 is in no rack or zone (1 of 4 nodes are left over)"),
        ({"racks": [{"name": "r1", "nodes": 5}]}, "network: r1 wants 5 nodes and only 4 are left"),
        ({"racks": [{"name": "r1", "nodes": ["nod-1"]}]}, "unknown node 'nod-1' in r1; did you mean node-1?"),
        ({"racks": [{"name": "r", "nodes": 2}, {"name": "r", "nodes": 2}]}, "the name r is taken"),
        ({"racks": [{"name": "core", "nodes": 4}]}, "the name core is taken"),
        (
            {"racks": [{"name": "r1", "nodes": ["node-1"]}, {"name": "r2", "nodes": ["node-1", "node-2"]}]},
            "network: node-1 is in two places, one of them r2",
        ),
        ({"zones": [{"name": "z"}]}, "zone z: give either racks or nodes"),
        ({"zones": [{"name": "z", "nodes": 4, "latency": 3}]}, "Extra inputs are not permitted"),
        ({"loss": 1.0}, "Input should be less than 1"),
    ],
)
def test_a_network_that_does_not_fit_together_is_refused_with_what_is_wrong(
    network: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        scenario(cluster=cluster(network))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": {"rack": "e3"}}, "faults[0]: target: unknown rack 'e3'; there are e1, e2"),
        ({"target": {"zone": "north"}}, "faults[0]: target: unknown zone 'north'; there are east, west"),
        ({"target": {"gateway": "gateway-7"}}, "unknown gateway 'gateway-7'; did you mean gateway-0?"),
        ({"target": {"rack": "e1", "zone": "east"}}, "faults[0]: target: name one rack, zone or gateway"),
        ({"target": {"rak": "e1"}}, "rak"),
        ({"target": "node-9"}, "random, random(N), {rack: NAME}, {zone: NAME} or all"),
        ({"seen_from": "gateway-1"}, "faults[0]: seen_from: unknown gateway 'gateway-1'; did you mean gateway-0?"),
        (
            {"kind": "server_crash", "target": {"gateway": "gateway-0"}},
            "server_crash strikes nodes, and no node runs on a gateway",
        ),
    ],
)
def test_a_target_that_does_not_exist_is_refused_with_a_suggestion(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        scenario(cluster=cluster(ZONES), faults=[{"kind": "partition", "at_s": 1, **changes}])


def test_a_gateway_in_an_unknown_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match=re.escape("gateways: unknown zone 'wets'; did you mean west?")):
        scenario(cluster=cluster(ZONES, gateways=[{"zone": "wets"}]))


@pytest.mark.parametrize(
    ("target", "struck"),
    [
        ({"rack": "e1"}, [("node-1", "e1"), ("node-2", "e1")]),
        ({"zone": "west"}, [("node-3", "west")]),
        ({"gateway": "gateway-0"}, [(f"node-{place}", "gateway-0") for place in range(4)]),
        ("node-2", [("node-2", "node-2")]),
        ("all", [(f"node-{place}", f"node-{place}") for place in range(4)]),
    ],
)
def test_who_is_struck_and_through_which_uplink(target: Any, struck: list[tuple[str, str]]) -> None:
    it = scenario(cluster=cluster(ZONES), faults=[{"kind": "partition", "at_s": 1, "target": target}])
    assert strikes(it, 0, it.faults[0], seed=1) == struck


def test_a_random_rack_is_one_of_them_and_the_same_for_the_same_seed() -> None:
    it = scenario(cluster=cluster({"racks": 2}), faults=[{"kind": "partition", "at_s": 1, "target": "random_rack"}])
    drawn = [strikes(it, 0, it.faults[0], seed) for seed in range(20)]
    assert {element for nodes in drawn for _, element in nodes} == {"r1", "r2"}
    assert all(len({element for _, element in nodes}) == 1 for nodes in drawn)
    assert drawn == [strikes(it, 0, it.faults[0], seed) for seed in range(20)]
