"""How attempts travel over paths that are not plain: slow, lossy, narrow, cut or refusing ones.

What a gateway does over a plain path it does itself, without an event. Everything else is here:

- over a slow path a request takes the whole round trip before it arrives, and its answer none: the client sees the same;
- over a path that carries bytes slowly or loses them, an attempt is a `Passage`: prompt up, first token down, the rest
  at the pace of node and link, whichever is slower. The node works at its own pace (its socket takes what is not sent);
- requests do not arrive where they are blocked, and are lost there; answers that are blocked are held back, and come out
  when the path is mended (TCP sends again);
- where the path refuses, a new attempt is refused and those under way are reset.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from twin.policy.vocabulary import NEVER_S, AttemptError
from twin.sim.flight import NAN, Flight
from twin.sim.network import INLINE_ROUND_TRIP_S, SEGMENT_BYTES, Path
from twin.sim.node import OllamaNode
from twin.sim.runner import Job
from twin.sim.traffic import MESSAGE_BYTES, PROMPT_TOKEN_BYTES, TOKEN_BYTES, Transfer

if TYPE_CHECKING:
    from twin.sim.gateway import Gateway

LOOK_AGAIN_S: Final = 0.05
"""How often a job that waits for its slot is looked at, whether its first token has come."""

BREAKS_OFF: Final = frozenset({"reset", "error_record", "no_terminal_record"})
"""Errors of a connection that was open."""


class Transport:
    """The attempts of one gateway over its paths."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.engine = gateway.engine
        self.traffic = gateway.simulation.traffic
        self._known = {node: (path.answers_pass, path.refuses) for node, path in gateway.paths.items()}

    # -- one attempt ----------------------------------------------------------------------------------------------

    def send(self, flight: Flight, job: Job, node: OllamaNode, path: Path) -> None:
        """Send an attempt over a path that is not plain."""
        gateway = self.gateway
        now = self.engine.now
        flight.round_trip_s = 0.0
        if not path.requests_pass:
            gateway.watch_first_token(flight, job)
        elif path.refuses:
            self.engine.call_at(now + path.round_trip_s, partial(gateway.refuse, flight, job))
        elif path.carries:
            Passage(self, flight, job, node, path).start()
            gateway.watch_first_token(flight, job)
        else:
            trip_s = path.trip_s()
            if trip_s >= INLINE_ROUND_TRIP_S or not node.alive:
                self.engine.call_at(now + trip_s, partial(self._arrive, flight, job, node, path))
                gateway.watch_first_token(flight, job)
            else:
                flight.round_trip_s = trip_s
                node.submit(job)
                assert flight.route is not None
                due_s = now + flight.route.first_token_deadline_s
                if not job.first_token_s + trip_s <= due_s or path.silent_since_s != NEVER_S:
                    gateway.watch_first_token(flight, job)

    def _arrive(self, flight: Flight, job: Job, node: OllamaNode, path: Path) -> None:
        self.reach(flight, job, node, path)

    def reach(self, flight: Flight, job: Job, node: OllamaNode, path: Path) -> bool:
        """A request that took its time on the network arrives. Whether the node took it."""
        if job.abandoned or not path.requests_pass:
            return False
        if node.alive:
            node.submit(job)
            return True
        if path.answers_pass:
            self.gateway.refuse(flight, job)
        return False

    def node_ended(self, flight: Flight, job: Job, error: AttemptError, path: Path) -> None:
        """A node is done with a job."""
        if flight.passage is not None:
            flight.passage.node_ended(error)
        elif error:
            self.bad_news(flight, job, error, path)
        else:
            self.deliver(flight, job, error, path, self.engine.now)

    def bad_news(self, flight: Flight, job: Job, error: AttemptError, path: Path) -> None:
        """An attempt failed at its node. A connection that breaks is noticed when its last segment has come: half a round
        trip; an answer that says so takes what of the round trip has not been spent on the way there."""
        now = self.engine.now
        trip_s = path.round_trip_s / 2.0 if error in BREAKS_OFF else flight.round_trip_s
        if trip_s > 0.0:
            self.engine.call_at(now + trip_s, partial(self.deliver, flight, job, error, path, now))
        else:
            self.deliver(flight, job, error, path, now)

    def deliver(self, flight: Flight, job: Job, error: AttemptError, path: Path, served_s: float) -> None:
        """The end of an answer is at the gateway's door. `served_s`: when the node was done with it."""
        if job.abandoned:
            return
        if not path.answers_pass:
            path.held_back.append(partial(self.deliver, flight, job, error, path, served_s))
            return
        seen_s = flight.first_token_s
        if flight.passage is not None:
            seen_s = flight.passage.first_token_s
            flight.passage.close()
            flight.passage = None
        self.gateway.attempt_ended(flight, job, error, served_s, seen_s)

    # -- changes of a path ----------------------------------------------------------------------------------------

    def changed(self, path: Path) -> None:
        """A fault began or ended on the path: what is under way notices."""
        answers_passed, refused = self._known[path.node]
        self._known[path.node] = (path.answers_pass, path.refuses)
        if path.refuses and not refused:
            self.reset(path)
        for flight in list(self.gateway.flights.values()):
            if flight.node == path.node and flight.job is not None:
                if flight.passage is not None:
                    flight.passage.path_changed()
                elif path.carries and flight.job.submitted_s == flight.job.submitted_s:
                    Passage(self, flight, flight.job, self.gateway.nodes[path.node], path).join()
        if answers_passed and not path.answers_pass:
            self.fell_silent(path)
        elif path.answers_pass and not answers_passed:
            self._tokens_arrive(path)
            self.spoke(path)
            held_back, path.held_back = path.held_back, []
            for deliver in held_back:
                deliver()

    def _tokens_arrive(self, path: Path) -> None:
        """First tokens that were made behind the cut are seen now."""
        now = self.engine.now
        for flight in self.gateway.flights.values():
            job = flight.job
            if job is None or flight.node != path.node or flight.passage is not None:
                continue
            if flight.first_token_s != flight.first_token_s and path.silent_since_s < job.first_token_s <= now:
                flight.first_token_s = now

    def reset(self, path: Path) -> None:
        """Connections that are open on the path break, on both sides."""
        path.held_back = []
        for flight in list(self.gateway.flights.values()):
            if flight.node == path.node and flight.job is not None:
                self.gateway.give_up(flight, flight.job, "reset")

    def fell_silent(self, path: Path) -> None:
        """From now on nothing comes from the node."""
        if path.silent_since_s == NEVER_S:
            path.silent_since_s = self.engine.now
        self.gateway.fell_silent(path.node)

    def spoke(self, path: Path) -> None:
        """Something may have ended the silence: it has, if neither the path nor a runner is silent any more."""
        runners = self.gateway.nodes[path.node].runners.values()
        if path.answers_pass and not any(runner.paused for runner in runners):
            path.silent_since_s = NEVER_S


class Passage:
    """One attempt over a path that carries bytes slowly or loses them."""

    __slots__ = (
        "_error",
        "_job",
        "_node",
        "_node_ended",
        "_path",
        "_sent_bytes",
        "_served_s",
        "_transfer",
        "_transport",
        "first_token_s",
        "flight",
    )

    def __init__(self, transport: Transport, flight: Flight, job: Job, node: OllamaNode, path: Path) -> None:
        self.flight = flight
        self.first_token_s = NAN  # at the gateway
        self._served_s = NAN  # when the node was done
        self._transport = transport
        self._job = job
        self._node = node
        self._path = path
        self._transfer: Transfer | None = None
        self._sent_bytes = 0.0  # of the answer, before the present transfer
        self._node_ended = False
        self._error: AttemptError = ""
        flight.passage = self

    # -- there ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the prompt."""
        size = self._prompt_bytes()
        self._transfer = self._transport.traffic.begin(self._path.request_lanes, size, self._uploaded)

    def _prompt_bytes(self) -> int:
        return MESSAGE_BYTES + self.flight.spec.prompt_tokens * PROMPT_TOKEN_BYTES

    def _uploaded(self) -> None:
        self.close()
        segments = 1 + self._prompt_bytes() // SEGMENT_BYTES
        delay_s = self._path.trip_s() + self._path.loss_delay_s(segments)
        self._transport.engine.call_at(self._transport.engine.now + delay_s, self._reach)

    def _reach(self) -> None:
        if self._transport.reach(self.flight, self._job, self._node, self._path):
            self._await_first_token()

    def join(self) -> None:
        """The path became bad while the node was at work."""
        made = self._made()
        if made:
            self.first_token_s = self._job.first_token_s + self.flight.round_trip_s
            self._sent_bytes = float(made * TOKEN_BYTES)
            self._download()
            if self._path.loss:
                self._plan_a_stall()
        else:
            self._await_first_token()

    # -- and back -------------------------------------------------------------------------------------------------

    def _made(self) -> int:
        """Tokens that exist at the node."""
        job = self._job
        return job.runner.tokens_of(job, self._transport.engine.now) if job.runner is not None else job.tokens

    def _await_first_token(self) -> None:
        if self._job.abandoned or self._transfer is not None or self._node_ended:
            return
        now = self._transport.engine.now
        if self._made():
            self._download()
        else:
            first_s = self._job.first_token_s
            self._transport.engine.call_at(first_s if first_s > now else now + LOOK_AGAIN_S, self._await_first_token)

    def _download(self) -> None:
        """Tokens flow. The first one is looked at, and what is left when the node is done."""
        traffic, lanes = self._transport.traffic, self._path.answer_lanes
        if self.first_token_s != self.first_token_s:
            self._transfer = traffic.begin(lanes, TOKEN_BYTES, self._first_carried)
        elif not self._node_ended:
            self._transfer = traffic.begin(lanes, NEVER_S, None)
        else:
            self._transfer = traffic.begin(lanes, max(1.0, self._answer_bytes() - self._sent_bytes), self._carried)

    def _first_carried(self) -> None:
        assert self._transfer is not None
        self._transfer.goal = NEVER_S  # what follows it has no end so far
        delay_s = self._path.loss_delay_s()
        self._transport.engine.call_at(self._transport.engine.now + delay_s, self._first_arrived)

    def _first_arrived(self) -> None:
        if self._job.abandoned or self.first_token_s == self.first_token_s:
            return
        if not self._path.answers_pass:
            self._path.held_back.append(self._first_arrived)
            return
        self.first_token_s = self._transport.engine.now
        if self._node_ended:
            self._send_the_rest()
        elif self._path.loss:
            self._plan_a_stall()

    def node_ended(self, error: AttemptError) -> None:
        """The node has said its last word."""
        self._served_s = self._transport.engine.now
        self._node_ended, self._error = True, error
        if self._transfer is None:
            if self._job.tokens:
                self._download()
            else:
                self._transfer = self._transport.traffic.begin(self._path.answer_lanes, MESSAGE_BYTES, self._carried)
        elif self.first_token_s == self.first_token_s:
            self._send_the_rest()

    def _answer_bytes(self) -> float:
        return float(self._job.tokens * TOKEN_BYTES + MESSAGE_BYTES)

    def _send_the_rest(self) -> None:
        assert self._transfer is not None
        left = max(1.0, self._answer_bytes() - self._sent_bytes)
        self._transport.traffic.extend(self._transfer, left, self._carried)

    def _carried(self) -> None:
        self.close()
        delay_s = self._path.loss_delay_s()
        if delay_s:
            self._transport.engine.call_at(self._transport.engine.now + delay_s, self._deliver)
        else:
            self._deliver()

    def _deliver(self) -> None:
        self._transport.deliver(self.flight, self._job, self._error, self._path, self._served_s)

    def _plan_a_stall(self) -> None:
        """The longest gap that losses make in the stream: where it is beyond the route's limit, the attempt ends in it.

        A stream of n tokens, each a segment of its own, has n chances of losses in a row; the tokens that are made
        during a delay travel together afterwards, so that it has fewer where delays are longer than a step.
        """
        job, route, path = self._job, self.flight.route, self._path
        assert route is not None
        if route.stall_timeout_s == NEVER_S or job.runner is None:
            return
        step_s = job.runner.step_s[max(job.runner.count, 1) - 1] * job.runner.slowdown
        tokens_left = job.output_tokens - self._made()
        segments = max(1, round(tokens_left * step_s / (step_s + path.loss_delay_mean_s())))
        gap_s = path.retransmitted_s(path.losses_in_a_row(segments))
        place_s = path.draw() * tokens_left * step_s
        if gap_s > route.stall_timeout_s:
            due_s = self._transport.engine.now + place_s + route.stall_timeout_s
            self._transport.engine.call_at(due_s, self._stalled)

    def _stalled(self) -> None:
        if not self._job.abandoned:
            self._transport.gateway.give_up(self.flight, self._job, "stall_timeout")

    # -- what others want to know ---------------------------------------------------------------------------------

    def break_off(self) -> None:
        """The gateway gives the attempt up: what it has by now is what counts."""
        self._job.tokens = self._tokens_arrived()
        self._job.first_token_s = self.first_token_s
        self.close()
        self.flight.passage = None

    def _tokens_arrived(self) -> int:
        if self.first_token_s != self.first_token_s:
            return 0
        sent = self._sent_bytes
        if self._transfer is not None:
            sent += self._transport.traffic.carried(self._transfer)
        made = self._made()
        return made if sent >= made * TOKEN_BYTES else max(1, int(sent // TOKEN_BYTES))

    def path_changed(self) -> None:
        """Another width, other lanes: what flows goes on over them."""
        transfer = self._transfer
        if transfer is None:
            return
        traffic = self._transport.traffic
        carried = traffic.carried(transfer)
        traffic.end(transfer)
        lanes = self._path.request_lanes if transfer.on_goal == self._uploaded else self._path.answer_lanes
        if transfer.goal == NEVER_S:  # what could have been carried beyond what there was is no credit for later
            self._sent_bytes = min(self._sent_bytes + carried, float(self._made() * TOKEN_BYTES))
            self._transfer = traffic.begin(lanes, NEVER_S, None)
        elif transfer.on_goal is not None:
            self._transfer = traffic.begin(lanes, max(1.0, transfer.goal - carried), transfer.on_goal)

    def close(self) -> None:
        """Nothing is sent any more."""
        if self._transfer is not None:
            self._transport.traffic.end(self._transfer)
            self._transfer = None
