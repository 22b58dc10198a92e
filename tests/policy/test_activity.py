"""What a node's machine shows, and no probe: others have taken the node, or its GPU is gone."""

from __future__ import annotations

from collections.abc import Iterable

from tests.policy.bench import Bench
from twin.policy.activity import CROWDED_MAX_S
from twin.policy.detection import CROWDED_TOLD_S
from twin.policy.slowness import FAR_LEVELS

TAKEN = ("cluster nodes 3 slots 2 replicas 2", "machines are read")
WITHOUT = ("cluster nodes 3 slots 2 replicas 3", "machines are read", "advance 6", "node-0 has lost its GPU")


def seen(bench: Bench, lines: Iterable[str]) -> str:
    return "\n".join(line for command in lines for line in bench.do(command))


def of_node(bench: Bench) -> list[tuple[str, str]]:
    return [(it.diagnosis, it.state) for it in bench.policy.incidents if it.node == "node-0"]


def test_an_operator_learns_of_a_node_that_others_have_taken_and_what_it_has_is_loaded_elsewhere() -> None:
    bench = Bench()
    said = seen(bench, [*TAKEN, "node-0 is crowded", f"advance {CROWDED_TOLD_S - 60.0}"])
    assert of_node(bench) == [], "it may be over in a moment"
    said = seen(bench, ["advance 120"])
    assert of_node(bench) == [("crowded", "open")]
    assert "load m on node-2, because m has 1 of 2 replicas" in said


def test_a_node_that_serves_others_is_never_restarted_as_long_as_tokens_come() -> None:
    bench = Bench()
    said = seen(bench, [*TAKEN, "node-0 is crowded, a token takes 200 s", f"advance {3.0 * CROWDED_MAX_S}"])
    assert "restart node-0" not in said
    assert of_node(bench) == [("crowded", "open")]
    assert bench.health["node-0"] == "suspect", "no request would wait that long"
    seen(bench, ["node-0 works", "advance 30"])
    assert of_node(bench) == [("crowded", "closed")]
    assert bench.health["node-0"] == "serving"


def test_a_node_that_works_and_gives_no_token_in_half_an_hour_hangs() -> None:
    bench = Bench()
    said = seen(bench, [*TAKEN, "node-0 is crowded", f"advance {CROWDED_MAX_S - 100.0}"])
    assert "restart node-0" not in said
    said = seen(bench, ["advance 1100"])
    assert "restart node-0, because runner_hung" in said
    assert of_node(bench) == [("crowded", "closed"), ("runner_hung", "acting")]


def test_a_node_that_lost_its_gpu_is_restarted_once_and_then_left_as_the_last_choice() -> None:
    bench = Bench()
    said = seen(bench, [*WITHOUT, "advance 16", "restart node-0 done", "advance 300"])
    assert said.count("restart node-0, because without_gpu") == 1
    assert of_node(bench) == [("without_gpu", "given_up")]
    node = bench.policy.view.nodes["node-0"]
    assert (node.health, node.penalty) == ("serving", FAR_LEVELS)


def test_it_is_as_any_other_once_its_machine_shows_the_gpu_again() -> None:
    bench = Bench()
    seen(bench, [*WITHOUT, "advance 16", "restart node-0 done", "advance 300", "node-0 works", "advance 30"])
    assert of_node(bench) == [("without_gpu", "closed")]
    assert bench.policy.view.nodes["node-0"].penalty == 0


def test_a_node_that_comes_back_from_a_crash_without_its_gpu_has_not_come_back() -> None:
    bench = Bench()
    lines = ["cluster nodes 3 slots 2 replicas 3", "machines are read", "advance 6", "node-0 refuses", "advance 5"]
    said = seen(bench, [*lines, "node-0 has lost its GPU", "restart node-0 done", "advance 300"])
    assert said.count("restart node-0, because") == 1, "that was tried"
    assert of_node(bench) == [("server_down", "given_up")]
    assert bench.policy.view.nodes["node-0"].penalty == FAR_LEVELS


def test_a_machine_that_never_had_a_gpu_lacks_none() -> None:
    bench = Bench()
    lines = ["cluster nodes 2 slots 2 replicas 2", "node-0 has lost its GPU", "machines are read", "advance 60"]
    seen(bench, lines)
    assert of_node(bench) == []
