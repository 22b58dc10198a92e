"""The gateway is restarted under load: what it had admitted ends well, who comes meanwhile is served by the next."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

import aiohttp

from tests.live.gateway.doubles import StubNode, generate_lines
from tests.live.gateway.test_serve import free_port, ready
from tests.live.gateway.test_serve import node as node  # noqa: PLC0414  # the fixture

CLIENTS = 12
WHOLE = b"".join(generate_lines())
SERVE = "import sys; from pathlib import Path; from live.serve import serve; sys.exit(serve(Path(sys.argv[1])))"


async def start(file: Path, port: int) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(file), stdout=DEVNULL, stderr=DEVNULL
    )
    async with asyncio.timeout(30):
        while (await ready(port))[0] != 200:
            assert process.returncode is None
            await asyncio.sleep(0.02)
    return process


class Client:
    """Asks again and again; who is not let in comes again, as clients do."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.whole = 0
        self.turned_away = 0
        self.lost: list[str] = []

    async def ask(self, until: asyncio.Event) -> None:
        async with aiohttp.ClientSession() as http:
            while not until.is_set():
                admitted = False
                try:
                    async with http.post(self.url, json={"model": "m", "prompt": "p"}) as response:
                        admitted = response.status == 200
                        if admitted and await response.read() == WHOLE:
                            self.whole += 1
                        elif admitted or response.status != 503:
                            self.lost.append(f"status {response.status}")
                except aiohttp.ClientError as error:
                    if admitted:
                        self.lost.append(repr(error))
                    self.turned_away += 1
                    await asyncio.sleep(0.02)


async def test_a_restart_under_load_loses_nothing_that_was_admitted(node: StubNode, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "serve.yaml"
    file.write_text(
        f"nodes: {{a: '{node.address}'}}\nlisten: 127.0.0.1:{port}\nmodels: {{m: {{slots: {CLIENTS}}}}}\n"
        f"state_file: {tmp_path}/state.json\n"
    )
    clients = [Client(f"http://127.0.0.1:{port}/api/generate") for _ in range(CLIENTS)]
    over = asyncio.Event()
    processes: list[Process] = []
    try:
        processes.append(await start(file, port))
        asking = [asyncio.create_task(client.ask(over)) for client in clients]
        await asyncio.sleep(0.4)
        served = sum(client.whole for client in clients)
        processes[0].send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await processes[0].wait() == 0
        processes.append(await start(file, port))
        async with asyncio.timeout(20):
            while sum(client.whole for client in clients) <= served + 2 * CLIENTS:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        over.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*asking)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert [client.lost for client in clients] == [[]] * CLIENTS
    assert sum(client.turned_away for client in clients) > 0  # nobody listened for a moment
