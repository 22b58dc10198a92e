"""Processes that the rig answers for: started, ended, and never left behind."""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from live.hands.process import is_running
from live.rig.ledger import Ledger, marked_processes
from live.rig.processes import ManagedProcess, ProcessFailed, free_port, plain_environment

# A web server that has started a child of its own, as Ollama starts its runners.
SERVER = """
import http.server, signal, subprocess, sys
subprocess.Popen(["sleep", "60"])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
Serve = Callable[..., tuple[ManagedProcess, str]]


@pytest.fixture
def serve(ledger: Ledger, tmp_path: Path) -> Serve:
    def make(*arguments: str, code: str = SERVER) -> tuple[ManagedProcess, str]:
        port = free_port()
        process = ManagedProcess(
            "server",
            [sys.executable, "-c", code, str(port), *arguments],
            ledger=ledger,
            log=tmp_path / "server.log",
            environment=plain_environment(),
        )
        return process, f"http://127.0.0.1:{port}/"

    return make


async def test_a_started_process_answers_and_a_stopped_one_leaves_no_child(serve: Serve) -> None:
    process, address = serve()
    await process.start(address, 10)
    (child,) = process.children()
    assert process.is_alive()
    await process.stop()
    assert not process.is_alive()
    assert not is_running(child)


async def test_a_process_that_does_not_listen_to_sigterm_is_killed(serve: Serve) -> None:
    process, address = serve("deaf")
    await process.start(address, 10)
    (child,) = process.children()
    await process.stop(grace_s=0.2)
    assert not process.is_alive()
    assert not is_running(child)


async def test_stop_also_ends_the_orphans_of_a_process_that_died_by_itself(serve: Serve) -> None:
    process, address = serve()
    await process.start(address, 10)
    (child,) = process.children()
    process.send(signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert is_running(child)
    await process.stop()
    assert not is_running(child)


async def test_a_process_that_ends_while_starting_is_an_error_with_its_last_line(serve: Serve) -> None:
    process, address = serve(code="raise SystemExit('the disk is full')")
    with pytest.raises(ProcessFailed, match=r"ended while starting: the disk is full; see .*server.log"):
        await process.start(address, 10)


async def test_a_process_that_never_answers_is_an_error_and_is_not_left_running(serve: Serve, ledger: Ledger) -> None:
    process, address = serve(code="import time; time.sleep(60)")
    with pytest.raises(ProcessFailed, match=r"did not answer at http.* within 0.3 s"):
        await process.start(address, 0.3)
    assert marked_processes(ledger.token) == []


async def test_a_port_in_use_is_an_error_that_names_it(serve: Serve) -> None:
    first, address = serve()
    await first.start(address, 10)
    second, _ = serve()
    with pytest.raises(ProcessFailed, match=r"port \d+ on 127.0.0.1 is in use"):
        await second.start(address, 10)
    await first.stop()


def test_free_ports_differ_and_are_below_those_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32768
