"""Drives the policy in the live world: gives it the time and what was seen, and carries out what it orders."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from live.controller.commands import CommandRunner
from live.controller.probes import Prober
from live.controller.recent_load import RecentLoad
from live.controller.tally import Tally
from live.hands.protocol import Hands
from twin.policy.vocabulary import (
    NEVER_S,
    Advice,
    AttemptEnded,
    Observation,
    Policy,
    Question,
    RequestId,
    RequestSpec,
    RequestWithdrawn,
    Route,
)
from twin.record.rows import incident_row
from twin.record.writer import Recorder

_log = structlog.get_logger()

WAKE_UP_GAP_S = 0.001
"""A policy that wants to be called at once and for ever is called this often, and the rest of the world lives on."""


SETTLE_PERIOD_S = 60.0
"""Between two questions for the incidents that the policy keeps no longer."""


class _Waiter:
    """A request that the policy keeps."""

    __slots__ = ("route", "turn")

    def __init__(self, turn: asyncio.Future[None]) -> None:
        self.turn = turn
        self.route: Route | None = None


class PolicyDriver:
    """Owns the policy and the run's clock, and is the only one who calls the policy.

    Everything happens on one event loop. An error in the policy is an invariant broken: it is not called again, every
    request that it would route is turned away, `failed` returns, and `stop` raises the error.
    """

    def __init__(
        self,
        policy: Policy,
        prober: Prober,
        hands: Hands,
        *,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._epoch_s = math.nan
        self._waiters: dict[RequestId, _Waiter] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = NEVER_S
        self._working = False
        self._stopping = False
        self._failure: Exception | None = None
        self._failed = asyncio.Event()
        self._incident_states: dict[int, str] = {}
        self._recorder = recorder
        self._settle_s = 0.0  # when it is asked next what is settled
        self._commands = CommandRunner(self, prober, hands, recorder)
        self.contexts = self._commands.contexts
        self.load = RecentLoad()
        self.tally = Tally()

    # -- the run ---------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the run's start; nan before it."""
        return self._clock() - self._epoch_s

    async def start(self) -> None:
        """Start the run's clock and call the policy for the first time."""
        self._epoch_s = self._clock()
        self._working = True
        self._rearm()

    async def stop(self) -> None:
        """End the run: what is in progress is broken off, each action with its result. Raises what broke the policy."""
        self._stopping = True
        self._disarm()
        await self._commands.stop()  # their results are the last that the policy sees
        self._working = False
        self._turn_away("the controller has stopped")
        if self._failure is not None:
            raise self._failure

    async def failed(self) -> Exception:
        """Wait until the policy breaks; what broke it."""
        await self._failed.wait()
        assert self._failure is not None
        return self._failure

    def on_abort(self, close_connections: Callable[[str], int]) -> None:
        """What closes the gateway's own connections to a node and says how many they were."""
        self._commands.close_connections = close_connections

    def on_question(self, answer: Callable[[Question], Awaitable[Advice]]) -> None:
        """Who simulates what might be done, where the policy asks."""
        self._commands.advise = answer

    @property
    def recent_actions(self) -> Sequence[dict[str, object]]:
        """The last actions with their results, oldest first."""
        return list(self._commands.recent)

    # -- what happens ----------------------------------------------------------------------------------------------

    def route(self, request: RequestSpec, attempt: int) -> Route:
        """Where this attempt goes. Where that is of the kind `wait`, `turn` says more."""
        if not self._working:
            return Route("shed", reason="the controller does not run")
        try:
            now = self.now()
            if not attempt:
                self.load.arrived(now, request)
            route = self.policy.route(now, request, attempt)
            self.tally.routed(route, attempt)
            self._rearm()
        except Exception as error:  # noqa: BLE001
            self.fail(error)
            return Route("shed", reason="the controller has failed")
        if route.kind == "wait":
            self._waiters[request.request_id] = _Waiter(asyncio.get_running_loop().create_future())
        return route

    async def turn(self, request: RequestSpec, attempt: int) -> Route:
        """Wait for the turn of a request that the policy keeps: a route of the kind `dispatch` or `shed`.

        Who is cancelled meanwhile gives up the request.
        """
        waiter = self._waiters[request.request_id]
        try:
            await waiter.turn
        except asyncio.CancelledError:
            self._give_up(request, attempt, waiter)
            raise
        assert waiter.route is not None
        return waiter.route

    def observe(self, observation: Observation) -> None:
        """Tell the policy what was seen, and let those go on whose turn has come by it."""
        if not self._working:
            return
        now = self.now()
        self.load.observed(observation)
        self.tally.observed(observation)
        try:
            self.policy.observe(now, observation)
            if self.policy.waiting:
                self._release(now)
            self._rearm()
        except Exception as error:  # noqa: BLE001
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """An invariant of ours is broken: stop loudly."""
        if self._failure is None:
            self._failure = error
            self._working = False
            _log.error("policy_failed", error=repr(error), exc_info=error)
        self._disarm()
        self._turn_away("the controller has failed")
        self._failed.set()

    def _give_up(self, request: RequestSpec, attempt: int, waiter: _Waiter) -> None:
        route = waiter.route
        if route is None:
            del self._waiters[request.request_id]
            self.observe(RequestWithdrawn(request.request_id))
        elif route.kind == "dispatch":
            # Its turn came in the same moment: for the policy it is at the node.
            self.observe(
                AttemptEnded(
                    request.request_id,
                    attempt,
                    route.node,
                    request.model,
                    "cancelled",
                    "",
                    started_s=self.now(),
                    first_token_s=math.nan,
                    tokens=0,
                )
            )

    def _release(self, now: float) -> None:
        for request_id, route in self.policy.released(now):
            waiter = self._waiters.pop(request_id)
            waiter.route = route
            self.tally.released(route)
            if not waiter.turn.done():  # else it was cancelled, and looks at its route when it comes to run
                waiter.turn.set_result(None)

    def _turn_away(self, reason: str) -> None:
        for request_id, waiter in list(self._waiters.items()):
            del self._waiters[request_id]
            waiter.route = Route("shed", reason=reason)
            if not waiter.turn.done():
                waiter.turn.set_result(None)

    # -- waking up -------------------------------------------------------------------------------------------------

    def _rearm(self) -> None:
        """Have the timer fire when the policy wants to be called, or earlier: what fires too early is set again."""
        wanted_s = self.policy.next_wakeup()
        if wanted_s < self._armed_s:
            self._arm(wanted_s)

    def _arm(self, at_s: float) -> None:
        self._disarm()
        if at_s == NEVER_S or self._stopping:
            return
        self._armed_s = at_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at_s - self.now()), self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_s = NEVER_S

    def _wake(self) -> None:
        self._disarm()
        try:
            now = self.now()
            if self.policy.next_wakeup() <= now:
                self._release(now)
                for command in self.policy.decide(now):
                    self._commands.start(command)
                self._log_incidents(now)
            self._arm(max(self.policy.next_wakeup(), self.now() + WAKE_UP_GAP_S))
        except Exception as error:  # noqa: BLE001
            self.fail(error)

    def _log_incidents(self, now: float) -> None:
        for incident in self.policy.incidents:
            if self._incident_states.get(incident.incident_id) == incident.state:
                continue
            self._incident_states[incident.incident_id] = incident.state
            _log.info(
                "incident",
                incident=incident.incident_id,
                node=incident.node,
                diagnosis=incident.diagnosis,
                state=incident.state,
                evidence=incident.evidence,
            )
        if now < self._settle_s:
            return
        self._settle_s = now + SETTLE_PERIOD_S
        for incident in self.policy.settled(now):
            del self._incident_states[incident.incident_id]
            if self._recorder is not None:
                self._recorder.incidents.add(incident_row(incident))
