"""How many requests a replica serves at once is learnt from the waits of those that it served."""

from __future__ import annotations

import heapq

from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import AttemptEnded, ClusterSpec, ModelSpec, NodeSpec, RequestSpec

SERVICE_S = 2.0


class Node:
    """Serves `slots` requests at once and lets the others wait inside, as Ollama does; many clients keep it busy."""

    def __init__(self, slots: int, *, learn: bool = True, started_with: int = 1) -> None:
        cluster = ClusterSpec((NodeSpec("a"),), (ModelSpec("m", 1.0, 1, started_with),), {"a": ("m",)})
        overrides: dict[str, bool | int | float | str] = {"admission.learn_slots": learn}
        self.policy = ClusterPolicy(cluster, preset("default", overrides))
        self.slots = slots
        self.now = 0.0
        self.number = 0
        self.free_s = [0.0] * slots
        self.running: list[tuple[float, int, float, float]] = []  # end, request, wait inside, service

    def dispatched(self, number: int) -> None:
        free_s = heapq.heappop(self.free_s)
        starts_s = max(free_s, self.now)
        service_s = SERVICE_S + number * 0.37 % 1.0  # no two take the same
        heapq.heappush(self.free_s, starts_s + service_s)
        heapq.heappush(self.running, (starts_s + service_s, number, starts_s - self.now, service_s))

    def ask(self) -> None:
        self.number += 1
        route = self.policy.route(self.now, RequestSpec(self.number, "m", 10, True, self.now, 1e9), 0)
        if route.kind == "dispatch":
            self.dispatched(self.number)

    def serve(self, requests: int, waiting: int) -> int:
        """Always so many waiting at the gateway; the limit that came out."""
        for _ in range(requests):
            while self.policy.waiting < waiting:
                self.ask()
            self.now, number, wait_s, service_s = heapq.heappop(self.running)
            self.policy.observe(
                self.now,
                AttemptEnded(
                    number, 0, "a", "m", "succeeded", "", self.now - service_s - wait_s, self.now - 1.0, 9,
                    prompt_eval_duration_s=0.5, eval_duration_s=service_s - 0.5, total_duration_s=service_s + wait_s,
                ),
            )  # fmt: skip
            for released, _ in self.policy.released(self.now):
                self.dispatched(released)
        limit: int = self.policy.snapshot().parts["nodes"]["a"]["slots"]["m"]
        return limit


def test_the_limit_rises_to_what_the_node_serves_at_once_and_stays_there() -> None:
    node = Node(slots=4)
    assert node.serve(300, waiting=3) == 4


def test_a_limit_that_is_too_high_comes_down() -> None:
    assert Node(slots=2, started_with=6).serve(300, waiting=3) == 2


def test_a_node_that_was_set_up_anew_is_learnt_anew() -> None:
    node = Node(slots=2)
    assert node.serve(200, waiting=3) == 2
    node.slots = 3
    heapq.heappush(node.free_s, node.now)
    assert node.serve(1500, waiting=3) == 3


def test_while_nobody_waits_the_limit_stays() -> None:
    node = Node(slots=4)
    for _ in range(50):
        node.ask()
        node.now, number, _, _ = heapq.heappop(node.running)
        node.policy.observe(
            node.now,
            AttemptEnded(number, 0, "a", "m", "succeeded", "", node.now - 2.0, node.now - 1.0, 9, total_duration_s=2.0),
        )
    assert node.policy.snapshot().parts["nodes"]["a"]["slots"] == {"m": 1}


def test_who_says_how_many_it_is_is_believed() -> None:
    assert Node(slots=4, learn=False).serve(100, waiting=3) == 1


def test_what_was_learnt_outlives_the_policy() -> None:
    node = Node(slots=4)
    node.serve(300, waiting=3)
    heir = Node(slots=4)
    heir.policy.restore(0.0, node.policy.snapshot())
    assert heir.policy.snapshot().parts["nodes"]["a"]["slots"] == {"m": 4}
