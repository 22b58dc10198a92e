"""One request's life: where to? - to a node and back - told to the policy - again where it failed - recorded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from live.controller.driver import PolicyDriver
from live.gateway.attempt import Attempt
from live.gateway.call import Call
from live.gateway.client import Client
from live.gateway.poison import PoisonMemory
from live.gateway.request_log import RequestLog, RequestOutcome
from live.gateway.settings import GatewaySettings
from live.gateway.timers import Limit, Timers
from live.gateway.upstream import AttemptFailed, Upstream
from twin.policy.vocabulary import AttemptError, RequestSpec, RequestWithdrawn, Route

_log = structlog.get_logger()

_TIMEOUTS: frozenset[AttemptError] = frozenset({"first_token_timeout", "stall_timeout", "deadline"})
_JSON = "application/json"


class Relay:
    """Carries requests to nodes as the policy says, and tells it what became of them."""

    def __init__(
        self,
        driver: PolicyDriver,
        upstream: Upstream,
        settings: GatewaySettings,
        recorded: Callable[[RequestLog], None] | None = None,
    ) -> None:
        self.driver = driver
        self.upstream = upstream
        self.settings = settings
        self.stopping = False
        self._running = False
        self.loop: asyncio.AbstractEventLoop
        self.timers: Timers
        self._recorded = recorded
        self.poison = PoisonMemory(settings.poison_nodes_min, settings.poison_hold_s)
        self._ids = itertools.count(1)
        self._attempts: dict[str, set[Attempt]] = {}

    def serve(self, call: Call, client: Client, header_id: str, timeout_s: float, fingerprint: int) -> None:
        """Have one request answered; the client is told when that is done. `fingerprint`: the same of equal requests."""
        if not self._running:
            self._running = True
            self.loop = asyncio.get_running_loop()
            self.timers = Timers(self.loop)
        arrival_s = self.driver.now()
        spec = RequestSpec(
            next(self._ids),
            call.model,
            call.prompt_tokens,
            call.client_streams,
            arrival_s,
            arrival_s + timeout_s,
            call.context_tokens,
            client=client.client,
            sent_context_tokens=call.sent_context_tokens,
        )
        log = RequestLog(
            spec.request_id, header_id, spec.model, spec.stream, spec.prompt_tokens, arrival_s, spec.deadline_s
        )
        Exchange(self, call, client, spec, log, timeout_s, fingerprint).start()

    def record(self, log: RequestLog) -> None:
        """A request has ended."""
        log.end_s = self.driver.now()
        if self._recorded is not None:
            self._recorded(log)

    def abort(self, node: str) -> int:
        """Close the connections to a node: their attempts fail, and their requests go on as the policy says."""
        attempts = self._attempts.get(node, set())
        for attempt in attempts:
            attempt.abort()
        return len(attempts)

    def in_flight(self, node: str) -> int:
        """Attempts at a node now."""
        return len(self._attempts.get(node, ()))

    def close(self) -> None:
        """End what nobody waits for."""
        self.stopping = True
        for attempts in self._attempts.values():
            for attempt in list(attempts):
                attempt.close()
        if self._running:
            self.timers.close()

    def enter(self, attempt: Attempt) -> None:
        """An attempt begins."""
        attempts = self._attempts.get(attempt.route.node)
        if attempts is None:
            attempts = self._attempts[attempt.route.node] = set()
        attempts.add(attempt)

    def leave(self, attempt: Attempt) -> None:
        """It has ended."""
        self._attempts[attempt.route.node].discard(attempt)


class Exchange:
    """One request, over all its attempts. It goes on in the calls of who knows something: the end of an attempt, its turn, a
    client that reads again, one that goes."""

    def __init__(
        self,
        relay: Relay,
        call: Call,
        client: Client,
        spec: RequestSpec,
        log: RequestLog,
        timeout_s: float,
        fingerprint: int,
    ) -> None:
        self.relay = relay
        self.driver = relay.driver
        self.call = call
        self.client = client
        self.spec = spec
        self.log = log
        self.deadline_loop_s = relay.loop.time() + timeout_s
        self.node_headers = {"Content-Type": call.request_type, "X-Request-Id": log.header_id}
        self.fingerprint = fingerprint
        self._failure: AttemptFailed | None = None  # of the last attempt
        self._number = 0  # of the attempt
        self._attempt: Attempt | None = None
        self._turn: Coroutine[Any, Any, Route] | None = None  # that it waits for
        self._limit: Limit | None = None  # for its turn to come, or its client to read the end
        self._over = False

    def start(self) -> None:
        """Begin; everything else is told by others."""
        self.client.on_gone = self._gone
        self._do(self._route)

    def attempt_ended(self) -> None:
        """It has succeeded, or has failed."""
        self._do(self._after)

    def _do(self, step: Callable[[], None]) -> None:
        """An error of ours ends this request, and nothing else."""
        try:
            step()
        except Exception as error:  # noqa: BLE001
            if self._attempt is not None:
                self._attempt.cancel()
            self._end("failed", "internal_error")
            self.client.broke(error)

    def _route(self) -> None:
        self._go(self.driver.route(self.spec, self._number))

    def _go(self, route: Route) -> None:
        if route.kind == "dispatch":
            self._attempt = Attempt(self, route, self._number)
            self._attempt.start()
        elif route.kind == "wait":
            self._wait()
        else:
            self._refuse(self._failure, route)

    def _wait(self) -> None:
        self.log.admitted = True
        self._turn = self.driver.turn(self.spec, self._number)
        # It begins now, and not in a task's first step: its turn may come before that.
        self._turn.send(None).add_done_callback(self._turn_came)
        self._limit = self.relay.timers.at(self.deadline_loop_s, self._turn_is_late)

    def _turn_came(self, _turn: asyncio.Future[None]) -> None:
        self._do(self._take_turn)

    def _take_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:  # it was given up in the same moment
            return
        self._forget_limit()
        try:
            turn.send(None)
        except StopIteration as came:
            self._go(came.value)

    def _turn_is_late(self) -> None:
        self._give_turn_up()
        failure = AttemptFailed("deadline", "its deadline passed while it waited for its turn")
        self._do(lambda: self._refuse(failure, Route("wait")))

    def _give_turn_up(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            with contextlib.suppress(asyncio.CancelledError):
                turn.throw(asyncio.CancelledError())

    def _forget_limit(self) -> None:
        if self._limit is not None:
            self.relay.timers.take_back(self._limit)
            self._limit = None

    def _after(self) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        failure = attempt.failure
        if failure is None:
            self._finish(attempt.last)
            return
        self._failure = failure
        self._number += 1
        if failure.error == "deadline" or (self.client.begun and not self.call.resumable):
            self.driver.observe(RequestWithdrawn(self.spec.request_id))
            self._refuse(failure, attempt.route)
        else:
            self._route()

    def _gone(self) -> None:
        """Nobody is left to be answered."""
        if self._attempt is not None:
            self._attempt.cancel()
        self._give_turn_up()
        self._end("cancelled")

    def _end(self, outcome: RequestOutcome, error: str = "") -> None:
        """Write it down, once."""
        if self._over:
            return
        self._over = True
        self._forget_limit()
        self.log.outcome = outcome
        self.log.error = error
        self.relay.record(self.log)

    def _answered(self, outcome: RequestOutcome, error: str = "") -> None:
        self._end(outcome, error)
        self.client.done()

    def headers(self, content_type: str) -> dict[str, str]:
        """Of the answer."""
        log = self.log
        headers = {
            "Content-Type": content_type,
            "X-Request-Id": log.header_id,
            "X-OllamaMax-Attempts": str(len(log.nodes)),
        }
        if log.nodes:
            headers["X-OllamaMax-Node"] = log.nodes[-1]
            headers["X-OllamaMax-Nodes-Tried"] = ",".join(log.nodes)
        headers.update(self.call.notes)
        return headers

    def send(self, data: bytes) -> None:
        """A part of a stream to the client, with its headers before the first."""
        if not self.client.begun:
            self._begin()
        self.client.write(data)

    def _begin(self) -> None:
        self.log.first_token_s = self.driver.now()
        self.client.begin(self.headers(self.call.content_type))

    def failed(self, attempt: Attempt, failure: AttemptFailed) -> None:
        """An attempt has failed."""
        self.log.failed_attempts.append(attempt.failed_row(self.spec.request_id, failure))

    def _finish(self, last: bytes) -> None:
        """The attempt has succeeded, and the policy knows; what is left goes to the client."""
        client = self.client
        if self.call.client_streams:
            if not client.begun:
                self._begin()
            client.end(last)
        else:
            client.respond(200, self.headers(self.call.content_type), last)
        if client.writable:
            self._answered("succeeded")
        else:  # it is slow to read
            client.on_writable = self._read
            self._limit = self.relay.timers.at(self.deadline_loop_s, self._not_read)

    def _read(self) -> None:
        self._answered("succeeded")

    def _not_read(self) -> None:
        self.client.break_off()
        self._answered("deadline", "deadline")

    def give_client_up(self) -> None:
        """It does not read what its node has to say: that goes on to serve others."""
        wait_s = self.relay.settings.client_wait_s
        _log.warning("client_cut_off", request=self.log.header_id, why=f"its node waited {wait_s:g} s for it to read")
        if self._attempt is not None:
            self._attempt.cancel()
        self.client.break_off()
        self._answered("cancelled", "slow_client")

    def _refuse(self, failure: AttemptFailed | None, route: Route) -> None:
        """The request has failed: say so as truthfully as can still be."""
        log = self.log
        if log.failed_attempts:
            self.relay.poison.failed(self.fingerprint, log.failed_attempts, self.driver.now())
        outcome: RequestOutcome = "failed" if log.admitted else "rejected"
        if failure is not None and failure.error == "deadline":
            outcome = "deadline"
        message = self._message(failure, route)
        if outcome != "rejected":  # those would come by the thousands, and the record has them
            _log.warning("request_failed", request=log.header_id, outcome=outcome, why=message)
        self._say(failure, route, message)
        self._answered(outcome, failure.error if failure is not None else route.reason)

    def _say(self, failure: AttemptFailed | None, route: Route, message: str) -> None:
        client = self.client
        if client.begun:
            if client.writable or client.holds_more:
                client.end(self.call.error_line(message))
            else:  # the client does not read
                client.break_off()
            return
        if failure is not None and failure.error == "client_error" and failure.body:
            # The node's own words: for the client it is as if there were only this node.
            content_type = failure.content_type or _JSON
            client.respond(failure.status, self.headers(content_type), self.call.refusal(failure.status, failure.body))
            return
        status = _status(failure)
        headers = self.headers(_JSON)
        if status == 503:
            headers["Retry-After"] = str(max(1, math.ceil(route.retry_after_s)))
        client.respond(status, headers, self.call.error_body(status, message))

    def _message(self, failure: AttemptFailed | None, route: Route) -> str:
        told = [f"{each.node}: {each.error}: {each.detail}" for each in self.log.failed_attempts]
        if failure is None:
            return f"the request was turned away: {route.reason or 'no node can take it'}"
        if not told:
            return f"the request failed: {failure.detail}"
        return f"the request failed after {self.log.attempts} attempts: {'; '.join(told)}"


def _status(failure: AttemptFailed | None) -> int:
    """The status that says where it failed."""
    if failure is None or failure.error == "overloaded":
        return 503
    return 504 if failure.error in _TIMEOUTS else 502
