"""Settings that a running controller learns: tried in the twin, taken, watched, taken back; and only where it may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from live.controller import adapting as module
from live.controller.adapting import Adapting, trials
from live.controller.driver import PolicyDriver
from live.controller.look_ahead import scenario_document
from live.hands.router import HandsByKind
from tests.live.controller.test_driver import Prober
from tests.live.controller.test_look_ahead import CLUSTER, PROFILE, load
from twin.experiment import adapt as twin_side
from twin.policy.adaptation import Proposal
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import ParameterError, Parameters, preset
from twin.policy.vocabulary import AttemptEnded, RequestSpec, SettingsChanged
from twin.record.journal import JournalingPolicy, decode
from twin.record.writer import Recorder

PLAIN: dict[str, Any] = {"predictor.enabled": False, "probes.enabled": False, "admission.queue_max": 1}


class Controller:
    """A driver whose clock is turned by hand, its policy, its record, and what adapts it."""

    def __init__(self, place: int | None = 0, **overrides: Any) -> None:
        named = {key.replace("__", "."): value for key, value in overrides.items()}
        self.parameters: Parameters = preset("default", PLAIN | {"config_adaptation.live": True} | named)
        self.clock_s = 100.0
        self.recorder = Recorder(None)
        self.policy = ClusterPolicy(CLUSTER, self.parameters)
        self.driver = PolicyDriver(
            JournalingPolicy(self.policy, self.recorder),
            Prober(),
            HandsByKind({}),
            recorder=self.recorder,
            clock=lambda: self.clock_s,
        )
        self.settings = dict(self.parameters.values())
        self.place = place
        self.asked: list[tuple[Sequence[Proposal], Sequence[str]]] = []
        self.adapting = Adapting(self.driver, self.parameters, PROFILE, CLUSTER, self.settings, self.try_out)
        self.count = 0

    async def try_out(self, proposals: Sequence[Proposal], diagnoses: Sequence[str]) -> tuple[int | None, str]:
        self.asked.append((proposals, diagnoses))
        return self.place, "12 fewer a run"

    def burst(self, requests: int) -> None:
        """So many at once; those that got a slot end well."""
        served = []
        for _ in range(requests):
            self.count += 1
            now = self.driver.now()
            spec = RequestSpec(self.count, "m", 100, True, now, now + 60.0)
            route = self.driver.route(spec, 0)
            if route.kind == "dispatch":
                served.append((self.count, route.node))
        for number, node in served:
            now = self.driver.now()
            self.driver.observe(AttemptEnded(number, 0, node, "m", "succeeded", "", now, now, 20))

    async def interval(self, requests: int) -> None:
        self.burst(requests)
        self.clock_s += self.parameters.config_adaptation.interval_s
        await self.adapting.look()
        self.driver._wake()  # its timer is of the real clock, which this one has left behind
        for _ in range(4):  # what is ordered begins, and ends
            await asyncio.sleep(0)

    @property
    def queue_max(self) -> int:
        return self.policy.view.parameters.admission.queue_max

    def written(self) -> list[tuple[str, str, str]]:
        rows = self.recorder.actions
        rows.flush()
        found = [row for batch in rows.batches for row in batch.to_pylist()]
        return [(row["kind"], row["status"], row["reason"]) for row in found if row["kind"] == "set"]


@pytest.fixture
async def controller(request: pytest.FixtureRequest) -> AsyncIterator[Controller]:
    it = Controller(**getattr(request, "param", {}))
    await it.driver.start()
    yield it
    await it.driver.stop()


async def test_what_is_better_in_the_twin_is_taken_at_once_and_written_down(controller: Controller) -> None:
    await controller.interval(40)
    ((proposals, _),) = controller.asked
    assert [(it.key, it.value) for it in proposals] == [("admission.queue_max", 4), ("admission.queue_max", 0)]
    assert controller.queue_max == 4
    assert controller.policy.router.queue_max == 4, "the next request meets it"
    assert controller.settings["admission.queue_max"] == 4, "who looks ahead simulates with it"
    ((kind, status, reason),) = controller.written()
    assert (kind, status) == ("set", "done")
    assert reason.startswith("admission.queue_max 1 -> 4: requests were turned away from a full queue")
    assert reason.endswith("12 fewer a run")


async def test_the_change_is_in_the_journal_so_that_a_replay_changes_with_it(controller: Controller) -> None:
    await controller.interval(40)
    table = controller.recorder.observations
    table.flush()
    import pyarrow as pa

    calls = list(decode(pa.Table.from_batches(table.batches)))
    (change,) = [it.arguments[0] for it in calls if it.call == "observe" and type(it.arguments[0]) is SettingsChanged]
    replayed = ClusterPolicy(CLUSTER, controller.parameters)
    replayed.observe(1.0, change)
    assert replayed.view.parameters == controller.policy.view.parameters


async def test_a_change_after_which_no_more_goes_wrong_is_kept(controller: Controller) -> None:
    await controller.interval(40)
    await controller.interval(6)
    assert controller.queue_max == 4
    assert controller.adapting.adaptation.phase == "idle"
    assert "is kept" in controller.adapting.adaptation.history[-1]


async def test_a_change_after_which_more_goes_wrong_is_taken_back(controller: Controller) -> None:
    await controller.interval(40)
    await controller.interval(1000)
    assert controller.queue_max == 1
    assert controller.settings["admission.queue_max"] == 1
    assert [status for _, status, _ in controller.written()] == ["done", "done"]
    assert "rolled back" in controller.written()[-1][2]


async def test_an_interval_in_which_nobody_asks_says_nothing_of_a_change(controller: Controller) -> None:
    await controller.interval(40)
    await controller.interval(0)
    assert controller.adapting.adaptation.phase == "watching"
    assert controller.queue_max == 4


@pytest.mark.parametrize("controller", [{"place": None}], indirect=True)
async def test_what_is_not_better_with_confidence_changes_nothing(controller: Controller) -> None:
    await controller.interval(40)
    assert controller.asked
    assert controller.queue_max == 1
    assert controller.written() == []


@pytest.mark.parametrize("controller", [{"healer__mode": "advise"}], indirect=True)
async def test_in_the_mode_advise_it_is_said_and_not_done(controller: Controller) -> None:
    await controller.interval(40)
    assert controller.queue_max == 1
    assert controller.settings["admission.queue_max"] == 1
    ((_, status, reason),) = controller.written()
    assert status == "advised"
    assert "admission.queue_max 1 -> 4" in reason
    await controller.interval(40)
    assert [it.value for it in controller.asked[-1][0]] == [0], "the same is not advised again for a day"


async def test_a_quiet_interval_asks_nobody(controller: Controller) -> None:
    await controller.interval(4)
    assert controller.asked == []


async def test_it_is_off_unless_asked_for_and_says_so_where_the_machines_are_not_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    it = Controller()
    assert preset("default").config_adaptation.live is False
    for parameters, profile in ((preset("default"), PROFILE), (it.parameters, None)):
        adapting = Adapting(it.driver, parameters, profile, CLUSTER, {}, it.try_out)
        adapting.start()
        assert adapting._running is None
        await adapting.stop()
    assert "ollamamax calibrate" in capsys.readouterr().out


def test_its_parameters_go_together_or_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"config_adaptation.live proposes nothing while"):
        preset("default", {"config_adaptation.live": True, "config_adaptation.enabled": False})
    with pytest.raises(ParameterError, match=r"trial_limit_s 300 is not below config_adaptation.interval_s 120"):
        preset("default", {"config_adaptation.live": True, "config_adaptation.interval_s": 120})


def test_a_policy_takes_no_other_setting_while_it_runs() -> None:
    policy = ClusterPolicy(CLUSTER, preset("default", PLAIN))
    with pytest.raises(ParameterError, match=r"router.slow_start_s cannot change while the policy runs"):
        policy.observe(1.0, SettingsChanged("router.slow_start_s", 3.0, "?"))


def test_limits_on_silence_hold_for_the_next_request() -> None:
    policy = ClusterPolicy(CLUSTER, preset("default", PLAIN))
    policy.observe(1.0, SettingsChanged("router.first_token_deadline_s", 8.0, "?"))
    route = policy.route(1.0, RequestSpec(1, "m", 100, True, 1.0, 61.0), 0)
    assert route.first_token_deadline_s == 8.0


# -- the trials ---------------------------------------------------------------------------------------------------


def task(**overrides: Any) -> dict[str, Any]:
    workload = load().workload()
    assert workload is not None
    workload["arrivals"] = {"kind": "bursty", "rate_rps": 6.0, "cv": 3.0}
    settings = dict(preset("default", {"predictor.enabled": False, "admission.queue_max": 1} | overrides).values())
    return {
        "document": scenario_document(PROFILE, CLUSTER, workload, settings),
        "proposals": [("admission.queue_max", 0, 1, "?"), ("admission.queue_max", 16, 1, "?")],
        "diagnoses": ["server_down", "no_such_thing"],
        "replications": 4,
    }


def test_the_worker_finds_the_value_that_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_side, "TRIAL_S", 60.0)
    said = trials(task())
    assert said["place"] == 1
    assert "bad requests a run (95 % -" in said["evidence"]
    assert json.loads(json.dumps(said)) == said, "plain data crosses the processes"


def test_a_load_that_the_machines_were_not_measured_with_is_not_tried() -> None:
    it = json.loads(json.dumps(task()))
    it["document"]["cluster"]["groups"][0]["hardware"]["calibration"] = {
        "name": "measured",
        "batch_max": 2,
        "prompt_tokens": [1, 1000],
        "output_tokens": [1, 1000],
        "models": ["m"],
    }
    said = trials(it)
    assert said["place"] is None
    assert "not simulated" in said["evidence"]


async def test_trials_that_take_too_long_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Controller()
    it.driver.load = load()
    adapting = Adapting(it.driver, it.parameters, PROFILE, CLUSTER, it.settings)
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    restarted = []

    async def restart() -> None:
        restarted.append(True)

    monkeypatch.setattr(adapting._worker, "submit", lambda *_: never)
    monkeypatch.setattr(adapting._worker, "restart", restart)
    monkeypatch.setattr(module.asyncio, "wait_for", _at_once)
    proposals = [Proposal("admission.queue_max", 4, 1, "?")]
    place, evidence = await adapting._in_the_twin(proposals, [])
    assert place is None
    assert evidence == "the trials took longer than 300 s (config_adaptation.trial_limit_s)"
    assert restarted


async def _at_once(_future: asyncio.Future[Any], _limit_s: float) -> None:
    raise TimeoutError
