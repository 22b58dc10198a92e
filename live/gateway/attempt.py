"""One attempt at one node, under the limits of its route. Told to the policy exactly once, whatever happens.

The answer's bytes are relayed in the calls that bring them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from live.controller.transport import status_error
from live.gateway.dialect import one_line
from live.gateway.request_log import FailedAttempt
from live.gateway.timers import Limit
from live.gateway.upstream import AttemptFailed, NodeExchange
from twin.policy.vocabulary import NEVER_S, AttemptEnded, AttemptError, AttemptOutcome, RequestWithdrawn, Route

if TYPE_CHECKING:
    from live.gateway.relay import Exchange

LATE_S = 0.25
"""A timer that fires so late shows that this process was held up, not that a node was silent."""
TIMER_SLACK_S = 0.002
"""The event loop's clock ticks in milliseconds: a timer that fires this early has fired."""


class Attempt:
    """The sink of the node's answer. Its exchange is told of the end; `failure` says why it is not the wanted one."""

    def __init__(self, exchange: Exchange, route: Route, number: int) -> None:
        self.route = route
        self.failure: AttemptFailed | None = None
        self.last = b""  # the last part for the client, where the attempt succeeded
        self._exchange = exchange
        self._call = exchange.call
        self._client = exchange.client
        self._loop = exchange.relay.loop
        self._number = number
        self._started_s = exchange.driver.now()
        self._first_token_s = math.nan
        self._node: NodeExchange | None = None
        self._records = 0  # that it has brought
        self._awaited = True  # its exchange goes on when it has ended
        self._over = False
        self._detached = False  # nobody waits for it: it is a load that goes on
        self._paused = False  # the node waits for the client, for which nothing more can be kept
        self._paused_s = 0.0  # since when
        self._waited_s = 0.0  # and for how long before
        self._status = 0
        self._content_type = ""
        self._refusal = b""
        self._deadline_s = exchange.deadline_loop_s
        self._limit_s = NEVER_S  # of the node's silence, on the loop's clock
        self._timer: Limit | None = None
        self._timer_s = NEVER_S

    def start(self) -> None:
        """Have the node answer."""
        exchange = self._exchange
        log = exchange.log
        log.admitted = True
        log.nodes.append(self.route.node)
        if math.isnan(log.dispatched_s):
            log.dispatched_s = self._started_s
        self._call.begin()
        exchange.relay.enter(self)
        self._call.ask_with(self.route.context_tokens)
        if self._call.limits_first_token:
            self._limit_s = self._loop.time() + self.route.first_token_deadline_s
        self._arm()
        self._node = exchange.relay.upstream.send(
            self, self.route.node, "POST", self._call.path, self._call.body, exchange.node_headers
        )

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._awaited = False
        if not self._over and not self._detach():
            self._end("cancelled")

    def abort(self) -> None:
        """The policy has given the node up."""
        self._loop.call_soon(self._fail, AttemptFailed("aborted", "the node was given up"))

    def close(self) -> None:
        """The gateway stops."""
        if not self._over:
            self._end("cancelled")

    # -- the node's answer -----------------------------------------------------------------------------------------

    def answer_head(self, status: int, content_type: str) -> None:
        """The headers have come."""
        self._status = status
        self._content_type = content_type
        if status == 200:
            self._call.headers(content_type)

    def answer_data(self, data: bytes) -> None:
        """Relay it."""
        if self._over:
            return
        if self._status != 200:
            self._refusal += data
            limit = self._exchange.relay.settings.refusal_limit_bytes
            if len(self._refusal) > limit:
                said = f"status {self._status} and an error of more than {limit} bytes"
                self._fail(AttemptFailed("error_record", said))
            return
        self._take(self._call.feed(data))

    def answer_end(self) -> None:
        """The answer is whole, as far as HTTP can tell."""
        if self._over:
            return
        if self._status == 200:
            self._take(self._call.end())
            return
        said = one_line(self._refusal.decode(errors="replace"))
        self._fail(
            AttemptFailed(
                status_error(self._status, self._refusal),
                f"status {self._status}: {said}",
                status=self._status,
                body=self._refusal,
                content_type=self._content_type,
            )
        )

    def answer_failed(self, failure: AttemptFailed) -> None:
        """There is no answer, or only a part."""
        self._fail(failure)

    def _take(self, part: bytes) -> None:
        call = self._call
        if call.records > self._records:  # blank lines and pieces of a line are no progress
            self._records = call.records
            if self._first_token_s != self._first_token_s:  # nan
                self._first_token_s = self._exchange.driver.now()
            if self._detached:  # the model is loaded, and nobody wants to hear what it says
                self._end("cancelled")
                return
            if call.limits_silence:
                self._limit_s = self._loop.time() + self.route.stall_timeout_s
                if self._limit_s < self._timer_s:
                    self._arm()
            else:
                self._limit_s = NEVER_S
        if call.complete:
            self.last = part
            self._end("succeeded")
            return
        if part:
            client = self._client
            self._exchange.send(part)
            if not client.writable and not client.holds_more and not client.gone:
                self._wait_for_client()
        if call.failure is not None:
            self._fail(call.failure)

    def _wait_for_client(self) -> None:
        """The client is so slow to read that no more can be kept for it. The node is not the one to blame, and has others to
        serve: it waits for a while, and the client is given up if it has not read by then."""
        if self._node is None or self._paused:
            return
        self._paused = True
        self._paused_s = self._loop.time()
        self._limit_s = self._paused_s + self._exchange.relay.settings.client_wait_s - self._waited_s
        self._node.pause()
        self._client.on_writable = self._client_reads
        self._arm()

    def _client_reads(self) -> None:
        self._paused = False
        self._waited_s += self._loop.time() - self._paused_s
        self._limit_s = NEVER_S
        if self._over or self._node is None:
            return
        if self._call.limits_silence:
            self._limit_s = self._loop.time() + self.route.stall_timeout_s
            self._arm()
        self._node.resume()

    # -- time ------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Have the timer fire at the limit or the deadline, or earlier: what fires too early is set again."""
        wanted_s = min(self._limit_s, self._deadline_s)
        if self._timer is not None:
            if self._timer_s <= wanted_s:
                return
            self._exchange.relay.timers.take_back(self._timer)
            self._timer = None
        self._timer_s = wanted_s
        if wanted_s != NEVER_S:
            self._timer = self._exchange.relay.timers.at(wanted_s, self._time_passed)

    def _time_passed(self) -> None:
        due_s, self._timer, self._timer_s = self._timer_s, None, NEVER_S
        now_s = self._loop.time() + TIMER_SLACK_S
        if now_s - due_s > LATE_S:
            # We are late ourselves: what the node has sent meanwhile is read after this call, and counts.
            self._limit_s = max(self._limit_s, now_s + LATE_S)
        if now_s >= self._deadline_s and not self._detached:
            failure = AttemptFailed("deadline", "the request's deadline passed")
            if self._detach():
                self.failure = failure
                self._exchange.failed(self, failure)
                self._wake()
            else:
                self._fail(failure)
        elif now_s >= self._limit_s:
            if self._paused:
                self._exchange.give_client_up()
            elif math.isnan(self._first_token_s):
                said = f"no token within {self.route.first_token_deadline_s:g} s"
                self._fail(AttemptFailed("first_token_timeout", said))
            else:
                said = f"no further token within {self.route.stall_timeout_s:g} s"
                self._fail(AttemptFailed("stall_timeout", said))
        else:
            self._arm()

    def _detach(self) -> bool:
        """Let a load go on though nobody waits for it: Ollama aborts it where its connection is closed.

        The next one who wants the model, and the policy, find it loading, or loaded.
        """
        if not self.route.loads or self._status or self._exchange.relay.stopping:
            return False
        self._detached = True
        self._deadline_s = NEVER_S
        self._limit_s = self._loop.time() + self._started_s + self.route.first_token_deadline_s
        self._limit_s -= self._exchange.driver.now()
        self._arm()
        return True

    # -- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, failure: AttemptFailed) -> None:
        if self._over:
            return
        if not self._detached:
            self.failure = failure
            self._exchange.failed(self, failure)
        self._end("failed", failure.error)
        if self._detached:  # its request has ended already, and does not come again
            self._exchange.driver.observe(RequestWithdrawn(self._exchange.spec.request_id))

    def _end(self, outcome: AttemptOutcome, error: AttemptError = "") -> None:
        self._over = True
        if self._timer is not None:
            self._exchange.relay.timers.take_back(self._timer)
        self._client.on_writable = None
        if self._node is not None:
            if outcome == "succeeded":
                self._node.finish()
            else:
                self._node.close()
        self._exchange.relay.leave(self)
        self._tell(outcome, error)
        self._wake()

    def _wake(self) -> None:
        if self._awaited:
            self._awaited = False
            self._exchange.attempt_ended()

    def failed_row(self, request_id: int, failure: AttemptFailed) -> FailedAttempt:
        """What the record keeps of it."""
        return FailedAttempt(
            request_id,
            self._number,
            self.route.node,
            self._started_s,
            self._first_token_s,
            self._exchange.driver.now(),
            failure.error,
            self._call.tokens,
            failure.detail,
        )

    def _tell(self, outcome: AttemptOutcome, error: AttemptError) -> None:
        exchange, call = self._exchange, self._call
        timings = call.timings
        if not self._detached:
            log = exchange.log
            log.tokens_received = call.tokens_before + call.tokens
            log.timings = timings
            if not call.client_streams:
                log.first_token_s = self._first_token_s
        load_s = timings.load_duration_s
        if self.route.loads and not load_s and not math.isnan(self._first_token_s):
            load_s = self._first_token_s - self._started_s  # not every dialect tells; it is not the node's pace
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
                load_s,
                timings.prompt_eval_duration_s,
                timings.eval_duration_s,
                timings.total_duration_s,
            )
        )
