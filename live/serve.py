"""`ollamamax serve`: the gateway and its controller in front of the operator's own nodes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
import uvloop

from live.compiled import GATEWAY
from live.controller.access import read_token, require_token_beyond_loopback
from live.controller.adapting import Adapting
from live.controller.admin import AdminApi
from live.controller.checkpoint import Checkpoint
from live.controller.discovery import NodeReport, discover, other_names
from live.controller.driver import PolicyDriver
from live.controller.look_ahead import LookAhead, read_calibration
from live.controller.probes import HttpProber
from live.controller.telemetry import AgentPoller
from live.gateway.config import ConfigError, ServeConfig, load_config, node_url, parse_listen
from live.gateway.http_server import MIB, ServerLimits
from live.gateway.server import Gateway
from live.gateway.settings import GatewaySettings
from live.hands.build import build_hands
from live.logs import configure_log
from twin.errors import OperatorError
from twin.learn.model_file import model_for
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.model_names import ModelNames, canonical
from twin.policy.vocabulary import NEVER_S, ClusterSpec, ModelSpec, NodeSpec

_log = structlog.get_logger()

GC_ALLOCATIONS = 20_000
"""Net allocations between two collections of the youngest objects (Python: 700)."""
EXIT_OK = 0
EXIT_BAD_INPUT = 2


def serve(
    config_file: Path | None = None,
    nodes: Sequence[str] = (),
    listen: str | None = None,
    admin: str | None = None,
) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code. What the operator must mend is one line on stderr and code 2."""
    configure_log()
    _allow_many_connections()
    try:
        config = load_config(config_file, nodes, listen, admin)
        return uvloop.run(run(config))
    except OperatorError as error:
        print(f"ollamamax: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_BAD_INPUT


async def run(config: ServeConfig, stop: asyncio.Event | None = None) -> int:
    """Serve until a signal comes or `stop` is set; the exit code. Raises `OperatorError`."""
    addresses = {name: node.url for name, node in config.nodes.items()}
    parameters = config.parameters()
    calibration = read_calibration(config.calibration)
    token = read_token(config.token_file)
    if config.admin is not None:
        require_token_beyond_loopback(parse_listen(config.admin)[0], token, "the admin API", "token_file")
    agents = {name: node.agent for name, node in config.nodes.items() if node.agent is not None}
    own_hands = {name: node.hands for name, node in config.nodes.items() if node.hands is not None}
    stop = stop or asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:  # closes in the reverse order; a broken policy is raised there
        hands = build_hands(addresses, config.hands, own_hands, agents, token)
        stack.push_async_callback(hands.close)
        await hands.start()
        reports = await discover(addresses)
        cluster = cluster_spec(config, reports, {name: hands.kinds(name) for name in addresses})
        for report in reports:
            if report.problem:
                _log.warning("node_not_there", node=report.node, why=report.problem)
        names = ModelNames(model.name for model in cluster.models)
        prober = HttpProber(addresses, names)
        policy = ClusterPolicy(cluster, parameters, model=model_for(parameters))
        driver = PolicyDriver(policy, prober, hands)
        settings: dict[str, Any] = dict(parameters.values())
        look_ahead = LookAhead(calibration, cluster, settings, policy.snapshot, driver.now, driver.load)
        driver.on_question(look_ahead.answer)
        adapting = Adapting(driver, parameters, calibration, cluster, settings)
        gateway = Gateway(
            driver,
            addresses,
            names,
            GatewaySettings(
                request_timeout_s=config.request_timeout_s,
                connect_timeout_s=parameters.router.connect_timeout_s,
                shutdown_grace_s=config.shutdown_grace_s,
                server=ServerLimits(
                    client_stall_s=config.client_stall_s,
                    client_buffer_bytes=round(config.client_buffer_mib * MIB),
                    all_clients_bytes=round(config.all_client_buffers_mib * MIB),
                ),
                client_wait_s=config.client_wait_s,
                slots_per_model=config.slots_per_model or 1,
                inventory_period_s=config.discovery_period_s,
                normalise_context=config.normalise_context,
                continue_text=config.continue_text,
                origins=config.origins,
                hosts=config.hosts,
            ),
        )
        poller = AgentPoller(agents, token, driver.observe, period_s=config.telemetry_period_s)
        admin = AdminApi(
            driver,
            addresses,
            poller,
            hands=hands.kinds,
            normalise=node_url,
            adaptation=adapting.state,
            token=token,
            hosts=config.hosts,
        )
        stack.push_async_callback(prober.close)
        stack.push_async_callback(look_ahead.stop)
        stack.push_async_callback(adapting.stop)
        stack.push_async_callback(driver.stop)
        stack.push_async_callback(gateway.stop)
        stack.push_async_callback(poller.stop)
        stack.push_async_callback(admin.stop)
        stack.callback(_off_signals, _on_signals(stop))
        await driver.start()
        if parameters.healer.look_ahead:
            look_ahead.start()
        adapting.start()
        if config.state_file is not None:
            copies = config.replication_factor
            checkpoint = Checkpoint(config.state_file, driver, config.checkpoint_interval_s, copies)
            stack.push_async_callback(checkpoint.stop)
            drained = checkpoint.start(set(addresses))
            if drained:
                _log.info("still_drained", nodes=drained)
        poller.start()
        url = await _listen(gateway.start, config.listen, "--listen")
        admin_url = await _listen(admin.start, config.admin, "--admin") if config.admin is not None else None
        served = [model.name for model in cluster.models]
        _calm_garbage_collector()
        if not served:
            _log.warning(
                "no_models_yet", why="no node has said what it has; they are asked every second until one does"
            )
        _log.info(
            "serving",
            url=url,
            admin=admin_url,
            nodes=sorted(addresses),
            models=served,
            compiled=GATEWAY.in_use(),
        )
        await _first_of(stop.wait(), driver.failed())
        _log.info("stopping", grace_s=config.shutdown_grace_s)
        stop.clear()
        await _first_of(gateway.stop(), stop.wait())  # a second signal ends the grace
    return EXIT_OK


def cluster_spec(
    config: ServeConfig, reports: Sequence[NodeReport], hands: Mapping[str, frozenset[str]]
) -> ClusterSpec:
    """The cluster as configured, completed by what its nodes said. What they do not say yet is learnt later.

    `hands`: what can be done to each node.
    """
    configured = {canonical(name): model for name, model in config.models.items()}
    others: dict[str, str] = {}
    if not any(report.problem for report in reports):
        made = frozenset[str]().union(*(report.made for report in reports))
        others = other_names({report.node: report.runners for report in reports}, configured, made)
    loaded = {report.node: {others.get(name, name) for name in report.loaded} for report in reports}
    learnt: dict[str, float] = {}
    for report in reports:
        for sizes in (report.stored, report.loaded):
            for name, size_gib in sizes.items():
                name = others.get(name, name)  # noqa: PLW2901
                learnt[name] = max(size_gib, learnt.get(name, 0.0))
    models = []
    for name in sorted({*configured, *learnt} - others.keys()):
        model = configured.get(name)
        memory_gib = (model and model.memory_gib) or learnt.get(name, 0.0)
        replicas = model.replicas if model is not None else None
        if replicas is None:
            replicas = sum(name in names for names in loaded.values())
        slots = (model and model.slots) or config.slots_per_model or 1
        models.append(ModelSpec(name, memory_gib, replicas, slots))
    return ClusterSpec(
        tuple(
            NodeSpec(name, node.vram_gib or NEVER_S, rack=node.rack, hands=hands[name])
            for name, node in config.nodes.items()
        ),
        tuple(models),
        {node: tuple(sorted(names)) for node, names in loaded.items()},
        {report.node: tuple(sorted(report.stored.keys() - others.keys())) for report in reports if not report.problem},
    )


async def _listen(start: Callable[[str, int], Awaitable[str]], address: str, flag: str) -> str:
    host, port = parse_listen(address)
    try:
        return await start(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{address} is in use; end what listens there, or give another {flag}") from error
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}; give another {flag}") from error


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them has ended; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _on_signals(stop: asyncio.Event) -> list[signal.Signals]:
    loop = asyncio.get_running_loop()
    signals = [signal.SIGINT, signal.SIGTERM]
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    return signals


def _off_signals(signals: Sequence[signal.Signals]) -> None:
    for number in signals:
        asyncio.get_running_loop().remove_signal_handler(number)


def _calm_garbage_collector() -> None:
    """What has been imported stays: a collection that walked through all of it would hold every stream up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)


def _allow_many_connections() -> None:
    """As many open files as the system permits: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
