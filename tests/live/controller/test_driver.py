"""The driver: who waits gets a turn, what is ordered gets one result, and a broken policy is heard."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from live.controller.driver import PolicyDriver
from live.hands.protocol import HandError, HandResult
from tests.live.gateway.doubles import WAIT, ScriptedPolicy, to, until
from twin.policy.vocabulary import (
    Action,
    ActionKind,
    ActionResult,
    AttemptEnded,
    Incident,
    Probe,
    ProbeResult,
    RequestSpec,
    RequestWithdrawn,
    Route,
)
from twin.record.writer import Recorder


def request(number: int = 1) -> RequestSpec:
    return RequestSpec(number, "m", 3, True, 0.0, 60.0)


async def routed(
    driver: PolicyDriver, asked: RequestSpec, attempt: int, waits: Callable[[], None] | None = None
) -> Route:
    """The route, once the turn has come."""
    route = driver.route(asked, attempt)
    if route.kind == "wait":
        if waits is not None:
            waits()
        route = await driver.turn(asked, attempt)
    return route


def action(kind: ActionKind = "restart", deadline_s: float = 60.0) -> Action:
    return Action(7, kind, "a", "m", "it hangs", deadline_s, 3.0)


class Hand:
    def __init__(self) -> None:
        self.does: Callable[[], Awaitable[HandResult]] = self.well
        self.performed: list[Action] = []

    async def well(self) -> HandResult:
        return HandResult("done", "pid 12")

    async def perform(self, action: Action) -> HandResult:
        self.performed.append(action)
        return await self.does()


class Prober:
    async def perform(self, probe: Probe) -> ProbeResult:
        return ProbeResult(probe.probe_id, probe.node, probe.kind, probe.model, probe.node == "a", 0.01)


@pytest.fixture
def policy() -> ScriptedPolicy:
    return ScriptedPolicy()


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(None)


@pytest.fixture
async def driver(policy: ScriptedPolicy, hand: Hand, recorder: Recorder) -> AsyncIterator[PolicyDriver]:
    driver = PolicyDriver(policy, Prober(), hand, recorder=recorder)
    await driver.start()
    yield driver
    if policy.breaks is None:
        await driver.stop()


async def ordered(
    driver: PolicyDriver, policy: ScriptedPolicy, *commands: Action | Probe
) -> list[ActionResult | ProbeResult]:
    """The results of commands that the policy gives at its next wake-up."""
    policy.commands.extend(commands)
    policy.wakeup_s = 0.0
    driver.observe(RequestWithdrawn(0))

    def found() -> list[ActionResult | ProbeResult]:
        return [*policy.of(ActionResult), *policy.of(ProbeResult)]

    await until(lambda: len(found()) == len(commands))
    return found()


async def test_the_clock_starts_with_the_run(policy: ScriptedPolicy, hand: Hand) -> None:
    times = iter([100.0, 100.0, 102.5])
    driver = PolicyDriver(policy, Prober(), hand, clock=lambda: next(times))
    assert math.isnan(driver.now())
    await driver.start()
    assert driver.now() == 2.5


async def test_a_waiting_request_gets_its_route_when_it_is_released(
    driver: PolicyDriver, policy: ScriptedPolicy
) -> None:
    policy.routes.append(WAIT)
    waits: list[bool] = []
    routing = asyncio.create_task(routed(driver, request(), 0, lambda: waits.append(True)))
    await asyncio.sleep(0)
    assert waits == [True]
    policy.turns.append((1, to("a")))
    driver.observe(RequestWithdrawn(99))
    assert await routing == to("a")


async def test_a_delayed_release_comes_with_the_wake_up(driver: PolicyDriver, policy: ScriptedPolicy) -> None:
    policy.routes.append(WAIT)
    policy.wakeup_s = driver.now() + 0.02
    policy.turns.append((1, to("a")))
    assert await routed(driver, request(), 1) == to("a")
    assert driver.now() >= 0.02


async def test_who_gives_up_waiting_is_withdrawn(driver: PolicyDriver, policy: ScriptedPolicy) -> None:
    policy.routes.append(WAIT)
    routing = asyncio.create_task(routed(driver, request(), 0))
    await asyncio.sleep(0)
    routing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await routing
    assert policy.observed == [RequestWithdrawn(1)]


async def test_a_turn_that_comes_while_its_request_is_cancelled_is_given_back(
    driver: PolicyDriver, policy: ScriptedPolicy
) -> None:
    policy.routes.append(WAIT)
    routing = asyncio.create_task(routed(driver, request(), 0))
    await asyncio.sleep(0)
    policy.turns.append((1, to("a")))
    routing.cancel()
    driver.observe(RequestWithdrawn(99))  # releases it before the cancelled task has run
    with pytest.raises(asyncio.CancelledError):
        await routing
    [ended] = policy.of(AttemptEnded)
    assert (ended.node, ended.outcome) == ("a", "cancelled")


async def test_an_action_is_performed_recorded_and_answered_once(
    driver: PolicyDriver, policy: ScriptedPolicy, hand: Hand, recorder: Recorder
) -> None:
    assert await ordered(driver, policy, action()) == [ActionResult(7, "a", "restart", "done", "pid 12")]
    assert hand.performed == [action()]
    recorder.actions.flush()
    [row] = recorder.actions.batches[0].to_pylist()
    assert (row["kind"], row["reason"], row["status"], row["detail"]) == ("restart", "it hangs", "done", "pid 12")


async def test_a_hand_that_is_late_has_timed_out_even_if_it_does_not_let_go(
    driver: PolicyDriver, policy: ScriptedPolicy, hand: Hand
) -> None:
    async def stubborn() -> HandResult:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.05)
        return HandResult("done")

    hand.does = stubborn
    [result] = await ordered(driver, policy, action(deadline_s=driver.now() + 0.02))
    assert isinstance(result, ActionResult)
    assert result.status == "timed_out"
    assert driver.now() < 0.06


@pytest.mark.parametrize(
    ("error", "detail"), [(HandError("no such unit"), "no such unit"), (KeyError("x"), "the hand broke: KeyError: 'x'")]
)
async def test_a_hand_that_fails_says_why(
    driver: PolicyDriver, policy: ScriptedPolicy, hand: Hand, error: Exception, detail: str
) -> None:
    async def fails() -> HandResult:
        raise error

    hand.does = fails
    assert await ordered(driver, policy, action()) == [ActionResult(7, "a", "restart", "failed", detail)]


async def test_aborts_go_to_the_gateway_and_drains_to_nobody(
    driver: PolicyDriver, policy: ScriptedPolicy, hand: Hand
) -> None:
    closed: list[str] = []
    driver.on_abort(lambda node: closed.append(node) or 3)  # type: ignore[func-returns-value]
    results = await ordered(driver, policy, action("abort"), action("drain"), action("return"))
    assert [(result.kind, result.status) for result in results if isinstance(result, ActionResult)] == [
        ("abort", "done"),
        ("drain", "done"),
        ("return", "done"),
    ]
    assert closed == ["a"]
    assert not hand.performed


async def test_probes_are_answered_and_those_that_matter_recorded(
    driver: PolicyDriver, policy: ScriptedPolicy, recorder: Recorder
) -> None:
    probes = [
        Probe(1, "a", "liveness", "", 1.0),
        Probe(2, "b", "liveness", "", 1.0),
        Probe(3, "a", "generation", "m", 1.0),
    ]
    results = await ordered(driver, policy, *probes)
    assert {result.probe_id for result in results if isinstance(result, ProbeResult)} == {1, 2, 3}
    recorder.probes.flush()
    rows = recorder.probes.batches[0].to_pylist()
    assert sorted((row["node"], row["kind"], row["ok"]) for row in rows) == [
        ("a", "generation", True),
        ("b", "liveness", False),
    ]


async def test_the_policy_is_not_called_before_its_time(driver: PolicyDriver, policy: ScriptedPolicy) -> None:
    policy.wakeup_s = driver.now() + 0.02
    driver.observe(RequestWithdrawn(0))
    policy.wakeup_s = driver.now() + 0.05
    await asyncio.sleep(0.03)
    assert policy.decisions == 0
    await asyncio.sleep(0.04)
    assert policy.decisions == 1


async def test_actions_in_progress_are_unknown_when_the_run_ends(
    policy: ScriptedPolicy, hand: Hand, recorder: Recorder
) -> None:
    async def forever() -> HandResult:
        await asyncio.Event().wait()
        return HandResult("done")

    hand.does = forever
    driver = PolicyDriver(policy, Prober(), hand, recorder=recorder)
    policy.commands.append(action())
    policy.wakeup_s = 0.0
    await driver.start()
    await until(lambda: policy.decisions)
    await driver.stop()
    assert [result.status for result in policy.of(ActionResult)] == ["unknown"]


async def test_a_policy_that_breaks_is_heard_and_keeps_nobody_waiting(
    driver: PolicyDriver, policy: ScriptedPolicy
) -> None:
    policy.routes.append(WAIT)
    routing = asyncio.create_task(routed(driver, request(), 0))
    await asyncio.sleep(0)
    policy.breaks = RuntimeError("a replica that is not there")
    driver.observe(RequestWithdrawn(0))
    assert (await routing).kind == "shed"
    assert await driver.failed() is policy.breaks
    assert (await routed(driver, request(2), 0)).kind == "shed"
    with pytest.raises(RuntimeError, match="a replica that is not there"):
        await driver.stop()


async def test_incidents_that_the_policy_keeps_no_longer_are_written_down(
    driver: PolicyDriver, policy: ScriptedPolicy, recorder: Recorder
) -> None:
    policy.incidents = [
        Incident(0, "a", "slow", "it is", 1.0, "closed", 2.0, 3.0),
        Incident(1, "a", "slow", "it is", 4.0),
    ]
    policy.wakeup_s = 0.0
    driver.observe(RequestWithdrawn(0))
    await until(lambda: len(policy.incidents) == 1)
    assert recorder.incidents.pending == 1
