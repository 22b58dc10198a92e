"""Whatever comes from clients and nodes: the right status, one line in the log, and nobody else notices."""

import asyncio
import contextlib
import gc
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from live.controller.driver import PolicyDriver
from live.gateway.http_server import ServerLimits
from live.gateway.request_log import RequestLog
from live.gateway.server import Gateway
from live.gateway.settings import GatewaySettings
from live.hands.router import HandsByKind
from tests.live.gateway.doubles import NoProbes, ScriptedPolicy, generate_lines, to
from tests.live.gateway.test_http import GARBAGE, HEAD, OK, STREAM, Wire, served
from twin.policy.model_names import ModelNames
from twin.policy.vocabulary import AttemptEnded, Observation, RequestSpec, Route

WHOLE = b"".join(generate_lines())
BODY_MAX_BYTES = 20_000
ENDS_BY_ITSELF = [said for said, again in GARBAGE if not again]


class AlwaysSomewhere(ScriptedPolicy):
    """First the node that may send garbage, then the good one. Counts what is at the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = 0

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        self.in_flight += 1
        return to("good" if attempt else "bad")

    def observe(self, now: float, observation: Observation) -> None:
        self.in_flight -= isinstance(observation, AttemptEnded)


async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Generates, unless the prompt says what else to say."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            body = b'{"models":[{"name":"m:latest"}]}'
            writer.write(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            continue
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        prompt = json.loads(await reader.readexactly(length))["prompt"]
        if prompt.startswith("garbage ") and writer.get_extra_info("sockname")[1] == BAD_PORT[0]:
            writer.write(ENDS_BY_ITSELF[int(prompt.split()[1])])
            return
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n" + STREAM + b"0\r\n\r\n")


BAD_PORT = [0]


def post(body: bytes, *more: bytes) -> bytes:
    return HEAD + b"".join(line + b"\r\n" for line in more) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def generate(prompt: str) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt, "options": {"seed": 1}}).encode()


class Fuzz:
    """Does one thing after the other, each on a connection of its own, and knows what must come of it."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.draw = random.Random(seed)
        self.seen: Counter[tuple[str, int]] = Counter()
        self.refusals = 0
        self.kinds: list[Callable[[Wire], Any]] = [
            self.good,
            self.pipelined,
            self.no_json,
            self.wrong_types,
            self.unknown_model,
            self.header_bomb,
            self.too_large,
            self.length_too_long,
            self.random_bytes,
            self.slow_body,
            self.gives_up,
            self.half_closed,
            self.node_sends_garbage,
            self.not_offered,
        ]

    async def one(self) -> None:
        kind = self.draw.choice(self.kinds)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(10):
                status = await kind(Wire(reader, writer))
        finally:
            writer.transport.abort()
        self.seen[kind.__name__, status] += 1

    async def good(self, client: Wire) -> int:
        client.send(post(generate("p")))
        status, _, body = await client.answer()
        assert body == WHOLE
        return status

    async def pipelined(self, client: Wire) -> int:
        client.send(post(generate("p")) * 3)
        for _ in range(3):
            status, _, body = await client.answer()
            assert (status, body) == (200, WHOLE)
        return 200

    async def refused(self, client: Wire, data: bytes) -> int:
        self.refusals += 1
        with contextlib.suppress(ConnectionError):
            client.send(data)
        status, _, body = await client.answer()
        assert json.loads(body)["error"]
        return status

    async def no_json(self, client: Wire) -> int:
        body = bytearray(generate("p"))
        del body[self.draw.randrange(len(body) - 1) + 1 :]
        return await self.refused(client, post(bytes(body)))

    async def wrong_types(self, client: Wire) -> int:
        wrong = self.draw.choice(
            [{"model": 7}, {"model": "m", "stream": 3}, {"model": "m", "options": []}, [], None, {}]
        )
        return await self.refused(client, post(json.dumps(wrong).encode()))

    async def unknown_model(self, client: Wire) -> int:
        return await self.refused(client, post(b'{"model":"%d","prompt":"p"}' % self.draw.getrandbits(30)))

    async def header_bomb(self, client: Wire) -> int:
        lines = [b"X-%d: %b" % (i, b"y" * self.draw.randrange(2000)) for i in range(self.draw.randrange(101, 140))]
        return await self.refused(client, post(b"{}", *lines))

    async def too_large(self, client: Wire) -> int:
        return await self.refused(client, post(generate("x" * (BODY_MAX_BYTES + self.draw.randrange(200_000)))))

    async def length_too_long(self, client: Wire) -> int:
        self.refusals += 1
        client.send(post(generate("p"))[: -self.draw.randrange(1, 20)])
        client.writer.write_eof()
        return (await client.answer())[0]

    async def random_bytes(self, client: Wire) -> int:
        # A control byte first: what follows cannot be taken for the beginning of a request.
        return await self.refused(client, b"\x01" + self.draw.randbytes(self.draw.randrange(1, 300)))

    async def slow_body(self, client: Wire) -> int:
        data = post(generate("p"))
        cut = self.draw.randrange(len(data))
        client.send(data[:cut])
        await asyncio.sleep(0.005)
        client.send(data[cut:])
        return (await client.answer())[0]

    async def gives_up(self, client: Wire) -> int:
        client.send(post(generate("p")))
        await asyncio.sleep(self.draw.random() * 0.003)
        return 0

    async def half_closed(self, client: Wire) -> int:
        client.send(post(generate("p")))
        client.writer.write_eof()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            status = (await client.answer())[0]
            assert status in (200, 499)
        return 0

    async def node_sends_garbage(self, client: Wire) -> int:
        client.send(post(generate(f"garbage {self.draw.randrange(len(ENDS_BY_ITSELF))}")))
        status, _, body = await client.answer()
        assert body == WHOLE
        return status

    async def not_offered(self, client: Wire) -> int:
        return await self.refused(
            client, b"PATCH /api/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % self.draw.getrandbits(20)
        )


EXPECTED = {
    "good": 200,
    "pipelined": 200,
    "no_json": 400,
    "wrong_types": 400,
    "unknown_model": 404,
    "header_bomb": 431,
    "too_large": 413,
    "length_too_long": 400,
    "random_bytes": 400,
    "slow_body": 200,
    "gives_up": 0,
    "half_closed": 0,
    "node_sends_garbage": 200,
    "not_offered": 404,
}


async def fuzzed(count: int, seed: int, side_by_side: int = 16) -> float:
    """Runs the fuzz; the memory in MiB that the second half of it added."""
    policy = AlwaysSomewhere()
    logs: Counter[str] = Counter()

    def recorded(log: RequestLog) -> None:
        logs[log.outcome] += 1

    async with served(node) as bad, served(node) as good:
        BAD_PORT[0] = bad
        driver = PolicyDriver(policy, NoProbes(), HandsByKind({}))
        await driver.start()
        addresses = {"bad": f"http://127.0.0.1:{bad}", "good": f"http://127.0.0.1:{good}"}
        settings = GatewaySettings(server=ServerLimits(body_bytes=BODY_MAX_BYTES), shutdown_grace_s=1.0)
        gateway = Gateway(driver, addresses, ModelNames(["m"]), settings, recorded)
        port = int((await gateway.start()).rpartition(":")[2])
        fuzz = Fuzz(port, seed)
        left = count
        rss: list[float] = []

        async def go_on() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                if left == count // 2:
                    gc.collect()
                    rss.append(psutil.Process().memory_info().rss / (1 << 20))
                await fuzz.one()

        with capture_logs() as lines:
            await asyncio.gather(*(go_on() for _ in range(side_by_side)))
            await asyncio.sleep(0.05)
        gc.collect()
        rss.append(psutil.Process().memory_info().rss / (1 << 20))
        events = Counter(line["event"] for line in lines)
        assert {kind: status for kind, status in fuzz.seen} == EXPECTED
        assert events["request_broke_the_gateway"] == events["request_failed"] == 0
        refusals = [line for line in lines if line["event"] == "request_refused" and line["status"] != 499]
        assert len(refusals) == fuzz.refusals
        assert logs["failed"] == logs["rejected"] == 0
        assert policy.in_flight == 0
        assert gateway._server.body_bytes == 0
        assert not gateway._server.connections
        await gateway.stop()
        await driver.stop()
    return rss[1] - rss[0]


async def test_nothing_that_comes_disturbs_anybody() -> None:
    await fuzzed(1_500, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_of_a_hundred_thousand_requests_disturbs_anybody_or_fills_memory(seed: int) -> None:
    assert await fuzzed(25_000, seed) < 40  # MiB, of which the log lines that are kept for the count are most
