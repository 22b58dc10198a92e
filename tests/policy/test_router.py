"""Small rules of the router that the transcripts do not count out."""

from __future__ import annotations

from itertools import pairwise

from tests.policy.bench import Bench
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.parameters import preset
from twin.policy.vocabulary import AttemptEnded, ClusterSpec, ModelSpec, NodeSpec, ProbeResult, RequestSpec


def bench(cluster: str) -> Bench:
    it = Bench()
    it.do(f"cluster {cluster}")
    return it


def said(it: Bench, command: str) -> list[str]:
    return [line.partition(" ")[2] for line in it.do(command)]


def test_a_full_budget_pays_for_as_many_retries_as_it_holds_and_each_arrival_adds_its_share() -> None:
    it = bench("nodes 40 slots 1 replicas 40 retry.budget_reserve=20.0 retry.budget_ratio=0.25")
    it.do("requests 1-30")
    retried = sum("shed" not in it.do(f"ended {number} server_error")[0] for number in range(1, 26))
    assert retried == 20
    it.do("requests 31-34")  # four arrivals, one retry
    assert "shed" not in it.do("ended 26 server_error")[0]
    assert it.do("ended 27 server_error")[0].endswith("shed: server_error: the retry budget is spent")


def test_the_budget_does_not_grow_beyond_its_size() -> None:
    it = bench("nodes 40 slots 8 replicas 40 retry.budget_reserve=2.0 retry.budget_ratio=10.0")
    it.do("requests 1-100")
    assert it.policy.router.budget == 2.0
    assert [("->" in it.do(f"ended {number} reset")[0]) for number in (1, 2, 3)] == [True, True, False]


def test_what_we_broke_off_ourselves_is_moved_without_touching_the_budget() -> None:
    it = bench("nodes 3 slots 2 replicas 3 retry.budget_reserve=0.0 retry.budget_ratio=0.0")
    it.do("request 1")
    assert said(it, "ended 1 aborted") == ["request 1 -> node-1"]
    assert said(it, "ended 1 reset")[0] == "request 1 shed: reset: the retry budget is spent"


def test_what_we_broke_off_ourselves_does_not_use_up_the_attempts_of_a_request() -> None:
    it = bench("nodes 4 slots 2 replicas 4 retry.attempts_max=1")
    it.do("request 1")
    assert said(it, "ended 1 aborted")[0].startswith("request 1 -> ")
    assert said(it, "ended 1 aborted")[0].startswith("request 1 -> ")
    assert said(it, "ended 1 reset")[0].startswith("request 1 -> ")
    assert said(it, "ended 1 reset")[0] == "request 1 shed: reset: all 4 attempts failed"


def test_an_error_that_every_node_would_give_is_not_retried() -> None:
    it = bench("nodes 3 slots 2 replicas 3")
    it.do("request 1")
    assert said(it, "ended 1 diverged") == ["request 1 shed: diverged: another node would do no better"]


def test_a_request_that_one_node_calls_wrong_is_asked_of_one_other() -> None:
    it = bench("nodes 3 slots 2 replicas 3 retry.budget_reserve=0.0 retry.budget_ratio=0.0")
    it.do("request 1")
    assert said(it, "ended 1 client_error") == ["request 1 -> node-1"]
    assert said(it, "ended 1 client_error") == ["request 1 shed: client_error: another node would do no better"]


def test_where_a_node_says_that_it_is_full_each_other_is_asked_once_without_touching_the_budget() -> None:
    it = bench("nodes 3 slots 2 replicas 3 retry.budget_reserve=0.0 retry.budget_ratio=0.0")
    it.do("request 1")
    assert said(it, "ended 1 overloaded") == ["request 1 -> node-1"]
    assert said(it, "ended 1 overloaded") == ["request 1 -> node-2"]
    assert said(it, "ended 1 overloaded") == ["request 1 shed: overloaded: the retry budget is spent"]


def test_a_node_that_says_that_it_is_full_is_chosen_after_the_others_and_ever_more_seldom() -> None:
    it = bench("nodes 2 slots 4 replicas 2")
    tried: list[float] = []
    for number in range(1, 241):  # a minute of a request every quarter of a second
        if said(it, f"request {number}")[0].endswith("node-0"):
            tried.append(number / 4)
            it.do(f"ended {number} overloaded")
        it.do(f"ended {number} succeeded")
        it.do("advance 0.25")
    gaps = [later - sooner for sooner, later in pairwise(tried)]
    assert len(tried) <= 8
    assert all(later >= sooner for sooner, later in pairwise(gaps)), tried
    assert gaps[-1] > 8 * gaps[0]
    it.do("requests 301-308")  # beyond what the other has room for it is asked all the same
    assert sum(node.in_flight for node in it.policy.view.nodes.values()) == 8


def test_how_long_a_node_hung_is_no_measure_of_its_pace() -> None:
    it = bench("nodes 2 slots 4 replicas 2")
    it.do("requests 1-4")
    it.do("advance 3.5")
    it.do("ended 1 first_token_timeout")
    it.do("advance 9")
    for number in (2, 3):  # both have waited as long, and one of them at the node that was doubted meanwhile
        it.do(f"ended {number} succeeded")
    nodes = it.policy.view.nodes
    assert (nodes["node-0"].start_s, nodes["node-1"].start_s) == (0.0, 0.1)


def test_without_another_node_that_is_ready_the_first_opinion_stands() -> None:
    it = bench("nodes 1 slots 2 replicas 1")
    it.do("request 1")
    assert said(it, "ended 1 client_error") == ["request 1 shed: client_error: no other node to ask"]


def test_a_node_that_was_wrong_about_a_request_gets_none_of_that_model_for_a_while() -> None:
    it = bench("nodes 3 slots 9 replicas 3")
    it.do("request 1")
    it.do("ended 1 client_error")
    it.do("ended 1 succeeded")
    chosen = [said(it, f"request {number}")[0].split()[-1] for number in range(2, 8)]
    assert "node-0" not in chosen


def test_what_would_wait_too_long_for_its_deadline_is_turned_away_at_once() -> None:
    it = bench("nodes 2 slots 1 replicas 2")
    it.do("requests 1-2")
    it.do("advance 4")
    it.do("ended 1 succeeded")
    it.do("ended 2 succeeded")
    it.do("requests 3-4")
    refused = "request 5 shed: it would wait about 2.0 s, too much of the 7.5 s to its deadline"
    assert said(it, "request 5 deadline 7.5") == [
        refused
    ]  # a quarter of its time is for waiting, the rest for its answer
    assert said(it, "request 6 deadline 8.5") == ["request 6 waits"]


def test_in_a_long_outage_nobody_is_kept_waiting() -> None:
    it = bench("nodes 2 slots 1 replicas 2 healer.enabled=false")
    it.do("node-0 refuses")
    it.do("node-1 refuses")
    it.do("advance 5")
    assert said(it, "request 1") == ["request 1 waits"]
    it.do("advance 10")
    assert said(it, "request 2") == ["request 2 shed: every node that has m is down"]


def test_after_its_deadline_a_request_is_not_tried_again() -> None:
    it = bench("nodes 3 slots 2 replicas 3")
    it.do("request 1 deadline 2")
    it.do("advance 2")
    assert said(it, "ended 1 reset")[0] == "request 1 shed: deadline"


def test_a_full_node_that_lost_its_model_is_not_chosen_to_load_it() -> None:
    it = bench("nodes 1 slots 2 replicas 1")
    it.do("requests 1-2")
    it.do("node-0 forgets")
    pending = it.policy.detection.watches["node-0"].pending
    it.policy.observe(0.0, ProbeResult(pending["residency"], "node-0", "residency", "", True, 0.001, "", ()))
    assert said(it, "request 3") == ["request 3 waits"]


def test_a_request_is_forgotten_when_it_is_over() -> None:
    it = bench("nodes 2 slots 1 replicas 2")
    it.do("requests 1-2")
    it.do("ended 1 reset")  # it waits now
    it.do("withdrawn 1")
    it.do("ended 2 reset")
    it.do("advance 1")
    it.do("ended 2 succeeded")
    assert (it.policy.router.failed, it.policy.waiting) == ({}, 0)


def test_a_model_that_nobody_has_is_refused_at_once() -> None:
    it = bench("nodes 2 slots 1 replicas 2")
    it.do("request 1")
    it.requests[1].model = "x"
    assert it.policy.route(0.0, it.requests[1], 0).reason == "no node serves model x"


def test_ties_go_round_so_that_no_node_is_always_first() -> None:
    it = bench("nodes 3 slots 4 replicas 3")
    assert said(it, "requests 1-4") == [f"request {number} -> node-{(number - 1) % 3}" for number in range(1, 5)]


def test_a_node_that_was_slow_once_gets_another_chance_when_it_has_been_idle() -> None:
    it = bench("nodes 3 slots 2 replicas 2 slowness.failing_ratio=1000.0")
    nodes: list[str] = []
    for number in range(1, 70):
        it.do(f"request {number}")
        nodes.append(it.attempts[number][1])
        it.do(f"advance {30 if number > 20 and nodes[-1] == 'node-0' else 1}")
        it.do(f"ended {number} succeeded")
    slow = nodes.index("node-0", 20)
    assert nodes[slow + 1 : slow + 9] == ["node-1"] * 8, "it is set back"
    assert "node-0" in nodes[slow + 9 :], "and not for ever"


def test_a_model_is_loaded_only_where_it_is_on_the_disk() -> None:
    nodes = tuple(NodeSpec(f"node-{index}") for index in range(3))
    stored = {"node-0": ("a",), "node-1": ("b",)}
    models = (ModelSpec("a", 1.0, 1, 1), ModelSpec("b", 1.0, 0, 1))
    policy = ClusterPolicy(ClusterSpec(nodes[:2], models, {"node-0": ("a",)}, stored), preset("default"))
    assert policy.route(0.0, RequestSpec(1, "b", 10, True, 0.0, 60.0), 0).node == "node-1"
    unknown = ClusterPolicy(ClusterSpec(nodes[::2], models, {"node-0": ("a",)}, stored), preset("default"))
    assert unknown.route(0.0, RequestSpec(1, "b", 10, True, 0.0, 60.0), 0).node == "node-2"  # it may have it


def test_a_replica_knows_with_how_many_others_an_attempt_was_there_and_what_they_asked() -> None:
    cluster = ClusterSpec((NodeSpec("a"),), (ModelSpec("m", 1.0, 1, 4),), {"a": ("m",)})
    policy = ClusterPolicy(cluster, preset("default", {"predictor.enabled": False}))
    replica = policy.view.nodes["a"].replicas["m"]

    def ask(number: int, now: float, prompt_tokens: int) -> None:
        assert policy.route(now, RequestSpec(number, "m", prompt_tokens, True, now, now + 60.0), 0).kind == "dispatch"

    def end(number: int, began_s: float, now: float) -> None:
        policy.observe(now, AttemptEnded(number, 0, "a", "m", "succeeded", "", began_s, now, 9))

    ask(1, 10.0, 100)
    ask(2, 14.0, 30)
    ask(3, 16.0, 50)
    end(2, 14.0, 18.0)
    assert (replica.company, replica.prompt_tokens_beside) == ((2 * 2 + 2 * 3) / 4, 50)
    end(1, 10.0, 20.0)
    assert (replica.company, replica.prompt_tokens_beside) == ((4 * 1 + 2 * 2 + 2 * 3 + 2 * 2) / 10, 80)
    end(3, 16.0, 26.0)
    assert (replica.company, replica.prompt_tokens_beside) == ((2 * 3 + 2 * 2 + 6 * 1) / 10, 0)
