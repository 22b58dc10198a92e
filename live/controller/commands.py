"""Carries out what the policy orders: every probe and every action gets exactly one result, in time."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from live.controller.contexts import SeenContexts
from live.controller.probes import Prober
from live.controller.transport import plain_reason
from live.hands.protocol import HandError, Hands
from twin.policy.vocabulary import (
    BOOKKEEPING_ACTIONS,
    Action,
    ActionResult,
    ActionStatus,
    Advice,
    Command,
    Observation,
    Probe,
    ProbeResult,
    Question,
)
from twin.record.rows import FIRST_GATEWAY
from twin.record.writer import Recorder

_log = structlog.get_logger()

_COUNTED_PROBES = frozenset({"liveness", "residency"})
"""Kinds of probe that are only counted when they pass, as the table of probes says."""


RECENT_MAX = 500


class Run(Protocol):
    """What the results are for."""

    def now(self) -> float:
        """The run's clock."""

    def observe(self, observation: Observation) -> None:
        """Take in a result."""

    def fail(self, error: Exception) -> None:
        """An invariant is broken."""


class CommandRunner:
    """Runs each probe and each action as a task of its own."""

    def __init__(self, run: Run, prober: Prober, hands: Hands, recorder: Recorder | None) -> None:
        self.close_connections: Callable[[str], int] = _no_gateway
        self.advise: Callable[[Question], Awaitable[Advice]] | None = None  # who simulates what might be done
        self._run = run
        self._prober = prober
        self._hands = hands
        self._recorder = recorder
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[tuple[ActionStatus, str]]] = set()
        self._passed: Counter[str] = Counter()
        self.contexts = SeenContexts()
        self.recent: deque[dict[str, object]] = deque(maxlen=RECENT_MAX)
        """The last actions, oldest first; one that is under way has no status."""

    def start(self, command: Command) -> None:
        """Begin to carry out a command."""
        if isinstance(command, Probe):
            work = self._probe(command)
        elif isinstance(command, Question):
            work = self._ask(command)
        else:
            work = self._act(command)
        what = "question" if isinstance(command, Question) else command.kind
        task = asyncio.get_running_loop().create_task(work, name=f"{what} {command.node}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Break off what is in progress and wait until it has ended."""
        await asyncio.sleep(0)  # what was ordered a moment ago begins, so that it can say how it ended
        tasks = [*self._tasks, *self._late]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._recorder is not None:
            for kind, count in self._passed.items():
                self._recorder.counters[f"probes_passed_{kind}"] = count

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, Exception):
                self._run.fail(error)

    # -- probes ----------------------------------------------------------------------------------------------------

    async def _probe(self, probe: Probe) -> None:
        result = await self._prober.perform(probe)
        self.contexts.saw(result)
        self._record_probe(result)
        self._run.observe(result)

    def _record_probe(self, result: ProbeResult) -> None:
        if result.ok and result.kind in _COUNTED_PROBES:
            self._passed[result.kind] += 1
        elif self._recorder is not None:
            self._recorder.probes.add(
                (
                    self._run.now(),
                    result.node,
                    result.kind,
                    result.model,
                    result.ok,
                    result.latency_s,
                    result.error,
                    FIRST_GATEWAY,
                )
            )

    # -- questions -------------------------------------------------------------------------------------------------

    async def _ask(self, question: Question) -> None:
        """Answered by who can look ahead, off the loop that relays requests; else that nobody can."""
        advice = Advice(question.question_id, question.node, "unavailable", {}, "nobody here can look ahead")
        if self.advise is not None:
            advice = await self.advise(question)
        self._run.observe(advice)

    # -- actions ---------------------------------------------------------------------------------------------------

    async def _act(self, action: Action) -> None:
        ordered_s = self._run.now()
        _log.info("action", id=action.action_id, kind=action.kind, node=action.node, reason=action.reason)
        entry: dict[str, object] = {
            "id": action.action_id,
            "ordered_s": ordered_s,
            "kind": action.kind,
            "node": action.node,
            "model": action.model,
            "reason": action.reason,
            "status": None,
            "result_s": None,
            "detail": "",
        }
        self.recent.append(entry)
        status: ActionStatus = "unknown"
        detail = "broken off: the run has ended"
        try:
            status, detail = await self._carry_out(action)
        finally:
            result_s = self._run.now()
            entry.update(status=status, result_s=result_s, detail=detail)
            self._record_action(action, ordered_s, status, result_s, detail)
            _log.info(
                "action_result",
                id=action.action_id,
                kind=action.kind,
                node=action.node,
                status=status,
                took_s=round(result_s - ordered_s, 3),
                detail=detail,
            )
            self._run.observe(ActionResult(action.action_id, action.node, action.kind, status, detail))

    async def _carry_out(self, action: Action) -> tuple[ActionStatus, str]:
        if action.advice:
            return "advised", ""
        if action.kind in BOOKKEEPING_ACTIONS:
            return "done", ""
        if action.kind == "abort":
            closed = self.close_connections(action.node)
            return "done", f"closed {closed} connections"
        # A task of its own: a hand that is slow to be cancelled must not hold up the result.
        hand = asyncio.create_task(self._use_hand(action))
        try:
            await asyncio.wait({hand}, timeout=max(0.0, action.deadline_s - self._run.now()))
        finally:
            if not hand.done():
                hand.cancel()
                self._late.add(hand)
                hand.add_done_callback(self._late.discard)
        if hand.done():
            return hand.result()
        return "timed_out", "no result by the deadline"

    async def _use_hand(self, action: Action) -> tuple[ActionStatus, str]:
        try:
            result = await self._hands.perform(action)
        except HandError as error:
            return "failed", plain_reason(error)
        except Exception as error:  # noqa: BLE001
            # A hand's bug is no reason to leave the policy without a result.
            _log.exception("hand_broken", kind=action.kind, node=action.node)
            return "failed", f"the hand broke: {type(error).__name__}: {plain_reason(error)}"
        return result.status, result.detail

    def _record_action(
        self, action: Action, ordered_s: float, status: ActionStatus, result_s: float, detail: str
    ) -> None:
        if self._recorder is not None:
            self._recorder.actions.add(
                (
                    action.action_id,
                    ordered_s,
                    action.kind,
                    action.node,
                    action.model,
                    action.reason,
                    action.expected_benefit,
                    action.deadline_s,
                    status,
                    result_s,
                    detail,
                    FIRST_GATEWAY,
                )
            )


def _no_gateway(_node: str) -> int:
    return 0
