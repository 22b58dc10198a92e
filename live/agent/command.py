"""`ollamamax agent`: runs beside one Ollama until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from pathlib import Path

import structlog

from live.agent.amd import AmdGpus
from live.agent.apple import AppleGpu, has_powermetrics
from live.agent.config import AgentConfig, load_agent_config
from live.agent.kernel import Clock, KernelLog
from live.agent.machine import Machine
from live.agent.nvidia import NvidiaGpus, installed_nvml
from live.agent.ollama import OllamaApi, OllamaLog, OllamaProcesses
from live.agent.server import UNNAMED, Agent
from live.agent.sources import Collector, Source
from live.controller.access import read_token, require_token_beyond_loopback
from live.gateway.config import ConfigError, parse_listen
from live.hands.build import build_hands
from live.logs import configure_log

_log = structlog.get_logger()


def agent(config_file: Path | None, listen: str | None, ollama: str | None, controller: str | None) -> None:
    """Run until a signal comes. Raises `OperatorError`."""
    configure_log()
    asyncio.run(run(load_agent_config(config_file, listen, ollama, controller)))


async def run(config: AgentConfig, stop: asyncio.Event | None = None) -> None:
    """Run until a signal comes or `stop` is set. Raises `OperatorError`."""
    token = read_token(config.token_file)
    host, port = parse_listen(config.listen)
    require_token_beyond_loopback(host, token, "the agent", "token_file")
    stop = stop or asyncio.Event()
    node = config.node or UNNAMED
    hands = build_hands({node: config.ollama}, config.hands, {}, {}, "")
    processes = OllamaProcesses(config.ollama)
    api = OllamaApi(config.ollama)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(api.close)
        stack.push_async_callback(hands.close)
        await hands.start()
        collector = Collector(machine_sources(config, processes, stack), [api])
        server = Agent(node, config.ollama, collector, processes, hands, token=token, period_s=config.period_s)
        stack.push_async_callback(server.stop)
        try:
            url = await server.start(host, port)
        except OSError as error:
            what = (
                "is in use; end what listens there" if error.errno == errno.EADDRINUSE else f"cannot be had ({error})"
            )
            raise ConfigError(f"{config.listen} {what}, or give another --listen") from error
        if config.controller is not None:
            server.announce(config.controller, config.advertise)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        _log.info("agent", url=url, ollama=config.ollama, controller=config.controller)
        await stop.wait()


def machine_sources(config: AgentConfig, processes: OllamaProcesses, stack: contextlib.AsyncExitStack) -> list[Source]:
    """What this machine has to read from."""
    kernel_log = KernelLog()
    stack.callback(kernel_log.close)
    sources: list[Source] = [Machine(config.models_folder), processes, kernel_log, Clock(), AmdGpus()]
    nvml = installed_nvml()
    if nvml is not None:
        nvidia = NvidiaGpus(nvml)
        stack.callback(nvidia.close)
        sources.append(nvidia)
    if has_powermetrics():
        sources.append(AppleGpu())
    if config.ollama_log is not None:
        sources.append(OllamaLog(config.ollama_log))
    return sources
