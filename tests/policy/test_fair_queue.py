"""Who waits takes turns by client."""

from __future__ import annotations

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.fair_queue import FairQueue
from twin.policy.parameters import preset
from twin.policy.vocabulary import AttemptEnded, ClusterSpec, ModelSpec, NodeSpec, RequestSpec, RequestWithdrawn

MANY, FEW = 7, 8


def policy_of(**overrides: float) -> ClusterPolicy:
    cluster = ClusterSpec((NodeSpec("a"),), (ModelSpec("m", 1.0, 1, 1),), {"a": ("m",)})
    return ClusterPolicy(cluster, preset("default", {key.replace("__", "."): it for key, it in overrides.items()}))


def ask(policy: ClusterPolicy, number: int, client: int, deadline_s: float = 1e6, now_s: float = 1.0) -> str:
    spec = RequestSpec(number, "m", 10, True, now_s, deadline_s, client=client)
    route = policy.route(now_s, spec, 0)
    return route.kind if route.kind != "shed" else route.reason


def served_in_order(policy: ClusterPolicy, first: int, now_s: float = 2.0) -> list[int]:
    order = [first]
    while True:
        policy.observe(now_s, AttemptEnded(order[-1], 0, "a", "m", "succeeded", "", now_s - 1.0, now_s, 3))
        released = policy.released(now_s)
        if not released:
            return order
        [(number, _)] = released
        order.append(number)
        now_s += 1.0


def test_a_client_with_one_request_waits_for_one_of_a_client_with_many() -> None:
    policy = policy_of()
    kinds = [ask(policy, number, MANY) for number in range(1, 10)]
    assert kinds == ["dispatch"] + ["wait"] * 8
    assert ask(policy, 20, FEW) == "wait"
    assert served_in_order(policy, 1) == [1, 2, 20, 3, 4, 5, 6, 7, 8, 9]


def test_clients_that_nobody_knows_are_served_in_the_order_in_which_they_came() -> None:
    policy = policy_of()
    for number in range(1, 6):
        ask(policy, number, 0)
    assert served_in_order(policy, 1) == [1, 2, 3, 4, 5]


def test_who_has_left_costs_its_client_no_turn() -> None:
    policy = policy_of()
    for number in range(1, 5):
        ask(policy, number, MANY)
    ask(policy, 20, FEW)
    ask(policy, 21, FEW)
    for number in (2, 3):
        policy.observe(1.5, RequestWithdrawn(number))
    assert served_in_order(policy, 1) == [1, 4, 20, 21]


def test_one_client_cannot_fill_the_queue_for_the_others() -> None:
    policy = policy_of(admission__queue_max=8)
    said = [ask(policy, number, MANY) for number in range(1, 9)]
    assert said[:7] == ["dispatch"] + ["wait"] * 6
    assert "as one client may have" in said[7]
    assert ask(policy, 20, FEW) == "wait"


def test_what_a_request_would_wait_is_counted_by_turns() -> None:
    policy = policy_of()
    ask(policy, 1, MANY)
    policy.observe(2.0, AttemptEnded(1, 0, "a", "m", "succeeded", "", 1.0, 2.0, 3))  # a request takes a second
    for number in range(2, 33):
        ask(policy, number, MANY, now_s=2.0)
    assert ask(policy, 40, FEW, deadline_s=42.0, now_s=2.0) == "wait"
    assert "too much of the 40.0 s" in ask(policy, 41, MANY, deadline_s=42.0, now_s=2.0)


def test_a_retry_goes_before_all_and_the_order_of_those_put_back_stays() -> None:
    queue = FairQueue()
    for number in (1, 2, 3):
        queue.append(number, MANY)
    queue.append(4, FEW)
    queue.put_first(9)
    waiting = {1, 2, 3, 4, 9}
    assert (len(queue), queue.ahead_of(FEW)) == (5, 4)
    assert [queue.pop(waiting) for _ in range(6)] == [9, 1, 4, 2, 3, None]
    assert not queue
