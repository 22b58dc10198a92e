"""HTTP as clients and nodes really speak it: framing, pipelining, half-closed sockets, limits, garbage."""

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psutil
import pytest
import structlog
from aiohttp import web

from live.gateway.http_server import ServerLimits
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import (
    StubNode,
    answers,
    chat_lines,
    completion_events,
    generate_lines,
    streams,
    to,
    until,
)
from twin.policy.vocabulary import AttemptEnded

BODY = json.dumps({"model": "m", "prompt": "p", "options": {"seed": 1}}).encode()
HEAD = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\n"
POST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
VERSION = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Wire:
    """A client that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = b""
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readline(), 16):
                    body += await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return int(head[0].split()[1]), headers, body

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read() == b""
        return True


@pytest.fixture
async def wire() -> AsyncIterator[Callable[[House], Awaitable[Wire]]]:
    writers: list[asyncio.StreamWriter] = []

    async def connect(house: House) -> Wire:
        host, port = house.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return Wire(reader, writer)

    yield connect
    for writer in writers:
        writer.transport.abort()


MakeWire = Callable[[House], Awaitable[Wire]]


async def test_a_request_may_come_byte_by_byte(house: House, wire: MakeWire) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    client = await wire(house)
    for index in range(len(POST)):
        client.send(POST[index : index + 1])
        await asyncio.sleep(0)
    status, _, body = await client.answer()
    assert (status, body) == (200, b"".join(generate_lines()))


async def test_a_chunked_request_is_as_good(house: House, wire: MakeWire) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    client = await wire(house)
    chunks = b"".join(b"%x;x=y\r\n%b\r\n" % (1, BODY[i : i + 1]) for i in range(len(BODY)))
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n")
    assert (await client.answer())[0] == 200
    assert house.a.bodies == [json.loads(BODY)]


CHUNKED = b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
BLOB = b"/api/blobs/sha256:" + b"0" * 64


@pytest.mark.parametrize("path", [b"/api/show", BLOB])
@pytest.mark.parametrize("unended", [b"0\r\nX: ", b"0\r\n", b"1;a="])
async def test_neither_a_trailer_nor_a_chunks_extension_is_endless(
    house: House, wire: MakeWire, path: bytes, unended: bytes
) -> None:
    house.a.will(streams([], then="hang"))
    house.b.will(streams([], then="hang"))
    client = await wire(house)
    client.send(b"POST " + path + CHUNKED + unended)
    for _ in range(100):
        client.send(b"y" * (64 << 10))
        await asyncio.sleep(0)
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (431, "close")
    assert await client.is_closed()


@pytest.mark.parametrize("trailer", [b"X: y\r\n" * 101, b"X: " + b"y" * 70_000 + b"\r\n"])
async def test_a_trailer_counts_as_the_head_does(house: House, wire: MakeWire, trailer: bytes) -> None:
    client = await wire(house)
    client.send(b"POST /api/show" + CHUNKED + b"0\r\n" + trailer + b"\r\n" + VERSION)
    assert (await client.answer())[0] == 431
    assert await client.is_closed()


async def test_a_head_of_forty_kilobytes_may_come_in_pieces(house: House, wire: MakeWire) -> None:
    house.a.will(answers(200, b'{"version":"1"}'))
    client = await wire(house)
    for _ in range(2):
        client.send(VERSION[:-2])
        for name in b"abcd":
            client.send(b"X-%c: " % name + b"y" * 10_000 + b"\r\n")
            await asyncio.sleep(0.01)
        client.send(b"\r\n")
        assert (await client.answer())[0] == 200


async def test_a_target_with_its_host_is_answered_and_that_host_counts(house: House, wire: MakeWire) -> None:
    house.a.will(answers(200, b'{"version":"1"}'))
    client = await wire(house)
    for target in (b"http://localhost/api/version", b"HTTP://127.0.0.1:80/api/version?x=http://y", b"http://localhost"):
        client.send(b"GET %b HTTP/1.1\r\nHost: evil.example\r\n\r\n" % target)
        assert (await client.answer())[::2] == (200, b'{"version":"1"}')
    client.send(b"GET http://evil.example/api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status, _, body = await client.answer()
    assert (status, b"not called evil.example" in body) == (403, True)


async def test_pipelined_requests_are_answered_in_order(house: House, wire: MakeWire) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines(), pause_s=0.005), answers(200, b'{"version":"1"}'))
    client = await wire(house)
    client.send(POST + VERSION + VERSION)
    assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 200]
    client.send(VERSION)
    assert (await client.answer())[2] == b'{"version":"1"}'


async def test_what_follows_good_requests_does_not_spoil_them(house: House, wire: MakeWire) -> None:
    house.a.will(answers(200, b'{"version":"1"}'))
    client = await wire(house)
    client.send(VERSION + VERSION + b"complete nonsense\r\n\r\n" + VERSION)
    assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 400]
    assert await client.is_closed()


async def test_a_client_that_expects_to_be_told_is_told(house: House, wire: MakeWire) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    client = await wire(house)
    client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(BODY)
    assert (await client.answer())[0] == 200


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(make_house: Any, wire: MakeWire) -> None:
    house: House = await make_house(server=ServerLimits(body_bytes=1000))
    client = await wire(house)
    client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (413, "close")


async def test_an_old_client_gets_its_stream_until_the_connection_closes(house: House, wire: MakeWire) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    client = await wire(house)
    client.send(POST.replace(b"HTTP/1.1", b"HTTP/1.0"))
    status, headers, body = await client.answer()
    assert (status, headers["connection"], body) == (200, "close", b"".join(generate_lines()))


async def test_a_head_has_no_body_and_the_connection_lives_on(house: House, wire: MakeWire) -> None:
    house.a.will(answers(200, b'{"version":"1"}'))
    client = await wire(house)
    for _ in range(2):
        client.send(VERSION.replace(b"GET", b"HEAD"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"Content-Length: 15" in head


@pytest.mark.parametrize("sent", [0, 2])
async def test_a_half_closed_client_has_left_its_generation(house: House, wire: MakeWire, sent: int) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()[:sent], then="hang"))
    client = await wire(house)
    client.send(POST)
    await house.a.hanging.wait()
    client.writer.write_eof()
    await until(lambda: house.logs and house.a.cancelled)
    assert house.logs[0].outcome == "cancelled"
    if not sent:
        assert (await client.answer())[0] == 499


async def test_a_request_with_its_end_of_sending_right_behind_it_is_not_lost_track_of(
    house: House, wire: MakeWire
) -> None:
    client = await wire(house)
    client.send(POST)
    client.writer.write_eof()
    assert (await client.answer())[0] in (499, 503)  # left at once, or after the policy had turned it away
    assert await client.is_closed()


async def test_a_half_closed_client_still_gets_what_is_cheap(house: House, wire: MakeWire) -> None:
    house.a.will(answers(200, b'{"version":"1"}'))
    client = await wire(house)
    client.send(VERSION)
    client.writer.write_eof()
    assert (await client.answer())[2] == b'{"version":"1"}'
    assert await client.is_closed()


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
FRAMED = [
    POST.removeprefix(HEAD),
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
]


@pytest.mark.parametrize("framed", FRAMED, ids=["length", "chunked"])
@pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
async def test_an_upgrade_is_not_taken_and_the_request_is_answered(
    house: House, wire: MakeWire, framed: bytes, piece_bytes: int
) -> None:
    """As by Ollama: Java's client offers HTTP/2 with whatever it asks first."""
    house.routes(to("a"), to("a"))
    house.a.will(streams(generate_lines()), answers(200, b'{"version":"1"}'), answers(200, b'{"version":"1"}'))
    house.a.will(streams(generate_lines()))
    client = await wire(house)
    offered = HEAD + UPGRADE + framed
    said = offered + VERSION[:-2] + UPGRADE + b"\r\n" + VERSION + offered
    for index in range(0, len(said), piece_bytes):
        client.send(said[index : index + piece_bytes])
        await asyncio.sleep(0)
    for expected in (b"".join(generate_lines()), b'{"version":"1"}', b'{"version":"1"}', b"".join(generate_lines())):
        status, headers, body = await client.answer()
        assert (status, body) == (200, expected)
        assert "upgrade" not in headers
    assert [body for body in house.a.bodies if body] == [json.loads(BODY)] * 2


REFUSED = [
    (b"GARBAGE\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET /api/version HTTP/1.1\r\n\r\n", 400),
    (VERSION[:-2] + b"Host: evil\r\n\r\n", 400),
    (b"GET ftp://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
    (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    (HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(200)) + b"\r\n", 431),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    (HEAD + b"X: " + b"y" * 70_000, 431),
    (HEAD + UPGRADE + b"Transfer-Encoding: gzip\r\n\r\n" + VERSION, 400),
    (HEAD + UPGRADE + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + VERSION, 400),
    (HEAD + UPGRADE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + VERSION, 400),
    (HEAD + UPGRADE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
]


@pytest.mark.parametrize(("data", "status"), REFUSED, ids=range(len(REFUSED)))
async def test_what_is_no_request_gets_its_status_and_the_door(
    house: House, wire: MakeWire, data: bytes, status: int
) -> None:
    client = await wire(house)
    client.send(data)
    got, headers, body = await client.answer()
    assert (got, headers["connection"]) == (status, "close")
    assert json.loads(body)["error"]
    client.writer.write_eof()
    assert await client.is_closed()
    assert not house.policy.asked


async def test_slow_heads_and_slow_bodies_run_out_of_time(make_house: Any, wire: MakeWire) -> None:
    house: House = await make_house(server=ServerLimits(head_s=0.1, body_silence_s=0.1, idle_s=0.1))
    for data in (HEAD, POST[:-3]):
        client = await wire(house)
        client.send(data)
        assert (await client.answer())[0] == 408
    assert await (await wire(house)).is_closed()  # and so does who says nothing at all


async def test_more_connections_than_it_takes_are_told_so(make_house: Any, wire: MakeWire) -> None:
    house: House = await make_house(server=ServerLimits(connections=2))
    house.a.will(answers(200, b'{"version":"1"}'))
    kept = [await wire(house) for _ in range(2)]
    await asyncio.sleep(0.01)
    status, headers, _ = await (await wire(house)).answer()
    assert (status, headers["retry-after"]) == (503, "1")
    for client in kept:
        client.send(VERSION)
        assert (await client.answer())[0] == 200


async def test_many_bodies_at_once_do_not_fill_the_memory(make_house: Any, wire: MakeWire) -> None:
    house: House = await make_house(server=ServerLimits(all_bodies_bytes=10_000))
    begun = HEAD + b"Content-Length: 9000\r\n\r\n" + b"x" * 6000
    first, second = await wire(house), await wire(house)
    first.send(begun)
    await asyncio.sleep(0.02)
    second.send(begun)
    assert (await second.answer())[0] == 503
    first.send(b"x" * 3000)
    assert (await first.answer())[0] == 400  # no JSON, but taken


async def test_a_body_in_small_chunks_takes_no_more_memory_than_its_bytes(house: House, wire: MakeWire) -> None:
    client = await wire(house)
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"2\r\nxx\r\n" * 5_000
    for _ in range(10):
        client.send(piece)
        await client.writer.drain()
    await until(lambda: house.gateway._server.body_bytes == 100_000)
    [connection] = house.gateway._server.connections
    incoming = connection._incoming
    assert incoming is not None
    assert len(incoming._parts) < 100
    client.send(b"0\r\n\r\n")
    assert (await client.answer())[0] == 400  # no JSON, but taken
    assert house.gateway._server.body_bytes == 0


@pytest.mark.parametrize("path", [b"/api/generate", BLOB])
async def test_chunks_that_make_more_work_than_they_bring_come_to_an_end(
    house: House, wire: MakeWire, path: bytes
) -> None:
    house.a.will(streams([], then="hang"))
    house.b.will(streams([], then="hang"))
    client = await wire(house)
    client.send(b"POST " + path + CHUNKED)
    for _ in range(14):
        client.send(b"2\r\nxx\r\n" * 5_000)
    assert (await client.answer())[::2][0] == 400
    assert await client.is_closed()


async def test_an_orderly_stop_loses_nothing_that_has_begun(make_house: Any, wire: MakeWire) -> None:
    house: House = await make_house(shutdown_grace_s=10.0)
    house.routes(*[to("a")] * 40)
    house.a.will(streams(generate_lines(), pause_s=0.02))
    idle, begun = await wire(house), await wire(house)
    begun.send(POST[:20])
    idle.send(VERSION)
    await idle.answer()
    asking = [asyncio.create_task(house.post("/api/generate", json.loads(BODY))) for _ in range(40)]
    await until(lambda: len(house.a.bodies) >= 20)
    stopping = asyncio.create_task(house.gateway.stop())
    assert await idle.is_closed()
    for status, body, _ in [
        answer for answer in await asyncio.gather(*asking, return_exceptions=True) if isinstance(answer, tuple)
    ]:
        assert (status, body) == (200, b"".join(generate_lines()))
    begun.writer.transport.abort()
    await stopping
    assert [log.outcome for log in house.logs] == ["succeeded"] * len(house.logs)
    assert len(house.logs) >= 20


@pytest.mark.parametrize(
    ("path", "lines", "said"),
    [
        ("/api/generate", generate_lines(), b'{"error":"the gateway stops"}\n'),
        ("/api/chat", chat_lines(), b'{"error":"the gateway stops"}\n'),
        (
            "/v1/chat/completions",
            completion_events(),
            b'data: {"error":{"message":"the gateway stops","type":"api_error","param":null,"code":null}}\n\n',
        ),
    ],
)
async def test_a_stop_that_cannot_wait_is_told_as_an_error_and_counted(
    make_house: Any, wire: MakeWire, path: str, lines: list[bytes], said: bytes
) -> None:
    house: House = await make_house(shutdown_grace_s=0.05)
    house.routes(to("a"), to("b"))
    house.a.will(streams(lines[:2], then="hang"))
    house.b.will(streams([], then="hang"))
    messages = [{"role": "user", "content": "p"}]
    body = json.dumps({"model": "m", "prompt": "p", "messages": messages, "stream": True}).encode()
    asked = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
    streaming, waiting = await wire(house), await wire(house)
    streaming.send(asked)
    await house.a.hanging.wait()
    waiting.send(asked + asked)
    await house.b.hanging.wait()
    with structlog.testing.capture_logs() as logs:
        await house.gateway.stop()
    assert [each["count"] for each in logs if each["event"] == "requests_cut_off"] == [2]
    assert (await streaming.answer())[::2] == (200, b"".join(lines[:2]) + said)
    status, headers, body = await waiting.answer()
    assert (status, headers["connection"]) == (503, "close")
    assert b"the gateway stops" in body
    assert await streaming.is_closed()
    assert await waiting.is_closed()
    await until(lambda: house.a.cancelled and house.b.cancelled)


async def test_a_pull_that_the_stop_cuts_off_says_so_and_who_still_sends_is_answered(
    make_house: Any, wire: MakeWire
) -> None:
    house: House = await make_house(names=("a",), shutdown_grace_s=0.05)
    house.a.will(streams([b'{"status":"pulling manifest"}\n'], then="hang"))
    pulling, sending = await wire(house), await wire(house)
    body = b'{"model":"m"}'
    pulling.send(b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    sending.send(POST[:-3])
    await house.a.hanging.wait()
    stopping = asyncio.create_task(house.gateway.stop())
    assert (await pulling.answer())[2] == b'{"status":"pulling manifest"}\n{"error":"the gateway stops"}\n'
    assert (await sending.answer())[0] == 503
    await stopping


async def test_a_thousand_idle_connections_are_in_nobodys_way(house: House) -> None:
    house.a.will(answers(200, b'{"version":"1"}'))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    host, port = house.url.removeprefix("http://").split(":")
    before = psutil.Process().memory_info().rss
    idle = []
    try:
        for _ in range(1000):
            idle.append(await asyncio.open_connection(host, int(port)))
        await until(lambda: len(house.gateway._server.connections) >= 1000)
        async with house.http.get(house.url + "/api/version") as response:
            assert response.status == 200
        assert psutil.Process().memory_info().rss - before < 60 << 20  # both ends of each are in this process
    finally:
        for _, writer in idle:
            writer.transport.abort()
        await until(lambda: len(house.gateway._server.connections) <= 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- nodes that cannot be trusted --------------------------------------------------------------------------------------


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    """A server whose connections are all closed at the end; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def raw_node(said: bytes, *, again: bytes = b"") -> AsyncIterator[str]:
    """A node that says this, whatever it is asked; `again`: over and over after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        while again:
            writer.write(again)
            await writer.drain()

    async with served(serve) as port:
        yield f"http://127.0.0.1:{port}"


OK = b"HTTP/1.1 200 OK\r\n"
STREAM = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in generate_lines())
GARBAGE = [
    (b"what?\r\n\r\n", b""),
    (b"", b""),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    (OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n", b""),
    (OK, b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", b""),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"extension=that-does-not-end;" * 100),
    (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b""),
    (OK + b"Content-Length: 100000\r\n\r\n{", b""),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"ffff\r\n" + b"z" * 0xFFFF + b"\r\n"),
    (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"ffff\r\n" + b"z" * 0xFFFF + b"\r\n"),
]


@pytest.mark.parametrize(("said", "again"), GARBAGE, ids=range(len(GARBAGE)))
async def test_a_node_that_sends_garbage_costs_a_client_nothing(make_house: Any, said: bytes, again: bytes) -> None:
    async with raw_node(said, again=again) as address:
        house: House = await make_house(addresses={"bad": address}, line_limit_bytes=1 << 20)
        house.routes(to("bad"), to("b"))
        house.b.will(streams(generate_lines()))
        status, body, _ = await house.post("/api/generate", json.loads(BODY))
    assert (status, body) == (200, b"".join(generate_lines()))
    assert [each.outcome for each in house.policy.of(AttemptEnded)] == ["failed", "succeeded"]


@pytest.mark.parametrize(
    "said",
    [
        OK + b"Content-Length: %d\r\n\r\n" % len(b"".join(generate_lines())) + b"".join(generate_lines()),
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + STREAM + b"0\r\nSome: trailer\r\n\r\n",
        OK + b"\r\n" + b"".join(generate_lines()),
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Transfer-Encoding: chunked\r\n\r\n" + STREAM + b"0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"".join(generate_lines()),
    ],
    ids=["length", "trailer", "until it closes", "interim", "old"],
)
async def test_every_framing_of_http_is_understood(make_house: Any, said: bytes) -> None:
    async with raw_node(said) as address:
        house: House = await make_house(addresses={"other": address})
        house.routes(to("other"))
        status, body, _ = await house.post("/api/generate", json.loads(BODY))
    assert (status, body) == (200, b"".join(generate_lines()))


async def test_connections_to_nodes_are_used_again(house: House) -> None:
    house.routes(*[to("a")] * 5)
    house.a.will(streams(generate_lines()))
    for _ in range(5):
        await house.post("/api/generate", json.loads(BODY))
    assert len({headers["peer"] for headers in house.a.headers}) == 1


async def test_a_kept_connection_that_the_node_has_closed_says_nothing_of_the_node(make_house: Any) -> None:
    """The node closes it in the very moment in which it is used: the request goes out on a new one."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"}}")
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n" + STREAM + b"0\r\n\r\n")
        await reader.readuntil(b"}}")  # to a second request it only hangs up

    async with served(serve) as port:
        house: House = await make_house(addresses={"hasty": f"http://127.0.0.1:{port}"})
        house.routes(to("hasty"), to("hasty"))
        for _ in range(2):
            status, body, _ = await house.post("/api/generate", json.loads(BODY))
            assert (status, body) == (200, b"".join(generate_lines()))
    assert connections == 2
    assert [each.outcome for each in house.policy.of(AttemptEnded)] == ["succeeded", "succeeded"]


async def test_a_cold_load_outlives_its_impatient_client(house: House) -> None:
    cold = to("a", first_token_s=5.0)
    house.routes(type(cold)("dispatch", "a", 5.0, loads=True))
    loaded = asyncio.Event()

    async def load(_node: Any, request: Any, _body: Any) -> Any:
        await loaded.wait()
        return await streams(generate_lines())(_node, request, _body)

    house.a.will(load)
    posting = asyncio.create_task(house.post("/api/generate", json.loads(BODY)))
    await until(lambda: house.a.bodies)
    posting.cancel()
    await until(lambda: house.logs)
    await asyncio.sleep(0.05)
    assert house.a.cancelled == 0
    assert not house.policy.of(AttemptEnded)  # for the policy the model is still being loaded
    loaded.set()
    await until(lambda: house.policy.of(AttemptEnded))
    [ended] = house.policy.of(AttemptEnded)
    assert (ended.outcome, ended.first_token_s == ended.first_token_s) == ("cancelled", True)
    assert house.logs[0].outcome == "cancelled"


async def test_a_deadline_that_passes_in_a_cold_load_leaves_the_load_alone(house: House) -> None:
    house.routes(type(to("a"))("dispatch", "a", 0.3, loads=True))
    house.a.will(streams([], then="hang"))
    status, _, _ = await house.post("/api/generate", json.loads(BODY), headers={"X-Request-Timeout": "0.05"})
    assert status == 504
    assert house.a.cancelled == 0
    await until(lambda: house.a.cancelled)  # until the limit of the load itself
    assert [(each.outcome, each.error) for each in house.policy.of(AttemptEnded)] == [("failed", "first_token_timeout")]


async def test_a_request_that_broke_three_nodes_is_not_carried_to_them_again(make_house: Any) -> None:
    house: House = await make_house(names=("a", "b", "c"))
    house.routes(to("a"), to("b"), to("c"))
    for node in house.nodes.values():
        node.will(streams([], then="break"))
    assert (await house.post("/api/generate", json.loads(BODY)))[0] == 502
    status, body, _ = await house.post("/api/generate", json.loads(BODY))
    assert (status, "has broken a, b, c" in json.loads(body)["error"]) == (500, True)
    assert len(house.policy.asked) == 4
    assert (await house.post("/api/generate", {**json.loads(BODY), "prompt": "another"}))[0] == 503


def loaded_with(tokens: int) -> Any:
    return answers(200, json.dumps({"models": [{"name": "m:latest", "context_length": tokens}]}).encode())


async def test_clients_do_not_make_each_other_reload(house: House) -> None:
    house.routes(*[to("a")] * 6)
    house.a.will(loaded_with(4096), streams(generate_lines()))
    house.b.will(answers(200, b'{"models":[]}'))
    async with house.http.get(house.url + "/api/ps"):
        pass
    for context in (4096, 2048, None, 8192, 2048, None):
        options = {"seed": 1} if context is None else {"seed": 1, "num_ctx": context}
        await house.post("/api/generate", {"model": "m", "prompt": "p", "options": options})
    sent = [body["options"].get("num_ctx") for body in house.a.bodies[1:]]
    assert sent == [None, None, None, 8192, 8192, 8192]


async def test_a_length_that_is_loaded_because_it_was_asked_for_is_said_again(house: House) -> None:
    """A request that says none would have the node load the model anew, with its own, and be cut."""

    async def behave(node: StubNode, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        models = {"/api/tags": [{"name": "m"}], "/api/ps": [{"name": "m", "context_length": 8192}]}
        if request.path in models:
            return web.json_response({"models": models[request.path]})
        return await streams(generate_lines())(node, request, body)

    house.a.will(behave)
    house.b.will(behave)
    house.routes(*[to("a")] * 4)
    for context in (8192, 8192, 2048, None):
        options = {"seed": 1} if context is None else {"seed": 1, "num_ctx": context}
        await house.post("/api/generate", {"model": "m", "prompt": "p", "options": options})
        async with house.http.get(house.url + "/api/ps"):
            pass
    sent = [body["options"].get("num_ctx") for body in house.a.bodies if "options" in body]
    assert sent == [8192, 8192, 8192, None]


async def test_as_long_as_nobody_knows_what_is_loaded_clients_get_what_they_ask_for(house: House) -> None:
    house.routes(to("a"), to("a"))
    house.a.will(streams(generate_lines()))
    house.b.will(answers(200, b'{"models":[]}'))
    for options in ({"seed": 1, "num_ctx": 2048}, {"seed": 1}):
        await house.post("/api/generate", {"model": "m", "prompt": "p", "options": options})
    assert [body["options"] for body in house.a.bodies if body] == [{"seed": 1, "num_ctx": 2048}, {"seed": 1}]


async def test_a_prompt_that_will_be_cut_is_said_so(house: House) -> None:
    house.routes(to("a"))
    house.a.will(loaded_with(100), streams(generate_lines()))
    house.b.will(answers(200, b'{"models":[]}'))
    async with house.http.get(house.url + "/api/ps") as response:
        assert (await response.json())["models"] == [{"name": "m:latest", "context_length": 100}]
    _, _, headers = await house.post("/api/generate", {"model": "m", "prompt": "x" * 1000})
    assert headers["X-OllamaMax-Prompt-Truncated"] == "about 250 tokens; the context has 100"
    assert headers["X-OllamaMax-Nodes-Tried"] == "a"
