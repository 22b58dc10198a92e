"""The live world behind the protocol of an experiment: a drill on a rig.

The same scenario, arrivals, faults and policy as in the twin; real processes, a real network, wall-clock time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import structlog
import uvloop

from live.controller.driver import PolicyDriver
from live.controller.probes import HttpProber
from live.controller.telemetry import telemetry_row
from live.gateway.request_log import RequestLog
from live.gateway.server import Gateway
from live.gateway.settings import GatewaySettings
from live.rig.cluster import NodeKind, RigCluster
from live.rig.drill_cluster import DrillCluster
from live.rig.errors import RigError
from live.rig.injection import LiveInjection, check_possible
from live.rig.load import ClientView, Load, check_load_possible
from live.rig.machine import pin_itself, usable_cores
from live.rig.operator_cluster import OperatorCluster, OperatorNodes, plan
from live.rig.toxiproxy import ToxiproxyGone
from twin.experiment.world import Progress, WorldName, manifest
from twin.learn.model_file import model_for
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.model_names import ModelNames
from twin.policy.vocabulary import OperatorOrder
from twin.record.journal import JournalingPolicy
from twin.record.reader import RunRecord
from twin.record.rows import FIRST_GATEWAY, forecast_row, incident_row
from twin.record.writer import Recorder
from twin.scenario.abort import AbortWatch
from twin.scenario.generators import expanded
from twin.scenario.schema import Scenario

WATCH_PERIOD_S = 0.5
PROGRESS_PERIOD_S = 5.0
BREAK_OFF = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


Nodes: TypeAlias = NodeKind | OperatorNodes


def _cluster(scenario: Scenario, nodes: Nodes, progress: Progress) -> DrillCluster:
    if isinstance(nodes, OperatorNodes):
        return OperatorCluster(scenario, nodes, progress)
    return RigCluster(scenario, nodes, progress)


def _check(scenario: Scenario, seed: int, nodes: Nodes) -> None:
    """Raises `RigError` where a fault cannot be done to such nodes, or may not."""
    if isinstance(nodes, OperatorNodes):
        _, refused = plan(scenario, seed, nodes)
        if refused:
            raise RigError(refused[0])
    else:
        check_possible(scenario, nodes)


@contextlib.contextmanager
def _one_interrupt(task: Callable[[], asyncio.Task[Any] | None]) -> Iterator[None]:
    """Ctrl-C, a polite kill or a closed terminal break the drill off once; while everything is put back, nobody is listened
    to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal asked
        running = task()
        if running is None:
            raise KeyboardInterrupt
        if not asked:
            asked = True
            running.get_loop().call_soon_threadsafe(running.cancel)

    before = {number: signal.signal(number, interrupt) for number in BREAK_OFF}
    try:
        yield
    except asyncio.CancelledError:
        if asked:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LiveWorld:
    """Runs a scenario on a rig of real or emulated nodes, or on an operator's own."""

    name: WorldName = "live"

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes

    def run(self, scenario: Scenario, seed: int, folder: Path | None, progress: Progress) -> RunRecord:
        """Run it once. Raises `RigError`; whatever happens, everything is put back."""
        scenario = scenario.for_live()
        whole = manifest(scenario, seed, self.name)
        scenario = expanded(scenario, seed)
        _check(scenario, seed, self.nodes)
        whole["not_as_in_the_twin"] = check_load_possible(
            scenario, self.nodes if isinstance(self.nodes, str) else "operator"
        )
        for difference in whole["not_as_in_the_twin"]:
            progress(difference)
        recorder = Recorder(folder)
        started_s = time.perf_counter()
        try:
            drill = Drill(scenario, seed, self.nodes, recorder, progress)
            with (
                _one_interrupt(lambda: drill.task),
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
                _quiet_log(folder),
            ):
                facts = runner.run(drill.run())
        except BaseExceptionGroup as group:
            recorder.abandon()
            raise _first_of(group) from group
        except BaseException:
            recorder.abandon()
            raise
        finally:
            if usable_cores():
                pin_itself(usable_cores())
        whole |= facts
        whole["wall_s"] = time.perf_counter() - started_s
        return recorder.close(whole)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group of tasks ended with: the operator's, if there is one."""
    errors: list[BaseException] = []
    for error in group.exceptions:
        errors.append(_first_of(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in errors if isinstance(error, RigError)), errors[0])


@contextlib.contextmanager
def _quiet_log(folder: Path | None) -> Any:
    """While a drill runs, the controller's log goes into the run's folder: the terminal shows the drill."""
    if folder is None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        yield
        structlog.reset_defaults()
        return
    with open(folder / "controller.log", "w", encoding="utf-8", buffering=1) as file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.WriteLoggerFactory(file),
        )
        try:
            yield
        finally:
            structlog.reset_defaults()


@contextlib.asynccontextmanager
async def _put_back(injection: LiveInjection) -> AsyncIterator[None]:
    """Whatever happens, what was done to the nodes is undone; where that fails, nothing is more important to say."""
    why = ""
    try:
        yield
    except asyncio.CancelledError:
        why = "interrupted; "
        raise
    except RigError as error:
        why = f"{error}; "
        raise
    except BaseExceptionGroup as group:
        why = f"{_first_of(group)}; "
        raise
    finally:
        problems = await injection.put_back()
        if problems:
            raise RigError(f"{why}not everything could be put back: {'; '.join(problems)}")


class Drill:
    """One run of a scenario on a rig."""

    def __init__(self, scenario: Scenario, seed: int, nodes: Nodes, recorder: Recorder, progress: Progress) -> None:
        self.scenario = scenario
        self.seed = seed
        self.nodes = nodes
        self.task: asyncio.Task[Any] | None = None  # the drill's own, once it runs
        self.recorder = recorder
        self.progress = progress
        self.logs: dict[str, RequestLog] = {}
        self.abort = AbortWatch(scenario)
        self.aborted = ""

    async def run(self) -> dict[str, Any]:
        """Set up, drive, tear down; what the manifest says beyond every manifest."""
        self.task = asyncio.current_task()
        async with _cluster(self.scenario, self.nodes, self.progress) as cluster:
            if cluster.own_cores:
                pin_itself(cluster.own_cores)
            async with self._controlled(cluster) as (driver, gateway, injection):
                before = cluster.served_generations()
                load = Load(self.scenario, self.seed, gateway, driver.now)
                async with _put_back(injection):
                    await self._drive(cluster, driver, injection, load)
                ended_s = driver.now()
                served = cluster.served_generations()
            facts = self._write(driver, injection, load, ended_s)
            facts["components"] = cluster.components
            facts["hardware_not_controlled"] = next(iter(cluster.nodes.values())).refused_hardware
            facts["cores"] = {"nodes": cluster.node_cores, "gateway": cluster.own_cores}
            facts["served_generations"] = {
                name: {
                    "in_the_run": served[name] - before[name],
                    "since_its_fault": served[name] - injection.served_at_injection[name]
                    if name in injection.served_at_injection
                    else None,
                }
                for name in served
            }
        return facts | {"simulated_s": ended_s, "events": None, "aborted": self.aborted}

    @contextlib.asynccontextmanager
    async def _controlled(self, cluster: DrillCluster) -> AsyncIterator[tuple[PolicyDriver, str, LiveInjection]]:
        """Gateway and controller in front of the rig, started."""
        parameters = self.scenario.policy.parameters()
        spec = self.scenario.cluster.spec()
        policy = JournalingPolicy(ClusterPolicy(spec, parameters, model=model_for(parameters)), self.recorder)
        names = ModelNames(self.scenario.cluster.models)
        prober = HttpProber(cluster.edges, names)
        injection = LiveInjection(cluster, self.scenario, self.seed)
        hands = cluster.hands(injection)
        driver = PolicyDriver(policy, prober, hands, recorder=self.recorder)
        settings = GatewaySettings(connect_timeout_s=parameters.router.connect_timeout_s)
        gateway = Gateway(driver, cluster.edges, names, settings, self._logged)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(hands.close)
            stack.push_async_callback(prober.close)
            stack.push_async_callback(driver.stop)
            stack.push_async_callback(gateway.stop)
            address = await gateway.start()
            await driver.start()
            yield driver, address, injection

    async def _drive(self, cluster: DrillCluster, driver: PolicyDriver, injection: LiveInjection, load: Load) -> None:
        """Load, faults and sampling side by side, until the load has ended or the run is broken off."""
        work = [
            asyncio.create_task(load.run(self._ended), name="load"),
            asyncio.create_task(injection.run(driver.now, load.answers), name="faults"),
            asyncio.create_task(self._give_orders(driver), name="orders"),
            asyncio.create_task(self._sample(cluster, driver), name="telemetry"),
            asyncio.create_task(self._watch(cluster, driver, load), name="watch"),
        ]
        try:
            pending = set(work)
            while not work[0].done() and not self.aborted:
                done, pending = await asyncio.wait(pending, timeout=WATCH_PERIOD_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in work:
                task.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _give_orders(self, driver: PolicyDriver) -> None:
        """What the scenario's operator orders, each at its time."""
        for order in sorted(self.scenario.orders, key=lambda it: it.at_s):
            await asyncio.sleep(max(0.0, order.at_s - driver.now()))
            driver.observe(OperatorOrder(order.node, order.order))

    def _ended(self, view: ClientView) -> None:
        if view.outcome not in ("rejected", "cancelled"):
            self.abort.ended(view.end_s, view.outcome == "succeeded")

    def _logged(self, log: RequestLog) -> None:
        self.logs[log.header_id] = log
        for attempt in log.failed_attempts:
            self.recorder.attempts.add(attempt.row())

    async def _watch(self, cluster: DrillCluster, driver: PolicyDriver, load: Load) -> None:
        """Break the run off where it must be; say how far it is."""
        end_s = self.scenario.end_of_load_s
        told_s = -PROGRESS_PERIOD_S
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            now = driver.now()
            if not cluster.network.is_alive():
                raise ToxiproxyGone(
                    "Toxiproxy died during the run; the network's state is unknown, so it was broken off"
                )
            if now - told_s >= PROGRESS_PERIOD_S:
                told_s = now
                lost = sum(view.outcome in ("failed", "deadline") and view.end_s > 0 for view in load.views.values())
                self.progress(f"{now:5.0f} of {end_s:.0f} s: {load.ended} of {load.sent} requests ended, {lost} lost")
            self.aborted = self.abort.reason(now)

    async def _sample(self, cluster: DrillCluster, driver: PolicyDriver) -> None:
        """One row for each node and period: what an agent beside it could read, and what the controller knows."""
        period_s = self.scenario.record.telemetry_period_s
        await asyncio.to_thread(cluster.telemetry)  # rates need a first look
        while True:
            await asyncio.sleep(period_s)
            now = driver.now()
            known = driver.policy.snapshot().parts.get("nodes", {})
            read = await asyncio.to_thread(cluster.telemetry)
            for name in cluster.nodes:
                view = known.get(name, {})
                resident = view.get("resident", [])
                values: dict[str, object] = {
                    "time_s": now,
                    "node": name,
                    "in_flight": view.get("in_flight", 0),
                    "waiting": driver.policy.waiting,
                    "vram_used_gib": sum(self.scenario.cluster.memory_gib(model) for model in resident)
                    if isinstance(cluster, RigCluster)
                    else None,  # of a machine that is not ours, only its agent knows
                    "resident_models": len(resident),
                    "health": view.get("health"),
                }
                self.recorder.telemetry.add(telemetry_row(values | read[name]))

    def _write(self, driver: PolicyDriver, injection: LiveInjection, load: Load, ended_s: float) -> dict[str, Any]:
        """The tables that are known at the end, and what was found on the way."""
        twice = unknown = 0
        for view in load.views.values():
            twice += view.terminal_records > 1
            if math.isnan(view.end_s):
                view.outcome, view.error, view.end_s = "failed", "the run was broken off", ended_s
            log = self.logs.get(view.header_id)
            unknown += log is None
            first = self.logs.get(view.retry_of)
            self.recorder.requests.add(_request_row(self.scenario, view, log, first.request_id if first else None))
        for active in injection.faults:
            if active.begun:
                self.recorder.faults.add(active.row())
            if active.signs_outcome:
                self.recorder.signs.add(active.signs_row())
        for incident in driver.policy.incidents:
            self.recorder.incidents.add(incident_row(incident))
        for time_s, forecast in driver.policy.warnings():
            self.recorder.forecasts.add(forecast_row(time_s, forecast))
        return {
            "invariants": {"admitted_request_ends_once": twice, "gateway_knows_every_request": unknown},
            "clients_late_by_at_most_s": round(load.lateness_s, 4),
            "nodes": self.nodes if isinstance(self.nodes, str) else dict(self.nodes.urls),
        }


def _request_row(
    scenario: Scenario, view: ClientView, log: RequestLog | None, retry_of: int | None
) -> tuple[object, ...]:
    """What the client saw, completed by what only the gateway knows. A success is what the client saw as one."""
    timings = log.timings if log is not None else None
    admitted = log.admitted if log is not None else view.outcome != "rejected"
    return (
        log.request_id if log is not None else -1,
        view.arrival.model,
        view.sent_s,
        view.sent_s + scenario.workload.deadline_s,
        view.arrival.stream,
        view.arrival.prompt_tokens,
        view.arrival.output_tokens,
        admitted,
        view.outcome if admitted or view.outcome != "failed" else "rejected",
        view.error or (log.error if log is not None and view.outcome != "succeeded" else ""),
        log.node if log is not None else None,
        log.attempts if log is not None else 0,
        log.dispatched_s if log is not None else math.nan,
        view.first_token_s,
        view.end_s,
        view.tokens,
        timings.load_duration_s if timings is not None else math.nan,
        timings.prompt_eval_duration_s if timings is not None else math.nan,
        timings.eval_duration_s if timings is not None else math.nan,
        timings.total_duration_s if timings is not None else math.nan,
        timings.prompt_eval_count if timings is not None else 0,
        None,
        FIRST_GATEWAY,
        view.arrival.session,
        retry_of,
    )
