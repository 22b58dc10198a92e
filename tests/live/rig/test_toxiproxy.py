"""The faults of the network, through a real Toxiproxy: what a client of the node sees."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from live.rig.errors import RigError
from live.rig.ledger import Ledger
from live.rig.processes import ProcessFailed, free_port
from live.rig.toxiproxy import NetworkFault, ToxiproxyGone, ToxiproxyNetwork

pytestmark = pytest.mark.real
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that sends back what it gets, and keeps what it got."""

    def __init__(self) -> None:
        self.got = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(65536):
                self.got += data
                writer.write(data)
                await writer.drain()
        except ConnectionResetError:
            return
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, str]]:
    echo = Echo()
    port = free_port()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", port)
    yield echo, f"http://127.0.0.1:{port}"
    server.close()
    for writer in echo.writers:
        writer.close()
    await asyncio.sleep(0.01)


@pytest.fixture
async def network(toxiproxy_server: Path, ledger: Ledger, tmp_path: Path) -> AsyncIterator[ToxiproxyNetwork]:
    network = ToxiproxyNetwork(server=toxiproxy_server, log=tmp_path / "log", ledger=ledger, answer_limit_s=1.0)
    await network.start()
    yield network
    await network.stop()


@pytest.fixture
async def edge(network: ToxiproxyNetwork, echo: tuple[Echo, str]) -> AsyncIterator["Edge"]:
    edge = Edge(await network.add_edge("node-1", echo[1]))
    yield edge
    await edge.close()


class Edge:
    """The client's side of the edge to node-1."""

    def __init__(self, address: str) -> None:
        self.port = int(address.rpartition(":")[2])
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
            await asyncio.wait([asyncio.create_task(writer.wait_closed())], timeout=1)


async def say(connection: Connection, text: bytes = b"hello") -> bytes:
    reader, writer = connection
    writer.write(text)
    return await reader.readexactly(len(text))


async def is_silent(connection: Connection, for_s: float = 0.3) -> bool:
    try:
        await asyncio.wait_for(say(connection), for_s)
    except TimeoutError:
        return True
    return False


async def test_an_edge_carries_bytes(edge: Edge) -> None:
    assert await say(await edge.connect()) == b"hello"


async def test_a_slow_edge_delays_answers_until_it_is_restored(network: ToxiproxyNetwork, edge: Edge) -> None:
    connection = await edge.connect()
    await network.slow("node-1", 200)
    started_s = time.monotonic()
    await say(connection)
    assert 0.2 <= time.monotonic() - started_s < 0.4
    await network.restore("node-1")
    started_s = time.monotonic()
    await say(connection)
    assert time.monotonic() - started_s < 0.1


async def test_a_second_slowness_replaces_the_first(network: ToxiproxyNetwork, edge: Edge) -> None:
    await network.slow("node-1", 5000)
    await network.slow("node-1", 50)
    assert not await is_silent(await edge.connect(), 1.0)


async def test_a_black_hole_swallows_old_and_new_connections_and_closes_none(
    network: ToxiproxyNetwork, edge: Edge, echo: tuple[Echo, str]
) -> None:
    old = await edge.connect()
    await say(old)
    got_before = echo[0].got
    await network.black_hole("node-1")
    new = await edge.connect()
    assert await is_silent(old)
    assert await is_silent(new)
    assert not old[0].at_eof()
    assert not new[0].at_eof()
    assert echo[0].got == got_before, "the node got bytes through a partition"


async def test_a_black_hole_for_answers_lets_requests_through(
    network: ToxiproxyNetwork, edge: Edge, echo: tuple[Echo, str]
) -> None:
    await network.black_hole("node-1", NetworkFault.BLACK_HOLE_ANSWERS)
    assert await is_silent(await edge.connect())
    assert echo[0].got == b"hello"
    assert await network.faults("node-1") == {NetworkFault.BLACK_HOLE_ANSWERS}


async def test_a_black_hole_for_requests_lets_none_through(
    network: ToxiproxyNetwork, edge: Edge, echo: tuple[Echo, str]
) -> None:
    await network.black_hole("node-1", NetworkFault.BLACK_HOLE_REQUESTS)
    connection = await edge.connect()
    assert await is_silent(connection)
    assert echo[0].got == b""
    echo[0].writers[0].write(b"said by the node itself")
    assert await asyncio.wait_for(connection[0].readexactly(4), 1) == b"said"


async def test_after_a_black_hole_new_connections_work_and_old_ones_are_closed(
    network: ToxiproxyNetwork, edge: Edge
) -> None:
    old = await edge.connect()
    await say(old)
    await network.black_hole("node-1")
    await network.restore("node-1")
    assert await asyncio.wait_for(old[0].read(), 2) == b""
    assert await say(await edge.connect()) == b"hello"


async def test_a_refusing_edge_closes_and_refuses_until_it_is_restored_on_the_same_port(
    network: ToxiproxyNetwork, edge: Edge
) -> None:
    old = await edge.connect()
    await say(old)
    await network.refuse("node-1")
    assert await asyncio.wait_for(old[0].read(), 2) == b""
    with pytest.raises(ConnectionRefusedError):
        await edge.connect()
    await network.restore("node-1")
    assert await say(await edge.connect()) == b"hello"


async def test_a_reset_edge_resets_new_connections_and_cuts_old_ones(network: ToxiproxyNetwork, edge: Edge) -> None:
    old = await edge.connect()
    await say(old)
    await network.reset("node-1")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await asyncio.wait_for(say(old), 2)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(say(await edge.connect()), 2)
    await network.restore("node-1")
    assert await say(await edge.connect()) == b"hello"


async def test_a_narrow_edge_takes_as_long_as_its_bandwidth_says(network: ToxiproxyNetwork, edge: Edge) -> None:
    connection = await edge.connect()
    await network.limit_bandwidth("node-1", 100)
    started_s = time.monotonic()
    await say(connection, b"x" * 50_000)
    assert 0.4 < time.monotonic() - started_s < 2.0
    with pytest.raises(RigError, match="use black_hole"):
        await network.limit_bandwidth("node-1", 0)


async def test_faults_are_told_apart_and_taken_away_one_by_one_or_all_at_once(
    network: ToxiproxyNetwork, edge: Edge
) -> None:
    assert await network.faults("node-1") == frozenset()
    await network.slow("node-1", 10)
    await network.reset("node-1")
    await network.refuse("node-1")
    assert await network.faults("node-1") == {NetworkFault.SLOW, NetworkFault.RESET, NetworkFault.REFUSE}
    await network.restore("node-1", NetworkFault.RESET)
    assert await network.faults("node-1") == {NetworkFault.SLOW, NetworkFault.REFUSE}
    await network.restore_all()
    assert await network.faults("node-1") == frozenset()
    assert await say(await edge.connect()) == b"hello"


async def test_a_fault_on_one_edge_leaves_the_others_alone(
    network: ToxiproxyNetwork, edge: Edge, echo: tuple[Echo, str]
) -> None:
    other = Edge(await network.add_edge("node-2", echo[1]))
    await network.refuse("node-1")
    assert await say(await other.connect()) == b"hello"
    await other.close()


async def test_an_unknown_node_is_an_error_that_lists_the_known(network: ToxiproxyNetwork, edge: Edge) -> None:
    with pytest.raises(RigError, match="there is no edge to node-7; there are: node-1"):
        await network.slow("node-7", 10)


async def test_an_edge_that_cannot_open_again_is_an_error(network: ToxiproxyNetwork, edge: Edge) -> None:
    await network.refuse("node-1")
    thief = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", edge.port)
    with pytest.raises(RigError, match="the edge to node-1 is still refuse"):
        await network.restore("node-1")
    thief.close()
    await network.restore("node-1")


async def test_a_toxiproxy_that_died_is_gone(network: ToxiproxyNetwork, edge: Edge) -> None:
    os.kill(network.pid, signal.SIGKILL)
    with pytest.raises(ToxiproxyGone, match=r"broke off while making|is not running, so making"):
        await network.slow("node-1", 10)
    await asyncio.sleep(0.05)
    with pytest.raises(ToxiproxyGone, match="is not running"):
        await network.restore_all()


async def test_a_toxiproxy_that_does_not_answer_is_gone_and_can_still_be_stopped(
    network: ToxiproxyNetwork, edge: Edge
) -> None:
    os.kill(network.pid, signal.SIGSTOP)
    with pytest.raises(ToxiproxyGone, match="did not answer within 1 s while making the edge to node-1 slow"):
        await network.slow("node-1", 10)
    await network.stop()


async def test_a_second_toxiproxy_in_one_process_is_refused(
    network: ToxiproxyNetwork, toxiproxy_server: Path, ledger: Ledger, tmp_path: Path
) -> None:
    second = ToxiproxyNetwork(server=toxiproxy_server, log=tmp_path / "log2", ledger=ledger)
    with pytest.raises(RigError, match="runs a Toxiproxy already"):
        await second.start()


async def test_a_port_in_use_is_an_error_that_names_it(
    toxiproxy_server: Path, ledger: Ledger, tmp_path: Path, echo: tuple[Echo, str]
) -> None:
    port = int(echo[1].rpartition(":")[2])
    network = ToxiproxyNetwork(server=toxiproxy_server, log=tmp_path / "log", ledger=ledger, port=port)
    with pytest.raises(ProcessFailed, match=f"port {port} on 127.0.0.1 is in use"):
        await network.start()
