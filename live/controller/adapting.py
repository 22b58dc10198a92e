"""Adaptation while the controller runs (`config_adaptation.live`).

Once an interval what was seen is counted. Where a symptom points at a setting, other values of it are tried in a process of
its own: paired runs of the twin, of the machines that `calibration:` describes, under the load of late, with faults that
give such incidents as there were. What is better with confidence is handed to the policy as an observation, so that it is
in the journal and a replay changes with it; the policy writes it down as an action, and in the mode `advise` does no more
than that. After another interval of watching it is kept, or taken back.

A change lasts as long as the controller: what should outlive it belongs into its configuration, and the log says what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import structlog
from pydantic import ValidationError

from live.controller.driver import PolicyDriver
from live.controller.look_ahead import scenario_document
from live.controller.simulating import SimulatingProcess
from twin.policy.adaptation import Adaptation, Proposal, Seen
from twin.policy.parameters import Parameters, Value
from twin.policy.vocabulary import ClusterSpec, SettingsChanged

_log = structlog.get_logger()

NICENESS = 10
REPLICATIONS = 8
HISTORY_SHOWN = 50

Found = tuple[int | None, str]
"""The place of the proposal that was better with confidence, or None; and the evidence."""
Try = Callable[[Sequence[Proposal], Sequence[str]], Awaitable[Found]]


class Adapting:
    """Proposes, has tried, applies, watches. Own it, `start` it, `stop` it."""

    def __init__(
        self,
        driver: PolicyDriver,
        parameters: Parameters,
        profile: dict[str, Any] | None,
        cluster: ClusterSpec,
        settings: dict[str, Any],
        try_out: Try | None = None,
    ) -> None:
        """`settings`: the policy's parameters by key, as who simulates is to have them; they change with the policy's.
        `try_out`: in place of the worker process."""
        self.adaptation = Adaptation(parameters)
        self._driver = driver
        self._profile = profile
        self._cluster = cluster
        self._settings = settings
        self._configured = dict(settings)
        self._advises = parameters.healer.mode == "advise"
        self._own = parameters.config_adaptation
        self._worker = SimulatingProcess("adaptation", _warm_up, niceness=NICENESS)
        self._try_out: Try = try_out or self._in_the_twin
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, where the parameters say so and the nodes' machines are known."""
        if not self._own.live:
            return
        if self._profile is None:
            why = "no profile of these nodes; `ollamamax calibrate` writes one, `calibration:` names it"
            _log.warning("settings_are_not_adapted", why=why)
            return
        self._worker.start()
        self._running = asyncio.get_running_loop().create_task(self._run(), name="adaptation")

    async def stop(self) -> None:
        """End it, whatever it does."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._worker.stop()

    async def _run(self) -> None:
        while True:
            await self._interval()
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001
                # Better settings are no reason to stop serving.
                _log.exception("adaptation_failed", error=repr(error))
                return

    async def _interval(self) -> None:
        await asyncio.sleep(self._own.interval_s)

    def state(self) -> dict[str, Any]:
        """Where it stands, as plain data. `changed`: the settings that are others than those that it began with."""
        return {
            "live": self._running is not None and not self._running.done(),
            "phase": self.adaptation.phase,
            "changed": {key: value for key, value in self._settings.items() if value != self._configured[key]},
            "history": self.adaptation.history[-HISTORY_SHOWN:],
        }

    async def look(self) -> None:
        """Take stock of the interval that is over: judge what is being watched, or propose and have it tried."""
        now = self._driver.now()
        seen, diagnoses = self._driver.tally.take(now, self._driver.policy.incidents)
        if self.adaptation.phase == "watching":
            self._judge(now, seen)
            return
        proposals = self.adaptation.propose(now, seen)
        if not proposals:
            return
        place, evidence = await self._try_out(proposals, diagnoses)
        best = proposals[place] if place is not None else None
        self.adaptation.tried(best, evidence, advised=self._advises)
        _log.info("adaptation", what=self.adaptation.history[-1], tried=[f"{it.key}={it.value}" for it in proposals])
        if best is not None:
            self._set(best.key, best.value, f"{best.reason}; {evidence}")

    def _judge(self, now: float, seen: Seen) -> None:
        applied = self.adaptation.applied
        before = len(self.adaptation.history)
        kept = self.adaptation.watched(now, seen)
        if len(self.adaptation.history) == before:
            return  # nobody asked for anything: it is watched for another interval
        _log.info("adaptation", what=self.adaptation.history[-1])
        if not kept and applied is not None:
            self._set(applied.key, applied.was, self.adaptation.history[-1])

    def _set(self, key: str, value: Value, reason: str) -> None:
        assert isinstance(value, (int, float))
        self._driver.observe(SettingsChanged(key, float(value), reason))
        if not self._advises:
            self._settings[key] = value

    # -- trials ----------------------------------------------------------------------------------------------------

    async def _in_the_twin(self, proposals: Sequence[Proposal], diagnoses: Sequence[str]) -> Found:
        workload = self._driver.load.workload()
        if workload is None or self._profile is None:
            return None, "too few requests to know the load"
        task = {
            "document": scenario_document(self._profile, self._cluster, workload, self._settings),
            "proposals": [(it.key, it.value, it.was, it.reason) for it in proposals],
            "diagnoses": list(diagnoses),
            "replications": REPLICATIONS,
        }
        limit_s = self._own.trial_limit_s
        try:
            said = await asyncio.wait_for(self._worker.submit(trials, task), limit_s)
        except TimeoutError:
            await self._worker.restart()
            return None, f"the trials took longer than {limit_s:g} s (config_adaptation.trial_limit_s)"
        except BrokenProcessPool:
            await self._worker.restart()
            return None, "the simulating process has died"
        return said["place"], said["evidence"]


# -- in the worker -----------------------------------------------------------------------------------------------------


def _warm_up() -> None:
    import twin.experiment.adapt  # noqa: F401, PLC0415


def trials(task: dict[str, Any]) -> dict[str, Any]:
    """Try proposals out; runs in the worker. Plain data both ways: `place` of the best or None, `evidence`."""
    from twin.experiment.adapt import TRIAL_S, WARMUP_S, faults_like, try_out  # noqa: PLC0415
    from twin.scenario.schema import Scenario  # noqa: PLC0415

    document: dict[str, Any] = task["document"]
    document["workload"] |= {"warmup_s": WARMUP_S, "duration_s": TRIAL_S}
    document["faults"] = faults_like(task["diagnoses"])
    document["record"] = {"journal": False, "telemetry_period_s": 60}
    # What is tried is one setting; who looks ahead, foresees or adapts within a trial would only take time.
    document["policy"]["overrides"] |= {"healer.look_ahead": False, "predictor.enabled": False}
    try:
        base = Scenario.model_validate(document).model_dump(mode="json", by_alias=True)
    except ValidationError as error:  # above all: a load that the profile's machines were not measured with
        return {"place": None, "evidence": f"not simulated: {error.errors()[0]['msg']}"}
    proposals = [Proposal(*it) for it in task["proposals"]]
    _, best, evidence = try_out(base, proposals, replications=task["replications"], jobs=1)
    return {"place": proposals.index(best) if best is not None else None, "evidence": evidence}
