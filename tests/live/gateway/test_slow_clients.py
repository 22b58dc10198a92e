"""Clients that are slow to read, or do not read at all, hold no node, and no more memory than they may."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from live.gateway.config import ConfigError, ServeConfig, validated
from live.gateway.http_server import MIB, ServerLimits
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import StubNode, answers, generate_end, generate_lines, line, streams, to, until
from twin.policy.vocabulary import AttemptEnded

WORD = "x" * 60_000
KEPT_BY_THE_SYSTEM_MIB = 8
"""More than what the system's own buffers keep of a connection within one machine."""
GENERATE = {"model": "m", "prompt": "p", "options": {"seed": 1}}


def answer_of(mib: float) -> list[bytes]:
    """A stream of so many MiB."""
    return generate_lines([WORD] * round(mib * MIB / len(WORD)))


class Reader:
    """A client that reads when it is told to, over a connection of which the system keeps little."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    async def ask(self, path: str = "/api/generate", body: dict[str, Any] | None = None, count: int = 1) -> None:
        data = json.dumps(body or GENERATE).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        await asyncio.get_running_loop().sock_sendall(self._socket, (head + data) * count)

    async def read(self, most: int = 1 << 20) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, most)

    async def read_until(self, ending: bytes, rest: bytes = b"") -> bytes:
        """All up to there; what comes is not broken off before."""
        data = bytearray(rest)
        while not data.endswith(ending):
            part = await self.read()
            assert part, "the connection was closed"
            data += part
        return bytes(data)

    async def is_closed(self) -> bool:
        """Read to the end of the connection; whether it came."""
        with contextlib.suppress(ConnectionError):
            while await self.read():
                pass
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def reader() -> AsyncIterator[Callable[..., Any]]:
    readers: list[Reader] = []

    async def connect(house: House) -> Reader:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        host, _, port = house.url.removeprefix("http://").partition(":")
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        readers.append(Reader(sock))
        return readers[-1]

    yield connect
    for each in readers:
        each.close()


async def settled(house: House) -> None:
    """Returns once the system has taken all that it takes, now and again a little, and the gateway has seen that."""
    server = house.gateway._server
    while True:
        before = {connection: connection.took_s for connection in server.slow}
        await asyncio.sleep(0.3)
        server._look()
        if before == {connection: connection.took_s for connection in server.slow}:
            return


def body_of(answer: bytes) -> bytes:
    """The content of an answer in chunks."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    whole = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return bytes(whole)


async def test_a_node_is_free_when_it_has_ended_its_answer_though_its_client_has_not_begun_to_read(
    make_house: Any, reader: Any
) -> None:
    house: House = await make_house(server=ServerLimits(client_buffer_bytes=32 * MIB))
    house.routes(to("a"), to("a"))
    lines = answer_of(KEPT_BY_THE_SYSTEM_MIB + 8)
    house.a.will(streams(lines))
    client = await reader(house)
    await client.ask()
    await until(lambda: house.policy.of(AttemptEnded), 10)
    assert house.policy.of(AttemptEnded)[0].outcome == "succeeded"
    assert house.gateway._relay.in_flight("a") == 0
    assert house.gateway._server.unread_bytes > 2 * MIB, "the rest is kept here"
    assert house.logs == [], "for its client it has not ended"
    whole = await client.read_until(b"0\r\n\r\n")
    assert body_of(whole) == b"".join(lines)
    await until(lambda: house.logs)
    assert (house.logs[0].outcome, house.gateway._server.unread_bytes) == ("succeeded", 0)
    await client.ask()
    assert body_of(await client.read_until(b"0\r\n\r\n")) == b"".join(lines), "its connection is as good as any"


async def test_beyond_what_is_kept_a_node_waits_and_goes_on_when_its_client_reads(make_house: Any, reader: Any) -> None:
    house: House = await make_house(server=ServerLimits(client_buffer_bytes=MIB))
    house.routes(to("a", stall_s=0.2))
    lines = answer_of(KEPT_BY_THE_SYSTEM_MIB + 24)
    house.a.will(streams(lines))
    client = await reader(house)
    await client.ask()
    server = house.gateway._server
    await until(lambda: server.unread_bytes > MIB, 10)
    with pytest.raises(TimeoutError):
        await until(lambda: house.policy.of(AttemptEnded) or server.unread_bytes > 2 * MIB, 0.5)
    assert body_of(await client.read_until(b"0\r\n\r\n")) == b"".join(lines)
    await until(lambda: house.logs)
    assert (house.logs[0].outcome, house.policy.of(AttemptEnded)[0].outcome) == ("succeeded", "succeeded")


async def endless(_node: StubNode, request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """A node that goes on and on."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(line(model="m", created_at="t", response=WORD, done=False))


async def test_a_node_waits_for_a_client_only_so_long_and_is_free_then(make_house: Any, reader: Any) -> None:
    house: House = await make_house(server=ServerLimits(client_buffer_bytes=MIB), client_wait_s=0.3)
    house.routes(to("a"))
    house.a.will(endless)
    client = await reader(house)
    await client.ask()
    await until(lambda: house.logs, 10)
    assert (house.logs[0].outcome, house.logs[0].error) == ("cancelled", "slow_client")
    assert house.policy.of(AttemptEnded)[0].outcome == "cancelled", "that says nothing against the node"
    await until(lambda: house.a.cancelled)
    assert await client.is_closed()
    await until(lambda: house.gateway._server.unread_bytes == 0)


async def test_it_waits_so_long_in_all_and_not_each_time_anew(make_house: Any, reader: Any) -> None:
    house: House = await make_house(server=ServerLimits(client_buffer_bytes=MIB), client_wait_s=0.5)
    house.routes(to("a"))
    house.a.will(endless)
    client = await reader(house)
    await client.ask()
    server = house.gateway._server
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    with contextlib.suppress(ConnectionError):
        while not house.logs:
            # It reads all that there is, always a little before it would be given up.
            await until(lambda: server.unread_bytes > MIB or house.logs, 10)
            await asyncio.sleep(0.2)
            while server.unread_bytes and not house.logs:
                await client.read()
    assert house.logs[0].error == "slow_client"
    assert loop.time() - begun_s < 5.0


async def test_a_client_that_reads_nothing_for_long_is_cut_off_and_one_that_reads_a_little_is_not(
    make_house: Any, reader: Any
) -> None:
    limits = ServerLimits(client_buffer_bytes=64 * MIB, client_stall_s=0.5)
    house: House = await make_house(server=limits)
    house.routes(to("a"), to("b"))
    lines = answer_of(KEPT_BY_THE_SYSTEM_MIB + 4)
    for node in (house.a, house.b):
        node.will(streams(lines))
    silent, slow = await reader(house), await reader(house)
    await silent.ask()
    await slow.ask()
    read = bytearray()
    while len(house.logs) < 1:
        read += await slow.read(400_000)
        await asyncio.sleep(0.05)
    assert [log.outcome for log in house.logs] == ["cancelled"]
    assert await silent.is_closed()
    whole = await slow.read_until(b"0\r\n\r\n", bytes(read))
    assert body_of(whole) == b"".join(lines)


async def test_many_that_do_not_read_hold_no_more_than_they_may_together(make_house: Any, reader: Any) -> None:
    limits = ServerLimits(client_buffer_bytes=16 * MIB, all_clients_bytes=32 * MIB)
    house: House = await make_house(server=limits)
    lines = answer_of(KEPT_BY_THE_SYSTEM_MIB + 4)
    house.a.will(streams(lines))
    server = house.gateway._server
    most_bytes = 0
    clients: list[Reader] = []
    for number in range(8):
        house.routes(to("a"))
        clients.append(await reader(house))
        await clients[-1].ask()
        await until(lambda: len(house.policy.of(AttemptEnded)) > number, 10)  # noqa: B023
        most_bytes = max(most_bytes, server.unread_bytes)
        await settled(house)
    assert {ended.outcome for ended in house.policy.of(AttemptEnded)} == {"succeeded"}, "no node was held"
    assert 16 * MIB < most_bytes <= 33 * MIB
    assert server.unread_bytes == sum(connection._unread_bytes for connection in server.connections)
    cut = [log.request_id for log in house.logs]
    assert cut == sorted(cut), "who has read nothing for longest goes first"
    assert 0 < len(cut) < 8
    assert body_of(await clients[-1].read_until(b"0\r\n\r\n")) == b"".join(lines)


async def test_whole_answers_that_are_not_read_count_as_well(make_house: Any, reader: Any) -> None:
    limits = ServerLimits(all_clients_bytes=16 * MIB)
    house: House = await make_house(server=limits)
    house.routes(*[to("a")] * 4)
    large = json.dumps({"model": "m", "embeddings": "x" * (KEPT_BY_THE_SYSTEM_MIB + 7) * MIB}).encode()
    house.a.will(answers(200, large))
    server = house.gateway._server
    for number in range(4):
        client = await reader(house)
        await client.ask("/api/embed", {"model": "m", "input": "x"})
        await until(lambda: len(house.policy.of(AttemptEnded)) > number, 10)  # noqa: B023
        await until(lambda: server.unread_bytes <= 16 * MIB)
        await settled(house)
    assert len(house.logs) == 3
    assert (await client.read_until(b'"}'))[-1000:] == large[-1000:]


async def test_who_does_not_read_is_not_answered_any_further(make_house: Any, reader: Any) -> None:
    house: House = await make_house(server=ServerLimits(client_buffer_bytes=32 * MIB))
    house.routes(*[to("a")] * 3)
    lines = answer_of(KEPT_BY_THE_SYSTEM_MIB + 4)
    house.a.will(streams(lines))
    client = await reader(house)
    await client.ask(count=3)
    await until(lambda: house.policy.of(AttemptEnded), 10)
    with pytest.raises(TimeoutError):
        await until(lambda: len(house.policy.asked) > 1, 0.3)
    for _ in range(3):
        assert body_of(await client.read_until(b"0\r\n\r\n")) == b"".join(lines)


async def test_a_question_whose_answer_is_not_read_holds_back_the_next_one(make_house: Any, reader: Any) -> None:
    house: House = await make_house(("a",))
    models = [{"name": f"m{number}", "digest": "x" * 60_000} for number in range(200)]
    house.a.will(answers(200, json.dumps({"models": models}).encode()))
    client = await reader(house)
    for _ in range(4):
        await asyncio.get_running_loop().sock_sendall(
            client._socket, b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
    server = house.gateway._server
    await until(lambda: server.unread_bytes > MIB, 10)
    held = server.unread_bytes
    with pytest.raises(TimeoutError):
        await until(lambda: server.unread_bytes > held, 0.3)
    for _ in range(4):
        assert (await client.read_until(b"]}")).count(b"m199") == 1


async def test_an_error_is_said_where_there_is_room_to_keep_it(make_house: Any, reader: Any) -> None:
    house: House = await make_house(server=ServerLimits(client_buffer_bytes=32 * MIB))
    house.routes(to("a"))
    house.a.will(streams(answer_of(KEPT_BY_THE_SYSTEM_MIB + 4)[:-1]))
    client = await reader(house)
    await client.ask()
    await until(lambda: house.logs, 10)
    assert b"terminal record" in body_of(await client.read_until(b"0\r\n\r\n")).splitlines()[-1]


async def test_an_orderly_stop_waits_for_a_slow_client_to_read_its_answer(make_house: Any, reader: Any) -> None:
    house: House = await make_house(server=ServerLimits(client_buffer_bytes=32 * MIB), shutdown_grace_s=10.0)
    house.routes(to("a"))
    lines = [*answer_of(KEPT_BY_THE_SYSTEM_MIB + 4)[:-1], generate_end(1)]
    house.a.will(streams(lines))
    client = await reader(house)
    await client.ask()
    await until(lambda: house.policy.of(AttemptEnded), 10)
    stopping = asyncio.create_task(house.gateway.stop())
    whole = await client.read_until(b"0\r\n\r\n")
    assert body_of(whole) == b"".join(lines)
    assert await client.is_closed()
    await stopping


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"client_buffer_mib": 0}, "client_buffer_mib: Input should be greater than or equal to 0.1"),
        ({"client_stall_s": 0.5}, "client_stall_s: Input should be greater than or equal to 1"),
        ({"client_wait_s": -1}, "client_wait_s: Input should be greater than or equal to 0"),
        ({"all_client_buffers_mib": 2}, "all_client_buffers_mib: 2 is less than client_buffer_mib, 4"),
    ],
)
def test_what_is_kept_for_clients_is_the_operators_to_say(values: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validated(ServeConfig, values, None, None)
    assert str(refused.value) == said
