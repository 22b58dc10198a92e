"""The simulated world behind the protocol of an experiment."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from twin.experiment.world import Progress, WorldName, manifest
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.vocabulary import Policy
from twin.record.journal import JournalingPolicy
from twin.record.reader import RunRecord
from twin.record.writer import Recorder
from twin.scenario.generators import expanded
from twin.scenario.schema import Scenario
from twin.sim.simulation import Simulation

QUIET_S = 3.0
"""A run that takes longer says how far it is."""

BETWEEN_LINES_S = 0.5


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the run even where it meets a destructor, in which Python swallows every exception."""
    asked = False
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # so it is in the workers of an engine
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


class _Watch:
    """Says how far a run is, once it takes long. It looks where the nodes are sampled, so that it is no event of the run."""

    def __init__(self, scenario: Scenario, seed: int, progress: Progress) -> None:
        self._end_s = scenario.end_s
        self._seed = seed
        self._progress = progress
        self._due_s = time.perf_counter() + QUIET_S

    def __call__(self, now: float, simulation: Simulation) -> None:
        """The nodes are sampled at that time of the run."""
        wall_s = time.perf_counter()
        if wall_s >= self._due_s:
            self._due_s = wall_s + BETWEEN_LINES_S
            share = min(1.0, now / self._end_s)
            self._progress(f"seed {self._seed}: {now:,.0f} of {self._end_s:,.0f} simulated s ({share:.0%})")


class TwinWorld:
    """Simulates."""

    name: WorldName = "twin"

    def policy(self, scenario: Scenario) -> Policy:
        """A fresh policy, as the scenario wants it."""
        return ClusterPolicy(scenario.cluster.spec(), scenario.policy.parameters())

    def run(self, scenario: Scenario, seed: int, folder: Path | None, progress: Progress) -> RunRecord:
        """Simulate it once."""
        whole = manifest(scenario, seed, self.name)
        scenario = expanded(scenario, seed)
        parameters = scenario.policy.parameters()
        recorder = Recorder(folder)
        policies: list[Policy] = []
        for gateway in scenario.cluster.gateway_names():
            policy = self.policy(scenario)
            policies.append(JournalingPolicy(policy, recorder, gateway) if scenario.record.journal else policy)
        simulation = Simulation(scenario, seed, policies, recorder, parameters=parameters)
        simulation.hooks["on_sample"].append(_Watch(scenario, seed, progress))
        started_s = time.perf_counter()
        # The simulation leaves no cycles of references, and millions of short-lived objects: collect seldom.
        thresholds = gc.get_threshold()
        gc.set_threshold(1_000_000, 50, 100)
        try:
            with _interruptible():
                simulation.run()
        except BaseException:
            recorder.abandon()
            raise
        finally:
            gc.set_threshold(*thresholds)
        whole |= {
            "simulated_s": simulation.engine.now,
            "events": simulation.engine.calls,
            "wall_s": time.perf_counter() - started_s,
            "aborted": simulation.aborted,
            "invariants": {checker.name: checker.violations for checker in simulation.checkers},
            "first_violations": {checker.name: checker.first for checker in simulation.checkers if checker.first},
        }
        return recorder.close(whole)
