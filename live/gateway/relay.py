"""One request's life: where to? - to a node and back - told to the policy - again where it failed - recorded."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable

import structlog

from live.controller.driver import PolicyDriver
from live.gateway.attempt import Attempt
from live.gateway.call import Call
from live.gateway.client import Client
from live.gateway.poison import PoisonMemory
from live.gateway.request_log import RequestLog
from live.gateway.settings import GatewaySettings
from live.gateway.timers import Timers
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

    async def serve(self, call: Call, client: Client, header_id: str, timeout_s: float, fingerprint: int) -> None:
        """Answer one request; cancelled where nobody is left to be answered. `fingerprint`: the same of equal ones."""
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
        )
        log = RequestLog(
            spec.request_id, header_id, spec.model, spec.stream, spec.prompt_tokens, arrival_s, spec.deadline_s
        )
        exchange = Exchange(self, call, client, spec, log, timeout_s, fingerprint)
        try:
            await exchange.run()
        except asyncio.CancelledError:
            if not exchange.has_failed:  # else its client only did not wait to be told
                log.outcome = "cancelled"
                log.error = ""
            raise
        except Exception:
            log.outcome = "failed"
            log.error = "internal_error"
            raise
        finally:
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
    """One request."""

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
        self.has_failed = False
        self.fingerprint = fingerprint

    async def run(self) -> None:
        """Until it has been answered."""
        failure: AttemptFailed | None = None
        number = 0
        while True:
            route = self.driver.route(self.spec, number)
            if route.kind == "wait":
                self.log.admitted = True
                try:
                    async with asyncio.timeout_at(self.deadline_loop_s):
                        route = await self.driver.turn(self.spec, number)
                except TimeoutError:
                    failure = AttemptFailed("deadline", "its deadline passed while it waited for its turn")
                    break
            if route.kind != "dispatch":
                break
            attempt = Attempt(self, route, number)
            await attempt.run()
            if attempt.failure is None:
                await self._finish(attempt.last)
                return
            failure = attempt.failure
            number += 1
            if failure.error == "deadline" or (self.client.begun and not self.call.resumable):
                self.driver.observe(RequestWithdrawn(self.spec.request_id))
                break
        await self._refuse(failure, route)

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

    async def _finish(self, last: bytes) -> None:
        """The attempt has succeeded, and the policy knows; what is left goes to the client."""
        log, client = self.log, self.client
        log.outcome = "succeeded"
        log.error = ""
        if self.call.client_streams:
            if not client.begun:
                self._begin()
            client.end(last)
        else:
            client.respond(200, self.headers(self.call.content_type), last)
        if not client.writable:
            try:
                async with asyncio.timeout_at(self.deadline_loop_s):
                    await client.drained()
            except TimeoutError:  # the client does not read
                log.outcome = log.error = "deadline"
                client.break_off()

    async def _refuse(self, failure: AttemptFailed | None, route: Route) -> None:
        """The request has failed: say so as truthfully as can still be."""
        self.has_failed = True
        log, client = self.log, self.client
        if log.failed_attempts:
            self.relay.poison.failed(self.fingerprint, log.failed_attempts, self.driver.now())
        log.outcome = "failed" if log.admitted else "rejected"
        log.error = failure.error if failure is not None else route.reason
        if failure is not None and failure.error == "deadline":
            log.outcome = "deadline"
        message = self._message(failure, route)
        if log.outcome != "rejected":  # those would come by the thousands, and the record has them
            _log.warning("request_failed", request=log.header_id, outcome=log.outcome, why=message)
        if client.begun:
            if client.writable:
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
