"""Whatever a world may observe, in whatever order: what must hold of the policy after every step."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.policy.bench import Foretold, cluster
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.forecast import FailureClass, Forecast
from twin.policy.health import ROUTABLE
from twin.policy.parameters import preset
from twin.policy.views import LEVELS, Pool
from twin.policy.vocabulary import (
    DISRUPTIVE_ACTIONS,
    HAND_ACTIONS,
    OPERATOR_REASON,
    Action,
    ActionResult,
    Advice,
    AttemptEnded,
    NodeHands,
    NodeInventory,
    OperatorOrder,
    Probe,
    ProbeResult,
    Question,
    RequestSpec,
    RequestWithdrawn,
    Route,
)

NODES, SLOTS = 4, 2
ATTEMPT_ERRORS = [
    "refused",
    "reset",
    "unreachable",
    "server_error",
    "overloaded",
    "client_error",
    "error_record",
    "no_terminal_record",
    "first_token_timeout",
    "stall_timeout",
]
PROBE_ERRORS = ["refused", "reset", "unreachable", "server_error", "first_token_timeout"]


def brute_force(pool: Pool, now: float) -> tuple[list[int], int]:
    """The index of a pool, worked out anew from what is known of each node."""
    levels, last_resort = [0] * LEVELS, 0
    for replica in pool.members:
        assert replica is not None
        room = replica.in_flight < replica.capacity and (replica.resident or not pool.needs_residency)
        if not room:
            continue
        if replica.node.health == "suspect" and not replica.node.returning:
            last_resort |= replica.node.bit
        if replica.node.health in ROUTABLE and replica.breaker_open_until_s <= now:
            busy = replica.in_flight + replica.node.penalty + replica.node.rising
            level = 0 if pool.in_turn else min(busy, LEVELS - 1)
            levels[level] |= replica.node.bit
    return levels, last_resort


class World(RuleBasedStateMachine):
    """Valid sequences: an attempt ends once, a probe is answered once, an action has one result."""

    @initialize(
        name=st.sampled_from(["default", "reactive", "none"]),
        load_path=st.booleans(),
        reserve=st.integers(0, 5),
        cap=st.integers(1, 2),
        look_ahead=st.booleans(),
        handless=st.sets(st.tuples(st.integers(0, NODES - 1), st.sampled_from(sorted(HAND_ACTIONS))), max_size=4),
    )
    def begin(
        self, name: str, load_path: bool, reserve: int, cap: int, look_ahead: bool, handless: set[tuple[int, str]]
    ) -> None:
        overrides: dict[str, Any] = {
            "retry.budget_reserve": float(reserve),
            "healer.concurrent_max": cap,
            "admission.queue_max": 3,
            "healer.cooldown_s": 1.0,
            "healer.look_ahead": look_ahead,
            "redundancy.scale_up_after_s": 1.0,
            "redundancy.scale_down_after_s": 3.0,
        }
        if load_path:
            overrides["probes.load_path_model"] = "s"
        self.parameters = preset(name, overrides)
        self.foretold = Foretold()
        spec = cluster(NODES, SLOTS, 3)
        nodes = [
            replace(node, hands=node.hands - {kind for at, kind in handless if at == place})
            for place, node in enumerate(spec.nodes)
        ]
        self.hands = {node.name: set(node.hands) for node in nodes}
        self.policy = ClusterPolicy(replace(spec, nodes=tuple(nodes)), self.parameters, self.foretold)
        self.questions: dict[int, Question] = {}
        self.now = 0.0
        self.count = 0
        self.running: dict[int, tuple[str, int, float]] = {}  # request: node, attempt, start
        self.waiting: dict[int, int] = {}  # request: attempt
        self.requests: dict[int, RequestSpec] = {}
        self.probes: dict[int, Probe] = {}
        self.actions: dict[int, Action] = {}
        self.probe_ids: set[int] = set()
        self.action_ids: set[int] = set()
        self.admitted = self.retries = 0
        self.moved: dict[int, int] = {}  # request: attempts that the policy broke off
        self.decided = False

    # -- what the policy says --------------------------------------------------------------------------------------

    def take(self, request_id: int, attempt: int, route: Route, error: str) -> None:
        if route.kind == "wait":
            self.waiting[request_id] = attempt
        elif route.kind == "dispatch":
            self.dispatched(request_id, attempt, route)
        turned_away = error == "overloaded" and attempt < len(self.policy.view.nodes)
        if attempt and route.kind != "shed" and error not in ("aborted", "client_error") and not turned_away:
            self.retries += 1
            allowed = self.parameters.retry.budget_reserve + self.parameters.retry.budget_ratio * self.admitted
            assert self.retries <= allowed + 1e-9
        if attempt:
            allowed_attempts = self.parameters.retry.attempts_max + self.moved.get(request_id, 0)
            assert route.kind == "shed" or attempt <= allowed_attempts

    def dispatched(self, request_id: int, attempt: int, route: Route) -> None:
        node = self.policy.view.nodes[route.node]
        assert node.health in (*ROUTABLE, "suspect"), f"sent to {node.name}, which is {node.health}"
        assert not node.held, f"sent to {node.name}, which its operator has set aside"
        assert not (node.returning and node.health == "suspect"), f"sent to {node.name} before a generation passed"
        assert request_id not in self.running
        assert route.first_token_deadline_s > 0.0
        self.running[request_id] = (route.node, attempt, self.now)

    def release(self) -> None:
        for request_id, route in self.policy.released(self.now):
            attempt = self.waiting.pop(request_id)  # KeyError: withdrawn or never waiting
            assert route.kind in ("dispatch", "shed")
            if route.kind == "dispatch":
                self.dispatched(request_id, attempt, route)

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule()
    def request(self) -> None:
        self.count += 1
        spec = RequestSpec(self.count, "m", 100, True, self.now, self.now + 1e6)
        self.requests[self.count] = spec
        route = self.policy.route(self.now, spec, 0)
        self.admitted += 1  # the budget grows with all that arrive
        self.take(self.count, 0, route, "")

    @precondition(lambda self: self.running)
    @rule(data=st.data(), error=st.sampled_from(["", "", "", *ATTEMPT_ERRORS, "deadline"]), tokens=st.integers(0, 30))
    def attempt_ends(self, data: st.DataObject, error: str, tokens: int) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.running)))
        self.end(request_id, error, tokens)
        self.release()

    def end(self, request_id: int, error: str, tokens: int) -> None:
        node, attempt, started_s = self.running.pop(request_id)
        self.moved[request_id] = self.moved.get(request_id, 0) + (error == "aborted")
        outcome = "succeeded" if not error else "cancelled" if error == "deadline" else "failed"
        first_s = self.now if tokens or not error else math.nan
        ended = AttemptEnded(
            request_id,
            attempt,
            node,
            "m",
            outcome,  # type: ignore[arg-type]
            error,  # type: ignore[arg-type]
            started_s,
            first_s,
            tokens or int(not error),
            0.0,
            0.1,
            1.0,
            1.1,
        )
        self.policy.observe(self.now, ended)
        if outcome == "failed":
            self.take(
                request_id, attempt + 1, self.policy.route(self.now, self.requests[request_id], attempt + 1), error
            )

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def client_goes_away(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[request_id]
        self.policy.observe(self.now, RequestWithdrawn(request_id))

    @precondition(lambda self: self.probes)
    @rule(
        data=st.data(), error=st.sampled_from(["", "", *PROBE_ERRORS]), loaded=st.sampled_from([(), ("m",), ("m", "s")])
    )
    def probe_answers(self, data: st.DataObject, error: str, loaded: tuple[str, ...]) -> None:
        probe = self.probes.pop(data.draw(st.sampled_from(sorted(self.probes))))
        models = loaded if probe.kind == "residency" else ()
        self.policy.observe(
            self.now,
            ProbeResult(probe.probe_id, probe.node, probe.kind, probe.model, not error, 0.01, error, models),  # type: ignore[arg-type]
        )
        self.release()

    @precondition(lambda self: self.actions)
    @rule(
        data=st.data(),
        status=st.sampled_from(["done", "done", "failed", "timed_out", "unknown", "no_hand", "no_lease"]),
    )
    def action_results(self, data: st.DataObject, status: str) -> None:
        action = self.actions.pop(data.draw(st.sampled_from(sorted(self.actions))))
        if action.kind == "abort":
            for request_id in [r for r, (node, _, _) in self.running.items() if node == action.node]:
                self.end(request_id, "aborted", 0)
        if status == "no_hand":
            if action.kind not in HAND_ACTIONS:
                status = "done"  # a world does it itself
            self.hands[action.node].discard(action.kind)
        learnt = self.policy.healer.rates.snapshot()
        self.policy.observe(self.now, ActionResult(action.action_id, action.node, action.kind, status))  # type: ignore[arg-type]
        if status in ("no_hand", "no_lease"):
            assert self.policy.healer.rates.snapshot() == learnt, "what was not tried has not failed"
        self.release()

    @rule(
        node=st.integers(0, NODES - 1),
        failure=st.sampled_from(get_args(FailureClass)),
        probability=st.sampled_from([0.5, 0.8, 0.99]),
        lead_s=st.sampled_from([3.0, 30.0, 300.0]),
    )
    def something_is_foretold(self, node: int, failure: FailureClass, probability: float, lead_s: float) -> None:
        forecast = Forecast(f"node-{node}", failure, probability, 600.0, lead_s, ("a sign",))
        self.foretold.said[forecast.node, failure] = (forecast, self.now + lead_s)

    @rule()
    def nothing_is_foretold_any_more(self) -> None:
        self.foretold.said.clear()

    @precondition(lambda self: self.questions)
    @rule(lost=st.sampled_from([{}, {"nothing": 0.0, "restart": 3.0}, {"nothing": 3.0, "restart": 0.0, "rest": 0.0}]))
    def who_looks_ahead_answers(self, lost: dict[str, float]) -> None:
        _, question = self.questions.popitem()
        status = "done" if lost else "late"
        self.policy.observe(self.now, Advice(question.question_id, question.node, status, lost))  # type: ignore[arg-type]

    @rule(node=st.integers(0, NODES - 1), order=st.sampled_from(["drain", "return", "restart"]))
    def operator_orders(self, node: int, order: str) -> None:
        self.policy.observe(self.now, OperatorOrder(f"node-{node}", order))  # type: ignore[arg-type]
        self.release()

    @rule(
        node=st.integers(0, NODES - 1),
        stored=st.sampled_from([("m", "s"), ("m",), ("m", "s", "t"), ()]),
        shares=st.sampled_from([(), ("m s",), ("m s t",)]),
    )
    def node_tells_what_it_has(self, node: int, stored: tuple[str, ...], shares: tuple[str, ...]) -> None:
        self.policy.observe(self.now, NodeInventory(f"node-{node}", dict.fromkeys(stored, 2.0), SLOTS, shares))
        self.release()

    @rule(node=st.integers(0, NODES - 1), hands=st.sets(st.sampled_from(sorted(HAND_ACTIONS))))
    def an_agent_comes(self, node: int, hands: set[str]) -> None:
        self.hands[f"node-{node}"] |= hands
        self.policy.observe(self.now, NodeHands(f"node-{node}", tuple(sorted(self.hands[f"node-{node}"]))))

    @rule(by_s=st.sampled_from([0.0, 0.1, 0.3, 1.0, 3.0, 20.0]))
    def time_passes(self, by_s: float) -> None:
        self.now += by_s
        self.wake()

    @precondition(lambda self: self.policy.next_wakeup() < math.inf)
    @rule()
    def it_is_woken(self) -> None:
        self.now = max(self.now, self.policy.next_wakeup())
        self.wake()

    def wake(self) -> None:
        self.release()
        for command in self.policy.decide(self.now):
            if isinstance(command, Probe):
                assert command.probe_id not in self.probe_ids
                self.probe_ids.add(command.probe_id)
                self.probes[command.probe_id] = command
            elif isinstance(command, Question):
                assert command.question_id not in self.questions
                assert "nothing" in command.options
                self.questions[command.question_id] = command
            else:
                assert command.action_id not in self.action_ids
                self.action_ids.add(command.action_id)
                self.actions[command.action_id] = command
                assert command.reason
                by_operator = command.reason == OPERATOR_REASON
                assert command.kind not in HAND_ACTIONS or command.kind in self.hands[command.node] or by_operator
                assert command.deadline_s > self.now
        self.release()
        assert self.policy.next_wakeup() > self.now, "with nothing new observed, it wants to be woken again at once"

    def teardown(self) -> None:
        """Liveness: when everything works again, everything is served, every incident ends, every node serves."""
        self.foretold.said.clear()
        self.questions.clear()
        for index in range(NODES):
            self.policy.observe(self.now, NodeInventory(f"node-{index}", {"m": 5.0, "s": 1.0}, SLOTS))
            self.policy.observe(self.now, OperatorOrder(f"node-{index}", "return"))
        end_s = self.now + 90.0
        while self.now < end_s:
            for request_id in sorted(self.running):
                self.end(request_id, "", 10)
            self.release()
            for probe_id in sorted(self.probes):
                probe = self.probes.pop(probe_id)
                models = ("m",) if probe.kind == "residency" else ()
                result = ProbeResult(probe_id, probe.node, probe.kind, probe.model, True, 0.01, "", models)
                self.policy.observe(self.now, result)
            for action_id in sorted(self.actions):
                action = self.actions.pop(action_id)
                self.policy.observe(self.now, ActionResult(action_id, action.node, action.kind, "done"))
            self.release()
            wake_s = self.policy.next_wakeup()
            if wake_s == math.inf:
                break
            self.now = max(self.now, wake_s)
            self.wake()
        assert not self.waiting
        assert not self.running
        assert {node.health for node in self.policy.view.nodes.values()} == {"serving"}
        assert {it.state for it in self.policy.incidents} <= {"closed"}

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_the_worlds(self) -> None:
        own = Counter(node for node, _, _ in self.running.values())
        for name, node in self.policy.view.nodes.items():
            assert node.in_flight == own[name]
            assert sum(replica.in_flight for replica in node.replicas.values()) == own[name]
        assert self.policy.waiting == len(self.waiting)

    @invariant()
    def what_is_over_is_forgotten(self) -> None:
        assert set(self.policy.router.failed) <= {*self.running, *self.waiting}

    @invariant()
    def no_more_is_sent_than_is_served_at_once(self) -> None:
        if self.parameters.admission.enabled:
            assert all(node.in_flight <= SLOTS for node in self.policy.view.nodes.values())

    @invariant()
    def the_index_is_what_a_recount_gives(self) -> None:
        for pool in self.policy.view.distinct_pools:
            levels, last_resort = brute_force(pool, self.now)
            if self.parameters.probes.generation or not self.parameters.circuit_breaker.enabled:
                assert pool.levels == levels
            else:  # a breaker whose time is over is put back by the next `decide`
                assert all(not known & ~right for known, right in zip(pool.levels, levels, strict=True))
            assert pool.last_resort == last_resort
            assert pool.routable == sum(
                replica.node.bit
                for replica in pool.members
                if replica is not None
                and replica.node.health in ROUTABLE
                and (replica.resident or not pool.needs_residency)
            )

    @invariant()
    def disruption_is_capped(self) -> None:
        running = [action.node for action in self.actions.values() if action.kind in DISRUPTIVE_ACTIONS]
        assert len(running) <= self.parameters.healer.concurrent_max
        assert len(set(running)) == len(running), "two disruptive actions on one node"

    @invariant()
    def a_node_under_repair_gets_nothing(self) -> None:
        for action in self.actions.values():
            if action.kind == "restart" and not action.advice:
                assert self.policy.view.nodes[action.node].health in ("down", "drained", "suspect")

    @invariant()
    def an_incident_is_open_once_per_node(self) -> None:
        unsettled = [it.node for it in self.policy.incidents if it.state != "closed"]
        assert len(set(unsettled)) == len(unsettled)
        assert set(unsettled) == set(self.policy.healer.open)


TestWorld = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(World.TestCase)
TestWorld.settings = settings(
    phases=[Phase.generate],
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
