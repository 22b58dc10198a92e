"""Faults' network operations on a real Toxiproxy edge: what holds while two of them overlap, and what is put back."""

from __future__ import annotations

from typing import cast

import pytest

from live.rig.errors import RigError
from live.rig.injection import check_possible
from live.rig.network_steps import NetworkSteps
from live.rig.node import RigNode
from live.rig.toxiproxy import NetworkFault, ToxiproxyNetwork
from tests.live.rig.test_toxiproxy import Echo, Edge, echo, edge, network, say
from tests.scenario.documents import scenario
from twin.scenario.faults.base import LinkChange, Step

__all__ = ["Echo", "echo", "edge", "network"]  # fixtures
CUT = Step(0.0, "cut_network", link=LinkChange(blocked="both"))
HALF_CUT = Step(0.0, "cut_network", link=LinkChange(blocked="from_node"))
SLOW = Step(0.0, "slow_network", 100.0, link=LinkChange(latency_ms=100.0, jitter_ms=10.0))
NARROW = Step(0.0, "limit_bandwidth", 5.0, link=LinkChange(bandwidth_kb_per_s=5.0))
REFUSE = Step(0.0, "refuse_network", link=LinkChange(refuses=True))
RESET = Step(0.0, "reset_connections")
RESTORE = Step(0.0, "restore_network")


class Node:
    """A node of which only its server's life matters."""

    alive = True

    def server_alive(self) -> bool:
        return self.alive


class Bench:
    def __init__(self, toxiproxy: ToxiproxyNetwork) -> None:
        self.toxiproxy = toxiproxy
        self.node = Node()
        self.steps = NetworkSteps(toxiproxy, {"node-1": cast(RigNode, self.node)})

    async def do(self, fault: int, *steps: Step) -> frozenset[NetworkFault]:
        for step in steps:
            await self.steps.perform(fault, "node-1", step)
        return await self.toxiproxy.faults("node-1")


@pytest.fixture
def bench(network: ToxiproxyNetwork, edge: Edge) -> Bench:
    return Bench(network)


@pytest.mark.real
async def test_each_fault_takes_back_its_own(bench: Bench) -> None:
    assert await bench.do(0, SLOW) == {NetworkFault.SLOW}
    assert await bench.do(1, HALF_CUT, NARROW) == {
        NetworkFault.SLOW,
        NetworkFault.BLACK_HOLE_ANSWERS,
        NetworkFault.BANDWIDTH,
    }
    assert not bench.steps.reachable("node-1")
    assert await bench.do(1, RESTORE) == {NetworkFault.SLOW}
    assert bench.steps.reachable("node-1")
    assert await bench.do(0, RESTORE) == frozenset()


@pytest.mark.real
async def test_what_two_faults_do_alike_goes_with_the_last_of_them(bench: Bench) -> None:
    assert await bench.do(0, CUT) == await bench.do(1, CUT) == {NetworkFault.BLACK_HOLE}
    assert await bench.do(0, RESTORE) == {NetworkFault.BLACK_HOLE}
    assert await bench.do(1, RESTORE) == frozenset()


@pytest.mark.real
async def test_a_link_that_is_mended_before_a_dead_node_still_refuses(bench: Bench) -> None:
    assert await bench.do(0, REFUSE) == {NetworkFault.REFUSE}
    assert bench.steps.refuses("node-1")
    bench.node.alive = False
    assert await bench.do(0, RESTORE) == {NetworkFault.REFUSE}
    assert not bench.steps.refuses("node-1")


@pytest.mark.real
async def test_a_reset_ends_open_connections_and_new_ones_work(bench: Bench, edge: Edge) -> None:
    reader, writer = await edge.connect()
    assert await say((reader, writer)) == b"hello"
    assert await bench.do(0, RESET) == frozenset()
    assert await reader.read() == b""
    assert await say(await edge.connect()) == b"hello"


def test_what_the_rig_cannot_do_is_said_before_the_run() -> None:
    lossy = scenario(faults=[{"kind": "packet_loss", "at_s": 1}])
    with pytest.raises(RigError, match="packet_loss cannot be done to emulated nodes; use --world twin"):
        check_possible(lossy.for_live(), "emulated")
    with pytest.raises(RigError, match="the rig has one gateway, not 2; use --world twin, or --set"):
        check_possible(scenario(cluster__gateways=2).for_live(), "emulated")
