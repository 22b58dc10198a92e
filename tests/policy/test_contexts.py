"""Where others have a model loaded with another num_ctx in turn with us, it is asked with theirs."""

from __future__ import annotations

from tests.policy.bench import cluster
from tests.policy.test_lower_context import policy, request
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.contexts import WITHIN_S
from twin.policy.parameters import preset
from twin.policy.vocabulary import Action, ActionResult, Probe, ProbeResult

OWN, THEIRS = 8192, 16384


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
