"""A model is asked for with the num_ctx that it is loaded with, be it by its clients or by others past the gateway."""

from __future__ import annotations

from tests.policy.bench import cluster
from tests.policy.test_lower_context import policy, request
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.contexts import WITHIN_S
from twin.policy.parameters import preset
from twin.policy.vocabulary import (
    CANNOT_SAY,
    Action,
    ActionResult,
    AttemptEnded,
    Probe,
    ProbeResult,
    RequestSpec,
    Route,
)

OWN, THEIRS = 8192, 16384
COLD_S = 120.0
"""Time for the first token of a request that has a model loaded."""


def seen(it: ClusterPolicy, *contexts: int, every_s: float = 5.0) -> None:
    """A residency probe of node-0 after the other."""
    replica = it.view.nodes["node-0"].replicas["m"]
    for count, context_tokens in enumerate(contexts):
        it.detection.contexts.seen(every_s * count, replica, context_tokens)


def asked_with(it: ClusterPolicy) -> int:
    return it.view.nodes["node-0"].replicas["m"].hot_route.context_tokens


def test_after_there_and_back_it_is_asked_with_theirs() -> None:
    it = policy()
    seen(it, OWN, THEIRS)
    assert asked_with(it) == 0, "somebody may have changed it for good"
    seen(it, OWN)
    assert asked_with(it) == THEIRS


def test_changes_that_are_far_apart_are_none_that_take_turns() -> None:
    it = policy()
    seen(it, OWN, THEIRS, OWN, THEIRS, every_s=WITHIN_S + 1.0)
    assert asked_with(it) == 0


def test_prompts_that_need_more_than_a_shorter_one_of_theirs_go_elsewhere() -> None:
    it = policy()
    seen(it, OWN, 2048, OWN)
    assert asked_with(it) == 2048
    assert {it.route(0.0, request(number, 6000), 0).node for number in range(2)} == {"node-1"}


def test_a_shorter_one_is_not_taken_over_where_the_operator_forbids_it_or_nobody_knows_our_own() -> None:
    forbidden = policy(context_min_tokens=4096)
    seen(forbidden, OWN, 2048, OWN)
    unknown = policy(context_tokens=0)
    seen(unknown, OWN, 2048, OWN)
    assert (asked_with(forbidden), asked_with(unknown)) == (0, 0)
    seen(unknown, OWN, THEIRS, OWN)
    assert asked_with(unknown) == THEIRS


def test_a_context_that_was_shortened_for_want_of_memory_stays_so() -> None:
    it = policy()
    it.view.nodes["node-0"].replicas["m"].load_with(4096, it.view.parameters)
    seen(it, 4096, OWN, 4096)
    assert asked_with(it) == 4096


def test_no_prompt_is_kept_from_a_node_whose_context_is_longer_than_usual() -> None:
    it = policy()
    seen(it, OWN, THEIRS, OWN)
    long = [it.route(0.0, request(number, 6000), 0) for number in range(2)]
    assert {route.node for route in long} == {"node-0", "node-1"}


def test_it_is_loaded_again_with_it_and_a_restart_forgets_it() -> None:
    it = policy()
    node = it.view.nodes["node-0"]
    seen(it, OWN, THEIRS, OWN)
    node.replicas["m"].resident = False
    it.view.replace(node, 20.0)
    (load,) = (order for order in it.decide(20.0) if isinstance(order, Action) and order.kind == "load")
    assert (load.node, load.context_tokens) == ("node-0", THEIRS)
    it.observe(25.0, ActionResult(load.action_id, "node-0", "load", "done"))
    assert asked_with(it) == THEIRS
    it.detection.restarted(30.0, node)
    assert asked_with(it) == 0


def test_it_is_written_down_once_as_a_setting() -> None:
    it = policy()
    seen(it, OWN, THEIRS, OWN)
    settings = [order for order in it.decide(20.0) if isinstance(order, Action) and order.kind == "set"]
    assert [order.reason for order in settings] == [
        "m on node-0 is asked with num_ctx 16384, as others ask it past the gateway: it was loaded anew whenever they "
        "and we took turns"
    ]
    assert not [order for order in it.decide(21.0) if isinstance(order, Action) and order.kind == "set"]


def test_an_operator_can_switch_it_off_and_advice_changes_nothing() -> None:
    advised = policy(mode="advise")
    seen(advised, OWN, THEIRS, OWN)
    assert asked_with(advised) == 0
    off = ClusterPolicy(cluster(2, 4, 2), preset("default", {"router.match_context": False}))
    seen(off, OWN, THEIRS, OWN)
    assert asked_with(off) == 0


def test_what_a_residency_probe_says_is_followed() -> None:
    it = policy()
    answers = iter([OWN, THEIRS, OWN])
    now = 0.0
    for context_tokens in answers:
        probes = [order for order in it.decide(now) if isinstance(order, Probe)]
        (probe,) = (order for order in probes if (order.node, order.kind) == ("node-0", "residency"))
        for each in probes:
            if each.node == "node-1" or each.kind != "residency":
                it.observe(now, ProbeResult(each.probe_id, each.node, each.kind, each.model, True, 0.01, "", ("m",)))
        it.observe(
            now,
            ProbeResult(probe.probe_id, "node-0", "residency", "", True, 0.01, "", ("m",), (context_tokens,)),
        )
        now += 5.0
    assert asked_with(it) == THEIRS


# -- what is known of a model is what it is asked for with -----------------------------------------------------------


def lists(it: ClusterPolicy, now: float, context_tokens: int) -> dict[str, Probe]:
    """Each node answers its probes, and has the model loaded with that; the generation that each was asked for, if any."""
    probes = [order for order in it.decide(now) if isinstance(order, Probe)]
    for each in probes:
        seen = (("m",), (context_tokens,)) if each.kind == "residency" else ((), ())
        it.observe(now, ProbeResult(each.probe_id, each.node, each.kind, each.model, True, 0.01, "", *seen))
    return {each.node: each for each in probes if each.kind == "generation"}


def probed_with(it: ClusterPolicy, context_tokens: int, from_s: float = 0.0) -> set[int]:
    """The num_ctx of the generations that idle nodes are asked for from the second half of 20 s on."""
    asked: set[int] = set()
    for step in range(40):
        now = from_s + step / 2.0
        probes = lists(it, now, context_tokens)
        if step >= 20:
            asked |= {probe.context_tokens for probe in probes.values()}
    return asked


def told(number: int, context_tokens: int, sent: int | None = None) -> RequestSpec:
    """A request that asks for that, and is sent with it unless something else is said."""
    sent = context_tokens if sent is None else sent
    return RequestSpec(number, "m", 10, True, 0.0, 1e6, context_tokens, sent_context_tokens=sent)


def answered(it: ClusterPolicy, now: float, request: RequestSpec, outcome: str = "succeeded") -> Route:
    """It is routed, gets its first token, and ends."""
    route = it.route(now, request, 0)
    ended = AttemptEnded(request.request_id, 0, route.node, "m", outcome, "", now, now + 0.1, 3)  # type: ignore[arg-type]
    it.observe(now + 0.2, ended)
    return route


def test_a_policy_that_has_just_begun_probes_a_model_with_what_its_node_lists() -> None:
    assert probed_with(policy(context_tokens=0), 8192) == {8192}
    assert probed_with(policy(), THEIRS) == {THEIRS}


def test_what_it_is_loaded_with_for_no_num_ctx_needs_none() -> None:
    assert probed_with(policy(), OWN) == {0}


def test_where_a_node_does_not_tell_a_probe_says_what_the_last_request_said() -> None:
    it = policy(context_tokens=0)
    assert probed_with(it, 0) == {0}
    for number in range(2):
        answered(it, 20.0, told(number, 2048))
    assert probed_with(it, 0, 21.0) == {2048}


def test_a_probe_of_a_node_that_serves_says_what_its_requests_say() -> None:
    it = policy()
    lists(it, 0.0, OWN)
    routes = {it.route(0.5, told(number, 2048), 0).node for number in range(2)}
    asked = [probe for step in range(1, 10) for probe in lists(it, float(step), OWN).values()]
    assert (routes, {probe.context_tokens for probe in asked}) == ({"node-0", "node-1"}, {2048})


def test_a_request_that_is_told_another_one_gets_the_time_of_a_load_until_one_was_answered() -> None:
    it = policy()
    limits: list[tuple[bool, bool]] = []
    for number, (context_tokens, outcome) in enumerate(
        [
            (0, "succeeded"),
            (OWN, "succeeded"),
            (2048, "failed"),
            (2048, "cancelled"),
            (2048, "succeeded"),
            (0, "succeeded"),
        ]
    ):
        for node in range(2):
            route = answered(it, float(number), told(2 * number + node, context_tokens), outcome)
            limits.append((route.loads, route.first_token_deadline_s == COLD_S))
    anew = [limits[2 * number] for number in range(6)]
    assert limits[::2] == limits[1::2]
    assert anew == [(False, False)] * 2 + [(True, True)] + [(False, False)] * 2 + [(True, True)]


def test_what_cannot_say_one_has_a_model_loaded_anew_that_was_loaded_with_another() -> None:
    it = policy()
    lists(it, 0.0, 2048)
    assert it.route(0.1, told(1, 0, CANNOT_SAY), 0).loads
    assert it.route(0.1, told(2, 2048), 0).first_token_deadline_s < COLD_S


def test_what_no_num_ctx_means_is_learnt_from_the_first_request_without_one() -> None:
    it = policy(context_tokens=0)
    lists(it, 0.0, 4096)
    assert {answered(it, 0.1, told(number, 0)).loads for number in range(2)} == {True}, "nobody knows"
    assert {answered(it, 0.5, told(10 + number, 0)).loads for number in range(2)} == {False}
    assert probed_with(it, 4096, 1.0) == {0}
    assert {answered(it, 21.0, told(20 + number, 4096)).loads for number in range(2)} == {False}
    assert probed_with(it, 2048, 22.0) == {2048}, "somebody had it loaded past the gateway"


def test_a_node_that_takes_another_one_for_its_own_is_believed() -> None:
    it = policy(context_tokens=0)
    for step, own in enumerate([4096, 32768]):
        now = 100.0 * step
        lists(it, now, own)
        for number in range(4):
            answered(it, now + 1.0, told(10 * step + number, 0))
        assert probed_with(it, own, now + 2.0) == {0}


def test_a_load_is_one_for_the_requests_that_come() -> None:
    it = policy(context_tokens=0)
    assert load_of(it) == 0
    it = policy(context_tokens=0)
    answered(it, 0.0, told(1, 0, 8192))
    assert load_of(it) == 8192
    answered(it, 0.5, told(2, 0, CANNOT_SAY))
    assert load_of(it) == 0


def load_of(it: ClusterPolicy) -> int:
    """The num_ctx with which node-0 is to load the model once it has lost it; and so it is probed before it lists it."""
    node = it.view.nodes["node-0"]
    node.replicas["m"].resident = False
    it.view.replace(node, 1.0)
    it.redundancy.due_s = 0.0
    (load,) = (order for order in it.decide(1.0) if isinstance(order, Action) and order.kind == "load")
    it.observe(1.1, ActionResult(load.action_id, "node-0", "load", "done"))
    assert it.detection.contexts.to_ask_with(node.replicas["m"]) == load.context_tokens
    return load.context_tokens


def test_a_probe_that_has_a_model_loaded_says_what_its_requests_said() -> None:
    it = policy()
    answered(it, 0.0, told(1, 2048))
    replica = it.view.nodes["node-1"].replicas["m"]
    replica.resident = False
    assert it.detection.contexts.to_ask_with(replica) == 2048
    replica.resident = True
    assert it.detection.contexts.to_ask_with(replica) == 2048


def test_advice_believes_nothing_loaded_that_it_only_advised() -> None:
    it = policy(mode="advise")
    it.route(0.0, told(1, 2048), 0)
    replica = it.view.nodes["node-1"].replicas["m"]
    it.healer.action(0.0, "load", replica.node, "m", "why", 1.0, 0.0)
    assert replica.loaded_context != 2048
