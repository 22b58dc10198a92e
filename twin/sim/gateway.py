"""A gateway: the walk of a request through it, and its policy's turn.

A request: `offer` -> `Policy.route` -> node -> (deadline to the first token, stall timeout, as the route says) -> terminal
record or failure -> `Policy.observe` -> again `route` for another attempt, or the end -> record.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from twin.policy.vocabulary import (
    NEVER_S,
    Action,
    ActionResult,
    Advice,
    AttemptEnded,
    AttemptError,
    AttemptOutcome,
    Observation,
    Policy,
    Probe,
    Question,
    RequestWithdrawn,
    Route,
)
from twin.record.packing import NULL_CODE, NULL_INTEGER
from twin.sim.answers import Share, repeat_ratio
from twin.sim.flight import NAN, Flight
from twin.sim.hands import SimulatedHands
from twin.sim.probing import Probing
from twin.sim.runner import Job
from twin.sim.transport import Transport

if TYPE_CHECKING:
    from twin.sim.simulation import Simulation


class Gateway:
    """One gateway with its policy. `flights` holds the admitted requests that have not ended."""

    def __init__(self, simulation: Simulation, name: str, policy: Policy) -> None:
        self.simulation = simulation
        self.name = name
        self.policy = policy
        self.engine = simulation.engine
        self.recorder = simulation.recorder
        self.nodes = simulation.nodes
        self.paths = simulation.network.paths[name]
        self.flights: dict[int, Flight] = {}
        self.transport = Transport(self)
        self.probing = Probing(self)
        self._forgotten = Share()
        self.forgot_s = -NEVER_S  # when it last forgot an end
        self.hands = SimulatedHands(self)
        self._clients = simulation.clients
        watching = simulation.watching
        self._watch_on_dispatch = watching["on_dispatch"]
        self._watch_on_served = watching["on_served"]
        self._watch_on_request_end = watching["on_request_end"]
        self._watch_on_admitted = watching["on_admitted"]
        self._watch_on_action = watching["on_action"]
        self._watch_on_action_result = watching["on_action_result"]
        rows = simulation.request_rows
        self._add_request = simulation.recorder.requests.add
        self._pack_request = rows.pack
        self._model_codes = rows.codes["model"]
        self._outcome_codes = rows.codes["outcome"]
        self._error_codes = rows.codes["error"]
        self._node_codes = rows.codes["node"]
        self._answer_codes = rows.codes["answer"]
        self._gateway_code = rows.codes["gateway"].code(name)
        self._on_job_end = self._job_ended  # bound once: a job needs it
        self._deadlines: deque[Flight] = deque()
        self._deadline_armed = False
        self._wakeup_armed_s = NEVER_S
        self._deciding = False

    def start(self, phase_s: float) -> None:
        """Give the policy its first turn at that time."""
        self.engine.call_at(phase_s, self.wake)

    def withdraw_all(self, now: float, why: str) -> None:
        """The run is broken off: every request that is here is lost."""
        for flight in list(self.flights.values()):
            if flight.job is None:
                self.policy.observe(now, RequestWithdrawn(flight.spec.request_id))
            self._end_request(now, flight, "failed", why, None)

    # -- the walk of a request ------------------------------------------------------------------------------------

    def offer(self, now: float, flight: Flight) -> None:
        """A request arrives: it is admitted, or turned away at once."""
        spec = flight.spec
        route = self.policy.route(now, spec, 0)
        if route.kind == "shed":
            self._record_request(now, flight, "rejected", route.reason, admitted=False)
            self._clients.ended(now, flight, "rejected")
            return
        flight.gateway = self.name
        self.flights[spec.request_id] = flight
        for checker in self._watch_on_admitted:
            checker.on_admitted(now, flight)
        self._deadlines.append(flight)
        if not self._deadline_armed:
            self._deadline_armed = True
            self.engine.call_at(spec.deadline_s, self._look_at_deadlines)
        if route.kind == "dispatch":
            self._dispatch(now, flight, route)
        elif self.policy.next_wakeup() < self._wakeup_armed_s:
            self.arm_wakeup()

    def adopt(self, now: float, flight: Flight, node: str) -> None:
        """A request that is at a node already when the run starts."""
        self.flights[flight.spec.request_id] = flight
        for checker in self._watch_on_admitted:
            checker.on_admitted(now, flight)
        self.engine.call_at(flight.spec.deadline_s, partial(self._adopted_deadline, flight))
        self._dispatch(now, flight, self.policy.adopt(now, flight.spec, node))

    def _adopted_deadline(self, flight: Flight) -> None:
        if not flight.ended:
            self._deadline_passed(self.engine.now, flight)

    def _dispatch(self, now: float, flight: Flight, route: Route) -> None:
        """Send one attempt to the node of its route."""
        name = route.node
        flight.node = name
        flight.route = route
        flight.started_s = now
        if flight.dispatched_s != flight.dispatched_s:
            flight.dispatched_s = now
        for checker in self._watch_on_dispatch:
            checker.on_dispatch(now, flight, self.simulation)
        path = flight.path = self.paths[name]
        spec = flight.spec
        job = flight.job = Job(
            spec.model,
            spec.prompt_tokens,
            flight.output_tokens or 1,  # an embedding ends with its prefill
            self._on_job_end,
            flight,
            spec.context_tokens or route.context_tokens,
            spec.request_id,  # stands for what it says
            spec.session,
            flight.shared_tokens,
        )
        node = self.nodes[name]
        if not path.plain:
            self.transport.send(flight, job, node, path)
            return
        round_trip_s = flight.round_trip_s = path.round_trip_s
        if node.alive:
            node.submit(job)
            if (
                not job.first_token_s + round_trip_s <= now + route.first_token_deadline_s
                or path.silent_since_s != NEVER_S
            ):
                self.watch_first_token(flight, job)
        else:
            self.engine.call_at(now + round_trip_s, partial(self.refuse, flight, job))

    def refuse(self, flight: Flight, job: Job) -> None:
        """Nobody listens there."""
        if not job.abandoned:
            self.attempt_ended(flight, job, "refused")

    def _job_ended(self, job: Job, error: AttemptError) -> None:
        """A node is done with a job. What it says may not get through."""
        if job.abandoned:
            return
        flight = job.owner
        assert isinstance(flight, Flight)
        path = flight.path
        assert path is not None
        if not path.plain or flight.passage is not None:
            self.transport.node_ended(flight, job, error, path)
        elif error:
            self.transport.bad_news(flight, job, error, path)
        else:
            self.attempt_ended(flight, job, error)

    def attempt_ended(
        self, flight: Flight, job: Job, error: AttemptError, served_s: float | None = None, seen_s: float = NAN
    ) -> None:
        """The gateway knows how an attempt ended. Where the network held it up: `served_s`, when the node was done, and
        `seen_s`, when its first token got through."""
        now = self.engine.now
        spec = flight.spec
        job.abandoned = True  # whatever the node still says of it is of no interest
        flight.job = None
        first_token_s = job.first_token_s + flight.round_trip_s
        if served_s is None:
            served_s = now
        elif not math.isnan(seen_s):
            first_token_s = seen_s
        if not first_token_s <= now + flight.round_trip_s:
            first_token_s = NAN
        elif flight.first_token_s != flight.first_token_s:
            flight.first_token_s = first_token_s
        outcome: AttemptOutcome = "failed"
        if not error:
            outcome = "succeeded"
        elif error == "deadline":
            outcome = "cancelled"
        load_s = job.loaded_s - job.submitted_s
        ended = AttemptEnded(
            spec.request_id,
            flight.attempt,
            flight.node,
            spec.model,
            outcome,
            error,
            flight.started_s,
            first_token_s,
            job.tokens,
            load_s if load_s >= 0.0 else 0.0,
            job.first_token_s - job.joined_s if not error else 0.0,  # others' prefills included, as Ollama counts
            served_s - job.first_token_s if not error else 0.0,
            served_s - job.submitted_s if not error else 0.0,
            self._prompt_eval_count(flight, job) if not error else 0,
            repeat_ratio(spec.request_id, job.answer),
        )
        flight.answer = job.answer
        flight.reached_s = job.submitted_s
        flight.served_s = served_s
        if error != "deadline" or not self._is_forgotten():
            self.policy.observe(now, ended)
        if not error:
            for checker in self._watch_on_served:
                checker.on_served(now, flight, self.simulation)
            self._end_request(now, flight, "succeeded", "", ended)
        else:
            flight.error = error
            self.recorder.attempts.add(
                (spec.request_id, flight.attempt, flight.node, flight.started_s, first_token_s, now, error, job.tokens)
            )
            if error == "deadline":
                self._end_request(now, flight, "deadline", error, ended)
            else:
                flight.attempt += 1
                self._take(now, flight, self.policy.route(now, spec, flight.attempt))
        self.observed(now)

    def _prompt_eval_count(self, flight: Flight, job: Job) -> int:
        node = self.nodes[flight.node]
        return node.answers.prompt_eval_count(job) if node.conditions.disturbed else job.prompt_tokens

    def _is_forgotten(self) -> bool:
        """Whether the gateway fails to notice that a client went away, and so never takes its attempt off the books."""
        share = self.simulation.conditions.values["ends_forgotten_share"]
        if share <= 0.0 or not self._forgotten.takes(share):
            return False
        self.forgot_s = self.engine.now
        return True

    def _take(self, now: float, flight: Flight, route: Route) -> None:
        """Do what the policy says of an admitted request."""
        if route.kind == "dispatch":
            self._dispatch(now, flight, route)
        elif route.kind == "shed":
            self._end_request(now, flight, "failed", route.reason, None)

    def _end_request(self, now: float, flight: Flight, outcome: str, error: str, ended: AttemptEnded | None) -> None:
        flight.ended = True
        self.flights.pop(flight.spec.request_id, None)
        for checker in self._watch_on_request_end:
            checker.on_request_end(now, flight, outcome)
        self._record_request(now, flight, outcome, error, admitted=True, ended=ended)
        self._clients.ended(now, flight, outcome)

    # -- the limits of a route, and the request's own -------------------------------------------------------------

    def watch_first_token(self, flight: Flight, job: Job) -> None:
        """Have an attempt given up where its first token does not come in time."""
        assert flight.route is not None
        limit_s = flight.route.first_token_deadline_s
        if limit_s != NEVER_S and flight.output_tokens:  # an embedding has no first token
            self.engine.call_at(flight.started_s + limit_s, partial(self._first_token_due, flight, job))

    def _first_token_due(self, flight: Flight, job: Job) -> None:
        if job.abandoned:
            return
        first_token_s = job.first_token_s if flight.passage is None else flight.passage.first_token_s
        silent_since_s = self.paths[flight.node].silent_since_s
        if first_token_s <= self.engine.now and silent_since_s == NEVER_S:
            return
        if first_token_s <= silent_since_s:
            return  # it has its first token; a stall is another limit's
        self.give_up(flight, job, "first_token_timeout")

    def fell_silent(self, node: str) -> None:
        """From now on nothing more comes from the node: every attempt there is watched."""
        now = self.engine.now
        self.probing.fell_silent(node)
        for flight in list(self.flights.values()):
            job = flight.job
            if job is None or flight.node != node or flight.route is None:
                continue
            first_token_s = job.first_token_s if flight.passage is None else flight.passage.first_token_s
            if not first_token_s <= now:
                self.watch_first_token(flight, job)
            elif flight.route.stall_timeout_s != NEVER_S:
                since_s = self.paths[node].silent_since_s
                due_s = now + flight.route.stall_timeout_s
                self.engine.call_at(due_s, partial(self._stalled, flight, job, since_s))

    def _stalled(self, flight: Flight, job: Job, since_s: float) -> None:
        if not job.abandoned and self.paths[flight.node].silent_since_s == since_s:
            self.give_up(flight, job, "stall_timeout")

    def cancel(self, flight: Flight) -> None:
        """The client closed its connection: so does the gateway, which says nothing of the node."""
        now = self.engine.now
        job = flight.job
        ended: AttemptEnded | None = None
        spec = flight.spec
        if job is None:
            self.policy.observe(now, RequestWithdrawn(spec.request_id))
        else:
            self._hang_up(flight, job)
            flight.job = None
            first_token_s = job.first_token_s + flight.round_trip_s
            if not first_token_s <= now:
                first_token_s = NAN
            elif flight.first_token_s != flight.first_token_s:
                flight.first_token_s = first_token_s
            ended = AttemptEnded(
                spec.request_id,
                flight.attempt,
                flight.node,
                spec.model,
                "cancelled",
                "",
                flight.started_s,
                first_token_s,
                job.tokens,
            )
            self.policy.observe(now, ended)
        self._end_request(now, flight, "cancelled", "", ended)
        self.observed(now)

    def has_first_token(self, flight: Flight) -> bool:
        """Whether the client of a request has the first token by now."""
        now, job = self.engine.now, flight.job
        if flight.first_token_s <= now:
            return True
        if job is None or not job.first_token_s + flight.round_trip_s <= now:
            return False
        return job.first_token_s <= self.paths[flight.node].silent_since_s

    def give_up(self, flight: Flight, job: Job, error: AttemptError) -> None:
        """The gateway closes its connection of an attempt that goes on too long."""
        self._hang_up(flight, job)
        self.attempt_ended(flight, job, error)

    def _hang_up(self, flight: Flight, job: Job) -> None:
        node = self.nodes[flight.node]
        path = self.paths[flight.node]
        job.tokens = job.runner.tokens_of(job, self.engine.now) if job.runner is not None else job.tokens
        if flight.passage is not None:
            flight.passage.break_off()
        elif not job.first_token_s <= path.silent_since_s:
            job.tokens, job.first_token_s = 0, NAN  # made or not, it did not get through
        job.abandoned = True
        if path.requests_pass and node.alive:
            node.cancel(job)  # through a cut path the node does not learn of it, and works on

    def _look_at_deadlines(self) -> None:
        now = self.engine.now
        deadlines = self._deadlines
        while deadlines:
            flight = deadlines[0]
            if not flight.ended:
                if flight.spec.deadline_s > now:
                    self.engine.call_at(flight.spec.deadline_s, self._look_at_deadlines)
                    return
                self._deadline_passed(now, flight)
            deadlines.popleft()
        self._deadline_armed = False

    def _deadline_passed(self, now: float, flight: Flight) -> None:
        if flight.job is not None:
            self.give_up(flight, flight.job, "deadline")
        else:
            flight.error = "deadline"
            self.policy.observe(now, RequestWithdrawn(flight.spec.request_id))
            self._end_request(now, flight, "deadline", "deadline", None)

    # -- the policy's turn ----------------------------------------------------------------------------------------

    def observed(self, now: float) -> None:
        """After an observation: who waits may go, and the policy may want to be woken earlier."""
        policy = self.policy
        if policy.waiting:
            self._release(now)
        if policy.next_wakeup() < self._wakeup_armed_s:
            self.arm_wakeup()

    def observe(self, observation: Observation) -> None:
        """Tell the policy something, and let it react."""
        now = self.engine.now
        if type(observation) is ActionResult:
            for checker in self._watch_on_action_result:
                checker.on_action_result(now, observation, self.name)
        self.policy.observe(now, observation)
        self.observed(now)

    def _release(self, now: float) -> None:
        for request_id, route in self.policy.released(now):
            self._take(now, self.flights[request_id], route)

    def arm_wakeup(self) -> None:
        """Have the policy woken when it wants to be."""
        due_s = self.policy.next_wakeup()
        if due_s == NEVER_S or self._deciding:
            return
        due_s = max(due_s, self.engine.now)
        self._wakeup_armed_s = due_s
        self.engine.call_at(due_s, partial(self._wake_at, due_s))

    def _wake_at(self, due_s: float) -> None:
        if due_s == self._wakeup_armed_s:
            self.wake()

    def wake(self) -> None:
        """The policy's turn."""
        now = self.engine.now
        self._wakeup_armed_s = NEVER_S
        self._deciding = True
        if self.policy.waiting:
            self._release(now)
        for command in self.policy.decide(now):
            if isinstance(command, Probe):
                self.probing.perform(command)
            elif isinstance(command, Question):
                self._ask(now, command)
            else:
                self._perform(now, command)
        self._deciding = False
        if self.policy.waiting:
            self._release(now)
        self.arm_wakeup()

    def _ask(self, now: float, question: Question) -> None:
        """Have somebody simulate what might be done. It is answered after the policy's turn, as whatever takes time is."""
        advise = self.simulation.advise
        if advise is None:
            advice = Advice(question.question_id, question.node, "unavailable", {}, "nobody here can look ahead")
        else:
            advice = advise(self.simulation, question)
        self.engine.call_at(now, partial(self.observe, advice))

    def _perform(self, now: float, action: Action) -> None:
        holder = self.simulation.coordination.holder_instead_of(self.name, action, now)
        if holder:
            self.hands.refuse(action, f"{holder} holds the lease")
            return
        for checker in self._watch_on_action:
            checker.on_action(now, action, self.simulation, self.name)
        self.hands.perform(action)

    # -- the record -----------------------------------------------------------------------------------------------

    def _record_request(
        self,
        now: float,
        flight: Flight,
        outcome: str,
        error: str,
        *,
        admitted: bool,
        ended: AttemptEnded | None = None,
    ) -> None:
        spec = flight.spec
        succeeded = ended is not None and outcome == "succeeded"
        has_tokens = flight.output_tokens > 0
        load_s = prompt_eval_s = eval_s = total_s = NAN
        prompt_eval_count = tokens = 0
        attempts = flight.attempt
        if ended is not None:
            attempts += 1
            prompt_eval_count = ended.prompt_eval_count
            if has_tokens:
                tokens = ended.tokens
            if succeeded:
                load_s = ended.load_duration_s
                prompt_eval_s = ended.prompt_eval_duration_s
                eval_s = ended.eval_duration_s
                total_s = ended.total_duration_s
        self._add_request(
            self._pack_request(
                spec.request_id,
                self._model_codes.code(spec.model),
                spec.arrival_s,
                spec.deadline_s,
                spec.stream,
                spec.prompt_tokens,
                flight.output_tokens,
                admitted,
                self._outcome_codes.code(outcome),
                self._error_codes.code(error),
                self._node_codes.code(flight.node) if flight.node else NULL_CODE,
                attempts,
                flight.dispatched_s,
                flight.first_token_s if has_tokens else NAN,
                now + flight.round_trip_s if succeeded else now,
                tokens,
                load_s,
                prompt_eval_s,
                eval_s,
                total_s,
                prompt_eval_count,
                self._answer_codes.code(flight.answer) if succeeded else NULL_CODE,
                self._gateway_code,
                spec.session,
                NULL_INTEGER if flight.retry_of is None else flight.retry_of,
            )
        )
        if not spec.request_id & 0x3FF:
            self.recorder.flush_if_large()
