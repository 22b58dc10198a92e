"""Runs an emulated node in the foreground: for the rig from a file, for the command line from a few flags."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from pydantic import ValidationError

from live.emulator.clock import LoopClock
from live.emulator.config import EmulatedModel, EmulatorConfig, first_problem, load_config
from live.emulator.server import EmulatorServer
from twin.errors import OperatorError
from twin.scenario.models import MODELS
from twin.scenario.profiles import PROFILES

DEFAULT_MODEL = "llama3.1:8b"
CONTEXT_TOKENS = 4096
SHUTDOWN_GRACE_S = 0.5
_MIB_PER_GIB = 1024.0
USAGE = "usage: python -m live.emulator CONFIG.json"


def emulate(listen: str, hardware: str, models: Sequence[str] = (), slots: int = 4) -> None:
    """Serve an emulated node until Ctrl-C or SIGTERM: a machine of the catalogue, with models of the catalogue.

    Raises OperatorError where an argument is wrong, or the address cannot be had.
    """
    if hardware not in PROFILES:
        raise OperatorError(f"--hardware {hardware}: unknown profile; `ollamamax catalogue hardware` lists them")
    known = {}
    for name in models or [DEFAULT_MODEL]:
        if name not in MODELS:
            raise OperatorError(f"model {name}: its size is not known; `ollamamax catalogue models` lists them")
        model = MODELS[name]
        cache_mib = model.kv_mib_per_1k_tokens * CONTEXT_TOKENS / 1000.0 * (1 if model.embedding else slots)
        known[name] = EmulatedModel(
            size_gib=model.size_gib,
            memory_gib=model.size_gib + cache_mib / _MIB_PER_GIB,
            context_tokens=CONTEXT_TOKENS,
            embedding=model.embedding,
        )
    try:
        config = EmulatorConfig(listen=listen, hardware=PROFILES[hardware], models=known, slots=slots)
    except ValidationError as error:
        raise OperatorError(f"emulate: {first_problem(error)}") from error
    run_emulator(config)


def run_emulator(config: EmulatorConfig) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises OperatorError where the address cannot be had."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    asyncio.run(_serve(config))


async def _serve(config: EmulatorConfig) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows Ctrl-C ends the loop by itself
            loop.add_signal_handler(number, stopped.set)
    server = EmulatorServer(config, LoopClock(loop))
    # A client that goes away must end its handler, as Ollama's does.
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_GRACE_S)
    await runner.setup()
    host, port = config.address
    try:
        await web.TCPSite(runner, host, port).start()
        logging.getLogger("live.emulator").info(
            "Ollama emulator on http://%s with %s; Ctrl-C ends it", config.listen, ", ".join(config.models)
        )
        await stopped.wait()
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "is in use" if in_use else f"cannot be listened on ({error})"
        raise OperatorError(f"{config.listen} {reason}; choose another address with --listen") from error
    finally:
        await runner.cleanup()


def main(arguments: Sequence[str]) -> int:
    """`python -m live.emulator CONFIG.json`; the exit status."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        asked = list(arguments) in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        run_emulator(load_config(Path(arguments[0])))
    except OperatorError as error:
        print(f"ollamamax: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0
