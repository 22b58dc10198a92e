"""One request's life: where to? - to a node and back - told to the policy - again where it failed - recorded."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable

import structlog

from live.controller.driver import PolicyDriver
from live.controller.transport import status_error
from live.gateway.call import Call
from live.gateway.client import Client, ClientGone
from live.gateway.dialect import one_line
from live.gateway.request_log import FailedAttempt, RequestLog
from live.gateway.settings import GatewaySettings
from live.gateway.upstream import Answer, AttemptFailed, Upstream
from twin.policy.vocabulary import (
    NEVER_S,
    AttemptEnded,
    AttemptError,
    AttemptOutcome,
    RequestSpec,
    RequestWithdrawn,
    Route,
)

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
        self._recorded = recorded
        self._ids = itertools.count(1)
        self._attempts: dict[str, set[_Attempt]] = {}
        self._draining: set[asyncio.Task[None]] = set()

    async def serve(self, call: Call, client: Client, header_id: str, timeout_s: float) -> None:
        """Answer one request. Raises `ClientGone` where nobody is left to be answered."""
        arrival_s = self.driver.now()
        spec = RequestSpec(
            request_id=next(self._ids),
            model=call.model,
            prompt_tokens=call.prompt_tokens,
            stream=call.client_streams,
            arrival_s=arrival_s,
            deadline_s=arrival_s + timeout_s,
            context_tokens=call.context_tokens,
        )
        log = RequestLog(
            spec.request_id, header_id, spec.model, spec.stream, spec.prompt_tokens, arrival_s, spec.deadline_s
        )
        exchange = _Exchange(self, call, client, spec, log)
        try:
            await exchange.run()
        except (asyncio.CancelledError, ClientGone):
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

    async def close(self) -> None:
        """Let go of the connections that are still being put back."""
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    def drain(self, answer: Answer) -> None:
        """Put a connection back when its answer has ended, which its client need not wait for."""
        task = asyncio.get_running_loop().create_task(answer.drain())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def enter(self, attempt: _Attempt) -> None:
        """An attempt begins."""
        self._attempts.setdefault(attempt.route.node, set()).add(attempt)

    def leave(self, attempt: _Attempt) -> None:
        """It has ended."""
        self._attempts[attempt.route.node].discard(attempt)


class _Exchange:
    """One request."""

    def __init__(self, relay: Relay, call: Call, client: Client, spec: RequestSpec, log: RequestLog) -> None:
        self.relay = relay
        self.driver = relay.driver
        self.call = call
        self.client = client
        self.spec = spec
        self.log = log
        self.has_failed = False

    async def run(self) -> None:
        failure: AttemptFailed | None = None
        route = Route("shed")
        for number in itertools.count():
            try:
                async with asyncio.timeout_at(self.at(self.spec.deadline_s)):
                    route = await self.driver.route(self.spec, number, self._admit)
            except TimeoutError:
                failure = AttemptFailed("deadline", "its deadline passed while it waited for its turn")
                break
            if route.kind != "dispatch":
                break
            attempt = _Attempt(self, route, number)
            last = await attempt.run()
            if attempt.failure is None:
                await self._finish(last)
                return
            failure = attempt.failure
            if failure.error == "deadline" or (self.client.begun and not self.call.resumable):
                self.driver.observe(RequestWithdrawn(self.spec.request_id))
                break
        await self._refuse(failure, route)

    def at(self, time_s: float) -> float:
        """A time of the run's clock on that of the event loop."""
        return asyncio.get_running_loop().time() + time_s - self.driver.now()

    def headers(self, content_type: str) -> dict[str, str]:
        headers = {
            "Content-Type": content_type,
            "X-Request-Id": self.log.header_id,
            "X-OllamaMax-Attempts": str(self.log.attempts),
        }
        if self.log.node:
            headers["X-OllamaMax-Node"] = self.log.node
        return headers

    async def send(self, data: bytes) -> None:
        """A part of a stream to the client, with its headers before the first."""
        if not self.client.begun:
            self.log.first_token_s = self.driver.now()
            await self.client.begin(self.headers(self.call.content_type))
        await self.client.write(data)

    def _admit(self) -> None:
        self.log.admitted = True

    async def _finish(self, last: bytes) -> None:
        """The attempt has succeeded, and the policy knows; what is left goes to the client."""
        self.log.outcome = "succeeded"
        self.log.error = ""
        try:
            async with asyncio.timeout_at(self.at(self.spec.deadline_s)):
                if self.call.client_streams:
                    if last:
                        await self.send(last)
                    await self.client.end()
                else:
                    await self.client.respond(200, self.headers(self.call.content_type), last)
        except TimeoutError:  # the client does not read
            self.log.outcome = self.log.error = "deadline"
            self.client.break_off()

    async def _refuse(self, failure: AttemptFailed | None, route: Route) -> None:
        """The request has failed: say so as truthfully as can still be."""
        self.has_failed = True
        self.log.outcome = "failed" if self.log.admitted else "rejected"
        self.log.error = failure.error if failure is not None else route.reason
        if failure is not None and failure.error == "deadline":
            self.log.outcome = "deadline"
        message = self._message(failure, route)
        if self.log.outcome != "rejected":  # those would come by the thousands, and the record has them
            _log.warning("request_failed", request=self.log.header_id, outcome=self.log.outcome, why=message)
        if self.client.begun:
            try:
                async with asyncio.timeout(self.relay.settings.read_timeout_s):
                    await self.client.write(self.call.error_line(message))
                    await self.client.end()
            except TimeoutError:  # the client does not read
                self.client.break_off()
            return
        if failure is not None and failure.error == "client_error" and failure.body:
            # The node's own words: for the client it is as if there were only this node.
            content_type = failure.content_type or _JSON
            await self.client.respond(failure.status, self.headers(content_type), failure.body)
            return
        status = _status(failure)
        headers = self.headers(_JSON)
        if status == 503:
            headers["Retry-After"] = str(max(1, math.ceil(route.retry_after_s)))
        await self.client.respond(status, headers, self.call.error_body(status, message))

    def _message(self, failure: AttemptFailed | None, route: Route) -> str:
        told = [f"{each.node}: {each.error}: {each.detail}" for each in self.log.failed_attempts]
        if failure is None:
            return f"the request was turned away: {route.reason or 'no node can take it'}"
        if not told:
            return f"the request failed: {failure.detail}"
        return f"the request failed after {self.log.attempts} attempts: {'; '.join(told)}"


class _Attempt:
    """One attempt at one node, under the limits of its route. Told to the policy exactly once."""

    def __init__(self, exchange: _Exchange, route: Route, number: int) -> None:
        self.route = route
        self.failure: AttemptFailed | None = None
        self._exchange = exchange
        self._number = number
        self._started_s = exchange.driver.now()
        self._first_token_s = math.nan
        self._limit = asyncio.timeout(None)
        self._aborted = False
        self._interruptible = False
        self._deadline_is_next = True

    async def run(self) -> bytes:
        """Have the node answer. What is returned is the last part for the client, where the attempt succeeded."""
        exchange = self._exchange
        log = exchange.log
        log.admitted = True
        log.nodes.append(self.route.node)
        if math.isnan(log.dispatched_s):
            log.dispatched_s = self._started_s
        exchange.call.begin()
        exchange.relay.enter(self)
        outcome: AttemptOutcome = "cancelled"  # whatever else ends it says nothing of the node
        answer: Answer | None = None
        last = b""
        try:
            try:
                async with self._limit:
                    self._wait_for_node(self._first_token_limit_s())
                    answer = await exchange.relay.upstream.send(
                        self.route.node,
                        "POST",
                        exchange.call.path,
                        exchange.call.body,
                        {"Content-Type": _JSON, "X-Request-Id": log.header_id},
                    )
                    last = await self._receive(answer)
                    self._interruptible = False
            except TimeoutError:
                raise self._out_of_time() from None
            outcome = "succeeded"
        except AttemptFailed as failure:
            outcome = "failed"
            self.failure = failure
        finally:
            self._interruptible = False
            if answer is not None and outcome != "succeeded":
                answer.close()
            exchange.relay.leave(self)
            self._tell(outcome)
        if answer is not None and outcome == "succeeded":
            exchange.relay.drain(answer)
        return last

    def abort(self) -> None:
        """The policy has given the node up."""
        self._aborted = True
        if self._interruptible and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _receive(self, answer: Answer) -> bytes:
        exchange = self._exchange
        call = exchange.call
        if answer.status != 200:
            raise await self._refusal(answer)
        call.headers(answer.content_type)
        while True:
            data = await answer.read()
            records = call.records
            part = call.feed(data) if data else call.end()
            if call.records > records:
                if math.isnan(self._first_token_s):
                    self._first_token_s = exchange.driver.now()
                self._wait_for_node(self._silence_limit_s())
            if call.complete:
                return part
            if part:
                await self._pass_on(part)
            if call.failure is not None:
                raise call.failure

    async def _pass_on(self, part: bytes) -> None:
        # While the client is slow to read, the node is not the one to blame; only the request's deadline holds.
        self._interruptible = False
        self._give_time(NEVER_S)
        await self._exchange.send(part)
        self._wait_for_node(self._silence_limit_s())

    def _wait_for_node(self, limit_s: float) -> None:
        """From now on the node has until `limit_s` on the run's clock, and an abort takes effect at once."""
        self._interruptible = True
        if self._aborted:
            raise AttemptFailed("aborted", "the node was given up")
        self._give_time(limit_s)

    def _give_time(self, limit_s: float) -> None:
        deadline_s = self._exchange.spec.deadline_s
        self._deadline_is_next = limit_s >= deadline_s
        self._limit.reschedule(self._exchange.at(min(limit_s, deadline_s)))

    def _first_token_limit_s(self) -> float:
        if not self._exchange.call.limits_first_token:
            return NEVER_S
        return self._started_s + self.route.first_token_deadline_s

    def _silence_limit_s(self) -> float:
        if not self._exchange.call.limits_silence:
            return NEVER_S
        return self._exchange.driver.now() + self.route.stall_timeout_s

    def _out_of_time(self) -> AttemptFailed:
        if self._aborted:
            return AttemptFailed("aborted", "the node was given up")
        if self._deadline_is_next:
            return AttemptFailed("deadline", "the request's deadline passed")
        if math.isnan(self._first_token_s):
            return AttemptFailed("first_token_timeout", f"no token within {self.route.first_token_deadline_s:g} s")
        return AttemptFailed("stall_timeout", f"no further token within {self.route.stall_timeout_s:g} s")

    async def _refusal(self, answer: Answer) -> AttemptFailed:
        """The node's own error."""
        body = b""
        limit = self._exchange.relay.settings.refusal_limit_bytes
        while data := await answer.read():
            body += data
            if len(body) > limit:
                return AttemptFailed("error_record", f"status {answer.status} and an error of more than {limit} bytes")
        said = one_line(body.decode(errors="replace"))
        return AttemptFailed(
            status_error(answer.status),
            f"status {answer.status}: {said}",
            status=answer.status,
            body=body,
            content_type=answer.content_type,
        )

    def _tell(self, outcome: AttemptOutcome) -> None:
        exchange, call = self._exchange, self._exchange.call
        log = exchange.log
        error: AttemptError = self.failure.error if self.failure is not None else ""
        if self.failure is not None:
            log.failed_attempts.append(
                FailedAttempt(
                    exchange.spec.request_id,
                    self._number,
                    self.route.node,
                    self._started_s,
                    self._first_token_s,
                    exchange.driver.now(),
                    error,
                    call.tokens,
                    self.failure.detail,
                )
            )
        log.tokens_received = call.tokens
        log.timings = call.timings
        if not call.client_streams:
            log.first_token_s = self._first_token_s
        exchange.driver.observe(
            AttemptEnded(
                exchange.spec.request_id,
                self._number,
                self.route.node,
                exchange.spec.model,
                outcome,
                error,
                self._started_s,
                self._first_token_s,
                call.tokens,
                call.timings.load_duration_s,
                call.timings.prompt_eval_duration_s,
                call.timings.eval_duration_s,
                call.timings.total_duration_s,
                call.timings.prompt_eval_count,
            )
        )


def _status(failure: AttemptFailed | None) -> int:
    """The status that says where it failed."""
    if failure is None or failure.error == "overloaded":
        return 503
    return 504 if failure.error in _TIMEOUTS else 502
