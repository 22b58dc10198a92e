"""One simulated run: the walk of a request and the walk of a fault, and who is told of them.

A request: arrival -> `Policy.route` -> node -> (deadline to the first token, stall timeout, as the route says) -> terminal
record or failure -> `Policy.observe` -> again `route` for another attempt, or the end -> record.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from twin.policy.parameters import Parameters
from twin.policy.vocabulary import (
    NEVER_S,
    Action,
    AttemptEnded,
    AttemptError,
    AttemptOutcome,
    Observation,
    OperatorOrder,
    Policy,
    Probe,
    RequestSpec,
    RequestWithdrawn,
    Route,
)
from twin.record.rows import incident_row
from twin.record.writer import Recorder
from twin.scenario.abort import AbortWatch
from twin.scenario.draws import Arrival, arrivals, stream
from twin.scenario.schema import Scenario
from twin.sim.checkers import all_checkers
from twin.sim.checkers.base import HOOKS, Checker
from twin.sim.engine import Engine
from twin.sim.hands import SimulatedHands
from twin.sim.injection import Injection
from twin.sim.network import SimulatedNetwork
from twin.sim.node import ModelOnNode, OllamaNode
from twin.sim.probing import Probing
from twin.sim.runner import Job

INLINE_ROUND_TRIP_S = 0.002
"""A round trip shorter than this is added to what the client sees, without an event of its own; what it leaves out is
that the slot at the node is taken and freed that much later."""

NAN = math.nan


class Flight:
    """A request on its way: what the world knows of it."""

    __slots__ = (
        "attempt",
        "dispatched_s",
        "ended",
        "error",
        "first_token_s",
        "job",
        "node",
        "output_tokens",
        "round_trip_s",
        "route",
        "spec",
        "started_s",
    )

    def __init__(self, spec: RequestSpec, output_tokens: int) -> None:
        self.spec = spec
        self.output_tokens = output_tokens
        self.attempt = 0
        self.error: AttemptError = ""  # of the last failed attempt
        self.node = ""
        self.route: Route | None = None
        self.job: Job | None = None  # None between attempts, and while a cut path swallows the request
        self.dispatched_s = NAN
        self.started_s = NAN  # of this attempt
        self.first_token_s = NAN  # as the client saw it, in whichever attempt
        self.round_trip_s = 0.0
        self.ended = False


class Simulation:
    """Runs a scenario once. `nodes`, `network` and `flights` are the truth; the policy sees none of them."""

    def __init__(
        self, scenario: Scenario, seed: int, policy: Policy, recorder: Recorder, *, parameters: Parameters
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.policy = policy
        self.parameters = parameters
        self.recorder = recorder
        self.engine = Engine()
        self.network = SimulatedNetwork(scenario.cluster.node_names(), scenario.cluster.network.latency_ms)
        self.nodes = _nodes(self.engine, scenario)
        self.flights: dict[int, Flight] = {}
        self.probing = Probing(self)
        self.hands = SimulatedHands(self)
        self.injection = Injection(self)
        self.checkers: list[Checker] = all_checkers()
        self._hooks = _hooks(self.checkers)
        self._on_dispatch = self._hooks["on_dispatch"]
        self._on_served = self._hooks["on_served"]
        self._on_request_end = self._hooks["on_request_end"]
        self._on_admitted = self._hooks["on_admitted"]
        self.aborted = ""  # why the run was broken off
        self.requests = 0
        self._arrivals: Iterator[Arrival] = iter(())
        self._next: Arrival | None = None
        self._deadline_s = scenario.workload.deadline_s
        self._deadlines: deque[Flight] = deque()
        self._deadline_armed = False
        self._wakeup_armed_s = NEVER_S
        self._deciding = False
        self._busy_s = dict.fromkeys(self.nodes, 0.0)
        self._sampled_s = 0.0
        self._abort = AbortWatch(scenario)

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end of the load and of every request."""
        # The controller's periods have nothing to do with the time of a fault: its first turn comes at a random phase.
        phase_s = float(stream(self.seed, "policy:phase").random()) * self.parameters.probes.period_s
        self.engine.call_at(phase_s, self._wake)
        self.injection.schedule()
        for order in self.scenario.orders:
            self.engine.call_at(order.at_s, partial(self.observe, OperatorOrder(order.node, order.order)))
        self._arrivals = arrivals(self.scenario, self.seed)
        self._next = next(self._arrivals, None)
        if self._next is not None:
            self.engine.call_at(self._next.arrival_s, self._arrive)
        self.engine.call_at(self.scenario.record.telemetry_period_s, self._sample)
        self.engine.call_at(self.scenario.end_of_load_s, self._end_if_done)
        self.engine.run_calls()
        now = self.engine.now
        self.injection.teardown(now)
        for hook in self._hooks["at_end"]:
            hook(now, self)
        for incident in self.policy.incidents:
            self.recorder.incidents.add(incident_row(incident))
        self.probing.count()

    def _end_if_done(self) -> None:
        if self.aborted or (self._next is None and not self.flights and self.engine.now >= self.scenario.end_of_load_s):
            self.engine.finish()

    def works(self, node: str) -> bool:
        """Whether a node can truly generate now."""
        it = self.nodes[node]
        return it.alive and not any(runner.paused for runner in it.runners.values())

    # -- the walk of a request ------------------------------------------------------------------------------------

    def _arrive(self) -> None:
        arrival = self._next
        assert arrival is not None
        now = arrival.arrival_s
        self.requests += 1
        following = self._next = next(self._arrivals, None)
        if following is not None:
            self.engine.call_at(following.arrival_s, self._arrive)
        spec = RequestSpec(
            self.requests, arrival.model, arrival.prompt_tokens, arrival.stream, now, now + self._deadline_s
        )
        flight = Flight(spec, arrival.output_tokens)
        route = self.policy.route(now, spec, 0)
        if route.kind == "shed":
            self._record_request(now, flight, "rejected", route.reason, admitted=False)
            self._end_if_done()
            return
        self.flights[spec.request_id] = flight
        for hook in self._on_admitted:
            hook(now, flight)
        self._deadlines.append(flight)
        if not self._deadline_armed:
            self._deadline_armed = True
            self.engine.call_at(spec.deadline_s, self._look_at_deadlines)
        if route.kind == "dispatch":
            self._dispatch(now, flight, route)
        elif self.policy.next_wakeup() < self._wakeup_armed_s:
            self.arm_wakeup()

    def _dispatch(self, now: float, flight: Flight, route: Route) -> None:
        """Send one attempt to the node of its route."""
        name = route.node
        flight.node = name
        flight.route = route
        flight.started_s = now
        if flight.dispatched_s != flight.dispatched_s:
            flight.dispatched_s = now
        for hook in self._on_dispatch:
            hook(now, flight, self)
        path = self.network.paths[name]
        spec = flight.spec
        job = flight.job = Job(
            spec.model, spec.prompt_tokens, flight.output_tokens, self._job_ended, flight, spec.context_tokens
        )
        if path.cut:
            self._watch_first_token(flight, job)
            return
        round_trip_s = flight.round_trip_s = path.round_trip_s
        node = self.nodes[name]
        if round_trip_s >= INLINE_ROUND_TRIP_S:
            flight.round_trip_s = 0.0
            self.engine.call_at(now + round_trip_s, partial(self._reach, flight, job, node))
            self._watch_first_token(flight, job)
        elif node.alive:
            node.submit(job)
            if not job.first_token_s + round_trip_s <= now + route.first_token_deadline_s or self.injection.silent(
                name
            ):
                self._watch_first_token(flight, job)
        else:
            self.engine.call_at(now + round_trip_s, partial(self._refuse, flight, job))

    def _reach(self, flight: Flight, job: Job, node: OllamaNode) -> None:
        """A request that took its time on the network arrives."""
        if job.abandoned or self.network.paths[node.name].cut:
            return
        if node.alive:
            node.submit(job)
        else:
            self._refuse(flight, job)

    def _refuse(self, flight: Flight, job: Job) -> None:
        if not job.abandoned:
            self._attempt_ended(flight, job, "refused")

    def _job_ended(self, job: Job, error: AttemptError) -> None:
        """A node is done with a job. What it says may not get through."""
        if job.abandoned:
            return
        flight = job.owner
        assert isinstance(flight, Flight)
        if self.network.paths[flight.node].cut:
            self.injection.hold_back(flight.node, partial(self._job_ended, job, error))
            return
        self._attempt_ended(flight, job, error)

    def _attempt_ended(self, flight: Flight, job: Job, error: AttemptError) -> None:
        """The gateway knows how an attempt ended."""
        now = self.engine.now
        spec = flight.spec
        job.abandoned = True  # whatever the node still says of it is of no interest
        flight.job = None
        first_token_s = job.first_token_s + flight.round_trip_s
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
            now - job.first_token_s if not error else 0.0,
            now - job.submitted_s if not error else 0.0,
        )
        self.policy.observe(now, ended)
        if not error:
            for hook in self._on_served:
                hook(now, flight, self)
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

    def _take(self, now: float, flight: Flight, route: Route) -> None:
        """Do what the policy says of an admitted request."""
        if route.kind == "dispatch":
            self._dispatch(now, flight, route)
        elif route.kind == "shed":
            self._end_request(now, flight, "failed", route.reason, None)

    def _end_request(self, now: float, flight: Flight, outcome: str, error: str, ended: AttemptEnded | None) -> None:
        flight.ended = True
        self.flights.pop(flight.spec.request_id, None)
        for hook in self._on_request_end:
            hook(now, flight, outcome)
        self._abort.ended(now, outcome == "succeeded")
        self._record_request(now, flight, outcome, error, admitted=True, ended=ended)
        if self._next is None:
            self._end_if_done()

    # -- the limits of a route, and the request's own -------------------------------------------------------------

    def _watch_first_token(self, flight: Flight, job: Job) -> None:
        assert flight.route is not None
        limit_s = flight.route.first_token_deadline_s
        if limit_s != NEVER_S:
            self.engine.call_at(flight.started_s + limit_s, partial(self._first_token_due, flight, job))

    def _first_token_due(self, flight: Flight, job: Job) -> None:
        if job.abandoned:
            return
        if job.first_token_s <= self.engine.now and not self.injection.silent(flight.node):
            return
        if job.first_token_s <= self.injection.silent_since_s(flight.node):
            return  # it has its first token; a stall is another limit's
        self.give_up(flight, job, "first_token_timeout")

    def fell_silent(self, node: str) -> None:
        """From now on nothing more comes from the node: every attempt there is watched."""
        now = self.engine.now
        for flight in list(self.flights.values()):
            job = flight.job
            if job is None or flight.node != node or flight.route is None:
                continue
            if not job.first_token_s <= now:
                self._watch_first_token(flight, job)
            elif flight.route.stall_timeout_s != NEVER_S:
                since_s = self.injection.silent_since_s(node)
                due_s = now + flight.route.stall_timeout_s
                self.engine.call_at(due_s, partial(self._stalled, flight, job, since_s))

    def _stalled(self, flight: Flight, job: Job, since_s: float) -> None:
        if not job.abandoned and self.injection.silent_since_s(flight.node) == since_s:
            self.give_up(flight, job, "stall_timeout")

    def give_up(self, flight: Flight, job: Job, error: AttemptError) -> None:
        """The gateway closes its connection of an attempt."""
        node = self.nodes[flight.node]
        job.tokens = job.runner.tokens_of(job, self.engine.now) if job.runner is not None else job.tokens
        if not job.first_token_s <= self.injection.silent_since_s(flight.node):
            job.tokens, job.first_token_s = 0, NAN  # made or not, it did not get through
        job.abandoned = True
        if not self.network.paths[flight.node].cut and node.alive:
            node.cancel(job)  # through a cut path the node does not learn of it, and works on
        self._attempt_ended(flight, job, error)

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
            self._wake()

    def _wake(self) -> None:
        now = self.engine.now
        self._wakeup_armed_s = NEVER_S
        self._deciding = True
        if self.policy.waiting:
            self._release(now)
        for command in self.policy.decide(now):
            if isinstance(command, Probe):
                self.probing.perform(command)
            else:
                self._perform(now, command)
        self._deciding = False
        if self.policy.waiting:
            self._release(now)
        self.arm_wakeup()

    def _perform(self, now: float, action: Action) -> None:
        for hook in self._hooks["on_action"]:
            hook(now, action, self)
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
        self.recorder.requests.add(
            (
                spec.request_id,
                spec.model,
                spec.arrival_s,
                spec.deadline_s,
                spec.stream,
                spec.prompt_tokens,
                flight.output_tokens,
                admitted,
                outcome,
                error,
                flight.node or None,
                flight.attempt + 1 if succeeded or (outcome == "deadline" and ended is not None) else flight.attempt,
                flight.dispatched_s,
                flight.first_token_s,
                now + flight.round_trip_s if succeeded else now,
                ended.tokens if ended is not None else 0,
                ended.load_duration_s if succeeded and ended is not None else NAN,
                ended.prompt_eval_duration_s if succeeded and ended is not None else NAN,
                ended.eval_duration_s if succeeded and ended is not None else NAN,
                ended.total_duration_s if succeeded and ended is not None else NAN,
            )
        )
        if not self.requests & 0x3FF:
            self.recorder.flush_if_large()

    def _sample(self) -> None:
        now = self.engine.now
        for hook in self._hooks["on_sample"]:
            hook(now, self)
        known = self.policy.snapshot().parts.get("nodes", {})
        passed_s = now - self._sampled_s
        waiting = self.policy.waiting
        in_flight = dict.fromkeys(self.nodes, 0)
        for flight in self.flights.values():
            if flight.job is not None:
                in_flight[flight.node] += 1
        for name, node in self.nodes.items():
            busy_s = node.busy_s()
            used = (busy_s - self._busy_s[name]) / passed_s
            self._busy_s[name] = busy_s
            health = known.get(name, {}).get("health")
            self.recorder.telemetry.add(
                (now, name, in_flight[name], waiting, node.vram_used_gib(), len(node.runners), used, health)
            )
        self._sampled_s = now
        self._abort_if_needed(now)
        if not self.aborted:
            self.engine.call_at(now + self.scenario.record.telemetry_period_s, self._sample)

    def _abort_if_needed(self, now: float) -> None:
        self.aborted = self._abort.reason(now)
        if self.aborted:
            for flight in list(self.flights.values()):
                if flight.job is None:
                    self.policy.observe(now, RequestWithdrawn(flight.spec.request_id))
                self._end_request(now, flight, "failed", "the run was broken off", None)
            self._end_if_done()


def _hooks(checkers: Sequence[Checker]) -> dict[str, list[Callable[..., None]]]:
    """The hooks that are really overridden, so that the others cost nothing."""
    return {
        name: [
            getattr(checker, name) for checker in checkers if getattr(type(checker), name) is not getattr(Checker, name)
        ]
        for name in HOOKS
    }


def _nodes(engine: Engine, scenario: Scenario) -> dict[str, OllamaNode]:
    cluster = scenario.cluster
    models = {
        name: ModelOnNode(name, cluster.size_gib(name), cluster.memory_gib(name), cluster.context_tokens)
        for name in cluster.models
    }
    nodes = {
        name: OllamaNode(
            engine, name, hardware, models, cluster.slots_per_model, cluster.max_queue, cluster.keep_alive_s
        )
        for name, hardware in zip(cluster.node_names(), cluster.hardware_of_nodes(), strict=True)
    }
    for name, loaded in cluster.spec().placement.items():
        for model in loaded:
            nodes[name].add_runner(model)
    return nodes
