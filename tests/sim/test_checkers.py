"""Each checker fires when what it watches for happens, and not before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.scenario.documents import scenario
from tests.sim.worlds import simulate
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.vocabulary import (
    OPERATOR_REASON,
    Action,
    ActionResult,
    ActionStatus,
    AttemptEnded,
    ClusterSpec,
    Command,
    Incident,
    Observation,
    RequestId,
    RequestSpec,
    Route,
)
from twin.record.writer import Recorder
from twin.scenario.faults.base import LinkChange
from twin.scenario.memory import Placement
from twin.scenario.schema import Scenario
from twin.sim import hands
from twin.sim.checkers import all_checkers
from twin.sim.checkers.base import HOOKS, Checker
from twin.sim.hands import Ordered, SimulatedHands
from twin.sim.runner import Job
from twin.sim.simulation import Flight, Simulation

QUIET = scenario()
SPEC = QUIET.cluster.spec()


def simulation(it: Scenario = QUIET) -> Simulation:
    parameters = it.policy.parameters()
    return Simulation(it, 1, [ClusterPolicy(SPEC, parameters)], Recorder(None), parameters=parameters)


def checker(name: str) -> Checker:
    return next(it for it in all_checkers() if it.name == name)


def flight(number: int = 1, node: str = "node-0", attempt: int = 0) -> Flight:
    it = Flight(RequestSpec(number, "llama3.1:8b", 10, True, 1.0, 60.0), 10)
    it.gateway, it.node, it.attempt = "gateway-0", node, attempt
    it.started_s, it.reached_s, it.served_s = 1.0, 1.0, 2.0
    return it


def action(kind: Any, node: str = "node-0", number: int = 1, reason: str = "because") -> Action:
    return Action(number, kind, node, "", reason, 60.0, 1.0)


def result(of: Action, status: ActionStatus = "done") -> ActionResult:
    return ActionResult(of.action_id, of.node, of.kind, status)


def twice_admitted(it: Checker, world: Simulation) -> None:
    it.on_admitted(1.0, flight())
    assert not it.violations
    it.on_admitted(2.0, flight())


def ended_twice(it: Checker, world: Simulation) -> None:
    it.on_admitted(1.0, flight())
    it.on_request_end(2.0, flight(), "succeeded")
    assert not it.violations
    it.on_request_end(3.0, flight(), "succeeded")


def never_ended(it: Checker, world: Simulation) -> None:
    it.on_admitted(1.0, flight())
    it.at_end(9.0, world)


def too_much_memory(it: Checker, world: Simulation) -> None:
    it.on_sample(1.0, world)
    assert not it.violations
    world.nodes["node-0"].memory.placements["llama3.1:8b"] = Placement((25.0,))
    it.on_sample(2.0, world)


def too_many_sequences(it: Checker, world: Simulation) -> None:
    world.nodes["node-0"].runners["llama3.1:8b"].count = 3
    it.on_sample(2.0, world)


def ended_in_the_past(it: Checker, world: Simulation) -> None:
    it.on_request_end(5.0, flight(), "succeeded")
    assert not it.violations
    it.on_request_end(4.0, flight(), "succeeded")


def ended_before_it_came(it: Checker, world: Simulation) -> None:
    it.on_request_end(0.5, flight(), "succeeded")


def served_by_a_dead_node(it: Checker, world: Simulation) -> None:
    it.on_served(2.0, flight(), world)
    assert not it.violations
    world.nodes["node-0"].kill_server()
    it.on_served(3.0, flight(), world)


def served_by_a_younger_server(it: Checker, world: Simulation) -> None:
    world.nodes["node-0"].deaths_s = [1.5]
    under_way = flight()
    under_way.served_s = 1.4  # it died while the answer was on the network
    it.on_served(3.0, under_way, world)
    resent = flight()
    resent.reached_s = 1.6  # the next server was there when a segment that was lost had been sent again
    it.on_served(3.0, resent, world)
    assert not it.violations
    it.on_served(3.0, flight(), world)


def served_across_one_death_of_many(it: Checker, world: Simulation) -> None:
    world.nodes["node-0"].deaths_s = [0.1, 0.2, 5.0, 9.0]
    it.on_served(3.0, flight(), world)  # all of them before it was there or after it was served
    assert not it.violations
    world.nodes["node-0"].deaths_s = [0.1, 0.2, 1.5, 9.0]
    it.on_served(3.0, flight(), world)


def sent_to_a_drained_node(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("drain"), world, "gateway-0")
    it.on_dispatch(2.0, flight(node="node-1"), world)
    it.on_action(3.0, action("drain", "node-1"), world, "gateway-0")
    it.on_action(4.0, action("return", "node-1"), world, "gateway-0")
    it.on_dispatch(5.0, flight(node="node-1"), world)
    assert not it.violations
    it.on_dispatch(6.0, flight(node="node-0"), world)


def still_waiting(it: Checker, world: Simulation) -> None:
    it.at_end(9.0, world)
    assert not it.violations
    for number in range(5):
        world.gateways[0].policy.route(9.0, RequestSpec(number, "llama3.1:8b", 10, True, 9.0, 60.0), 0)
    it.at_end(9.0, world)


def last_replica_restarted(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart"), world, "gateway-0")
    world.nodes["node-1"].kill_server()
    it.on_action(2.0, action("restart", "node-1"), world, "gateway-0")  # it is dead: nothing is taken away
    it.on_action(2.0, action("drain"), world, "gateway-0")  # as far as the policy knows, the other one serves
    path = world.gateways[0].paths["node-0"]
    path.refuses = True
    it.on_action(2.5, action("restart"), world, "gateway-0")  # nobody gets through to it
    path.refuses = False
    assert not it.violations
    it.on_action(3.0, action("restart"), world, "gateway-0")


def last_replica_drained(it: Checker, world: Simulation) -> None:
    policy = world.gateways[0].policy
    assert isinstance(policy, ClusterPolicy)
    it.on_action(1.0, action("drain"), world, "gateway-0")
    policy.view.nodes["node-1"].health = "down"
    it.on_action(2.0, action("drain", reason=OPERATOR_REASON), world, "gateway-0")
    it.on_action(2.0, dataclasses.replace(action("drain"), advice=True), world, "gateway-0")
    assert not it.violations
    it.on_action(3.0, action("drain"), world, "gateway-0")


def slot_never_given_back(it: Checker, world: Simulation) -> None:
    it.at_end(9.0, world)
    assert not it.violations
    policy = world.gateways[0].policy
    policy.route(9.0, RequestSpec(1, "llama3.1:8b", 10, True, 9.0, 60.0), 0)
    world.gateways[0].forgot_s = 8.0  # that end may be struck off yet
    it.at_end(9.0, world)
    assert not it.violations
    it.at_end(99.0, world)


def never_answered(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart"), world, "gateway-0")
    it.on_action(2.0, action("load", "node-1", 2), world, "gateway-0")
    it.on_action_result(9.0, result(action("load", "node-1", 2)), "gateway-0")
    it.at_end(59.0, world)
    assert not it.violations, "it has time until 60 s"
    it.at_end(61.0, world)


def answered_twice(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart"), world, "gateway-0")
    it.on_action(1.0, action("restart"), world, "gateway-1")
    it.on_action_result(9.0, result(action("restart")), "gateway-0")
    it.on_action_result(9.0, result(action("restart")), "gateway-1")
    assert not it.violations
    it.on_action_result(10.0, result(action("restart"), "timed_out"), "gateway-0")


def ordered_twice(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart"), world, "gateway-0")
    it.on_action(2.0, action("restart"), world, "gateway-0")


def answered_without_an_order(it: Checker, world: Simulation) -> None:
    it.on_action_result(1.0, result(action("restart"), "no_lease"), "gateway-0")  # refused: another holds the lease
    assert not it.violations
    it.on_action_result(2.0, result(action("restart", number=2)), "gateway-0")


def answered_by_another_node(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart"), world, "gateway-0")
    it.on_action_result(2.0, result(action("restart", "node-1")), "gateway-0")


def answered_late(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart"), world, "gateway-0")
    it.on_action_result(61.0, result(action("restart")), "gateway-0")


def too_many_repairs_at_once(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart", number=1), world, "gateway-0")
    it.on_action(2.0, action("restart", "node-1", 2, OPERATOR_REASON), world, "gateway-0")
    it.on_action(2.0, action("load", "node-1", 3), world, "gateway-0")
    it.on_action(2.0, dataclasses.replace(action("restart", "node-1", 4), advice=True), world, "gateway-0")
    it.on_action(2.0, action("restart", "node-1", 1), world, "gateway-1")
    it.on_action_result(3.0, result(action("restart", number=1), "failed"), "gateway-0")
    it.on_action(4.0, action("kill_runner", number=5), world, "gateway-0")
    it.on_action(4.0, action("unload", "node-1", 6), world, "gateway-0")
    assert not it.violations
    it.on_action(5.0, action("restart", number=7), world, "gateway-0")


def too_many_attempts(it: Checker, world: Simulation) -> None:
    it.on_dispatch(1.0, flight(attempt=4), world)
    assert not it.violations
    it.on_dispatch(2.0, flight(attempt=5), world)


def too_many_retries_in_all(it: Checker, world: Simulation) -> None:
    moved = flight(attempt=1)
    moved.error = "aborted"
    for number in range(10):
        it.on_admitted(1.0, flight(number))  # whether it goes at once or waits
    for _ in range(500):
        it.on_dispatch(1.0, moved, world)  # the policy broke these off itself
    for _ in range(102):
        it.on_dispatch(1.0, flight(attempt=1), world)
    assert not it.violations
    it.on_dispatch(1.0, flight(attempt=1), world)


def two_in_a_lease(it: Checker, world: Simulation) -> None:
    it.on_action(1.0, action("restart"), world, "gateway-0")
    it.on_action(2.0, action("restart", "node-1"), world, "gateway-0")
    it.on_action(3.0, action("drain", "node-1"), world, "gateway-1")
    it.on_action(17.0, action("restart", "node-1"), world, "gateway-1")
    assert not it.violations
    it.on_action(31.0, action("restart"), world, "gateway-0")


def node_gone(it: Checker, world: Simulation) -> None:
    it.at_end(9.0, world)
    assert not it.violations
    world.nodes["node-1"].kill_server()
    it.at_end(9.0, world)


def loader_left_stuck(it: Checker, world: Simulation) -> None:
    world.nodes["node-0"].stick_loader()
    it.at_end(9.0, world)


def path_left_cut(it: Checker, world: Simulation) -> None:
    world.network.change("a", "node-0", LinkChange(blocked="both"))
    it.at_end(9.0, world)


def node_still_distrusted(it: Checker, world: Simulation) -> None:
    policy = world.gateways[0].policy
    assert isinstance(policy, ClusterPolicy)
    policy.view.nodes["node-1"].health = "down"
    it.at_end(9.0, world)


def incident_left_open(it: Checker, world: Simulation) -> None:
    policy = world.gateways[0].policy
    assert isinstance(policy, ClusterPolicy)
    policy.incidents.append(Incident(3, "node-1", "server_down", "refused", 1.0, "closed"))
    it.at_end(9.0, world)
    assert not it.violations
    policy.incidents.append(Incident(4, "node-1", "server_down", "refused", 2.0, "given_up"))
    it.at_end(9.0, world)


def job_left_at_a_node(it: Checker, world: Simulation) -> None:
    it.at_end(9.0, world)
    assert not it.violations
    for _ in range(3):  # two slots
        world.nodes["node-0"].submit(Job("llama3.1:8b", 10, 10, lambda _job, _error: None, None))
    it.at_end(9.0, world)


def replica_gone(it: Checker, world: Simulation) -> None:
    it.at_end(9.0, world)
    assert not it.violations
    world.nodes["node-0"].kill_runner()
    it.at_end(9.0, world)


VIOLATIONS: list[tuple[str, Callable[[Checker, Simulation], None], str]] = [
    ("admitted_request_ends_once", twice_admitted, "at 2.000 s: request 1 was admitted twice"),
    ("admitted_request_ends_once", ended_twice, "at 3.000 s: request 1 ended (succeeded) without being there"),
    ("admitted_request_ends_once", never_ended, "at 9.000 s: request 1 never ended"),
    ("capacity_and_vram_never_exceeded", too_much_memory, "at 2.000 s: node-0 uses 25.00 GiB of 24 of GPU 0"),
    ("capacity_and_vram_never_exceeded", too_many_sequences, "at 2.000 s: node-0 decodes 3 sequences in 2 slots"),
    ("clock_is_monotonic", ended_in_the_past, "at 4.000 s: request 1 ended in the past"),
    ("clock_is_monotonic", ended_before_it_came, "at 0.500 s: request 1 ended in the past"),
    ("no_work_on_a_dead_node", served_by_a_dead_node, "at 3.000 s: request 1 was served by node-0, which had died"),
    ("no_work_on_a_dead_node", served_by_a_younger_server, "at 3.000 s: request 1 was served by node-0, which had died"),
    (
        "no_work_on_a_dead_node",
        served_across_one_death_of_many,
        "at 3.000 s: request 1 was served by node-0, which had died",
    ),
    ("no_dispatch_to_a_drained_node", sent_to_a_drained_node, "at 6.000 s: request 1 was sent to node-0, which is drained"),
    ("queue_empties_at_the_end", still_waiting, "at 9.000 s: 1 requests still wait in the policy"),
    ("every_node_is_back", node_gone, "at 9.000 s: node-1 cannot generate"),
    ("every_node_is_back", loader_left_stuck, "at 9.000 s: node-0 can load nothing"),
    ("every_node_is_back", path_left_cut, "at 9.000 s: gateway-0 cannot reach node-0"),
    ("every_node_is_back", node_still_distrusted, "at 9.000 s: gateway-0 takes node-1 for down"),
    ("no_incident_stays_open", incident_left_open, "at 9.000 s: incident 4 on node-1 is given_up"),
    ("node_queues_empty_after_settling", job_left_at_a_node, "at 9.000 s: 1 jobs still wait on node-0"),
    ("every_replica_is_back", replica_gone, "at 9.000 s: 1 replicas of llama3.1:8b where 2 should be"),
    ("replica_floor", last_replica_restarted, "at 3.000 s: restarting node-0 leaves 0 replicas of llama3.1:8b"),
    ("replica_floor", last_replica_drained, "at 3.000 s: draining node-0 leaves 0 replicas of llama3.1:8b"),
    ("no_slot_is_lost", slot_never_given_back, "at 99.000 s: gateway-0 counts 1 requests at node-0, and there are none"),
    ("every_action_gets_one_result", never_answered, "at 61.000 s: action 1 (restart) of gateway-0 got no result"),
    (
        "every_action_gets_one_result",
        answered_twice,
        "at 10.000 s: action 1 (restart) of gateway-0 got a second result: timed_out",
    ),
    ("every_action_gets_one_result", ordered_twice, "at 2.000 s: action 1 of gateway-0 was ordered twice"),
    (
        "every_action_gets_one_result",
        answered_without_an_order,
        "at 2.000 s: action 2 (restart) of gateway-0 is done, and was not ordered",
    ),
    (
        "every_action_gets_one_result",
        answered_by_another_node,
        "at 2.000 s: action 1 (restart) of gateway-0 on node-1 was ordered as a restart on node-0",
    ),
    (
        "every_action_gets_one_result",
        answered_late,
        "at 61.000 s: action 1 (restart) of gateway-0 got its result after its deadline",
    ),
    (
        "repairs_at_once_within_the_cap",
        too_many_repairs_at_once,
        "at 5.000 s: gateway-0 disturbs node-0, node-1, node-0 at once: 2 allowed",
    ),
    ("retries_within_budget", too_many_attempts, "at 2.000 s: attempt 5 of request 1: 4 allowed"),
    ("retries_within_budget", too_many_retries_in_all, "at 1.000 s: 103 retries for 10 requests"),
    ("only_the_lease_holder_disturbs", two_in_a_lease, "at 31.000 s: gateway-0 disturbs node-0 14.0 s after gateway-1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "violate", "words"), VIOLATIONS, ids=lambda value: getattr(value, "__name__", None))
def test_it_fires(name: str, violate: Callable[[Checker, Simulation], None], words: str) -> None:
    it = checker(name)
    violate(it, simulation())
    assert it.violations == 1
    assert it.first == words


def test_every_checker_has_a_test_in_which_it_fires() -> None:
    assert {name for name, _, _ in VIOLATIONS} == {it.name for it in all_checkers()}


def test_every_hook_of_the_base_is_called_by_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()

    class Watcher(Checker):
        name = "watcher"

    for hook in HOOKS:
        setattr(Watcher, hook, lambda self, *_arguments, hook=hook: called.add(hook))
    it = scenario(faults=[{"kind": "server_crash", "at_s": 5, "target": "node-0"}])
    monkeypatch.setattr("twin.sim.simulation.all_checkers", lambda settled: [Watcher()])
    simulate(it)
    assert called == set(HOOKS)


class Reckless(ClusterPolicy):
    """Routes to a node that it has drained itself, and restarts both nodes at once."""

    def __init__(self, cluster: ClusterSpec, it: Scenario) -> None:
        super().__init__(cluster, it.policy.parameters())
        self.turns = 0

    def route(self, now: float, request: RequestSpec, attempt: int) -> Route:
        return Route("dispatch", "node-0") if not attempt else Route("shed", reason="no more")

    def released(self, now: float) -> Sequence[tuple[RequestId, Route]]:
        return ()

    def observe(self, now: float, observation: Observation) -> None:
        assert observation is not None

    def decide(self, now: float) -> Sequence[Command]:
        self.turns += 1
        self._due_s = now + 1.0
        if self.turns == 3:
            return [action("drain", number=1)]
        if self.turns == 20:
            return [action("restart", number=2), action("restart", "node-1", 3)]
        return ()


def test_a_reckless_policy_is_caught_in_a_whole_simulation() -> None:
    world, _ = simulate(QUIET, policy=Reckless(SPEC, QUIET))
    violated = {it.name for it in world.checkers if it.violations}
    assert violated == {"no_dispatch_to_a_drained_node", "replica_floor"}


class LosesSlots(ClusterPolicy):
    """Broken on purpose: does not give back the place of an attempt that went silent."""

    def observe(self, now: float, observation: Observation) -> None:
        super().observe(now, observation)
        if type(observation) is AttemptEnded and observation.error in ("stall_timeout", "first_token_timeout"):
            self.view.nodes[observation.node].in_flight += 1


class Uncapped(ClusterPolicy):
    """Broken on purpose: forgets what is being repaired."""

    def decide(self, now: float) -> Sequence[Command]:
        self.detection.under_repair.clear()
        return super().decide(now)


HANG = {"kind": "runner_hang", "at_s": 8, "target": "all", "duration_s": 25}
HANGS = scenario(faults=[HANG], settle_s=120.0, policy={"overrides": {"healer.concurrent_max": 1}})


def violations(it: Scenario, policy: type[ClusterPolicy]) -> set[str]:
    world, _ = simulate(it, policy=policy(SPEC, it.policy.parameters()))
    return {it.name for it in world.checkers if it.violations}


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (ClusterPolicy, set()),
        (LosesSlots, {"no_slot_is_lost"}),
        (Uncapped, {"repairs_at_once_within_the_cap"}),
    ],
)
def test_slots_that_a_stall_loses_and_repairs_beyond_the_cap_are_caught_in_a_whole_simulation(
    policy: type[ClusterPolicy], names: set[str]
) -> None:
    assert violations(HANGS, policy) == names


def test_ends_that_the_gateway_forgot_are_no_lost_slots_as_the_policy_strikes_them_off() -> None:
    zombies = {"kind": "gateway_zombies", "at_s": 1, "duration_s": 35}
    it = scenario(faults=[zombies, HANG], settle_s=120.0, workload__deadline_s=3)
    world, _ = simulate(it)
    assert world.gateways[0].forgot_s > 0.0
    assert not {it.name for it in world.checkers if it.violations}


@pytest.mark.skipif(
    not str(hands.__file__).endswith(".py"), reason="what is compiled cannot be broken: OLLAMAMAX_COMPILED=0"
)
def test_a_world_that_answers_an_action_twice_or_not_at_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimulatedHands._answer

    def twice(self: SimulatedHands, ordered: Ordered, status: ActionStatus, detail: str) -> None:
        answer(self, ordered, status, detail)
        ordered.answered = False

    def never(self: SimulatedHands, ordered: Ordered, status: ActionStatus, detail: str) -> None:
        if ordered.action.kind != "restart":
            answer(self, ordered, status, detail)

    for broken in (twice, never):
        monkeypatch.setattr(SimulatedHands, "_answer", broken)
        assert "every_action_gets_one_result" in violations(HANGS, ClusterPolicy)


def test_a_node_that_serves_a_request_twice_is_caught() -> None:
    world = simulation()
    seen: list[int] = []

    def serve_again() -> None:
        it = next(iter(world.flights()))
        assert isinstance(it.job, Job)
        seen.append(it.spec.request_id)
        world.gateways[0]._end_request(world.engine.now, it, "succeeded", "", None)
        world.gateways[0]._end_request(world.engine.now, it, "succeeded", "", None)
        it.job.abandoned = True
        ended = AttemptEnded(it.spec.request_id, 0, it.node, it.spec.model, "cancelled", "deadline", 0.0, 0.0, 0)
        world.gateways[0].policy.observe(world.engine.now, ended)

    world.engine.call_at(20.0, serve_again)
    world.run()
    found = next(it for it in world.checkers if it.violations)
    assert (found.name, found.violations) == ("admitted_request_ends_once", 1)
    assert found.first == f"at 20.000 s: request {seen[0]} ended (succeeded) without being there"
