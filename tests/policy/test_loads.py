"""A node that serves what it has and cannot load: what is a failure, what is done about it, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterable

from tests.policy.bench import Bench
from twin.policy.redundancy import LOAD_COOLDOWN_S

LOST = ("cluster nodes 3 slots 2 replicas 2", "node-2 fails to load", "node-0 refuses", "advance 8")
"""A replica is lost, and the node on which it is to be replaced cannot load it."""

STUCK = "cluster nodes 3 slots 2 replicas 2 probes.load_path_model=s probes.load_path_period_s=5.0"


def seen(bench: Bench, lines: Iterable[str]) -> str:
    return "\n".join(line for command in lines for line in bench.do(command))


def of_node(bench: Bench, node: str) -> list[tuple[str, str]]:
    return [(it.diagnosis, it.state) for it in bench.policy.incidents if it.node == node]


def test_a_load_that_failed_once_is_no_failure_of_the_node() -> None:
    bench = Bench()
    seen(bench, [*LOST, "load node-2 failed", "advance 20"])
    assert of_node(bench, "node-2") == []


def test_loads_that_fail_twice_in_a_row_are_one_and_the_node_is_not_asked_again_and_again() -> None:
    bench = Bench()
    said = seen(bench, [*LOST, "load node-2 failed", "advance 40", "load node-2 failed", "advance 300"])
    assert of_node(bench, "node-2") == [("load_failing", "given_up")]
    assert said.count("load m on node-2, because") == 2
    assert "restart node-2" not in said
    assert bench.health["node-2"] == "serving", "it may serve what it has"


def test_it_is_over_once_the_model_can_be_loaded_and_then_it_is_loaded() -> None:
    bench = Bench()
    seen(bench, [*LOST, "load node-2 failed", "advance 40", "load node-2 failed", "advance 100", "node-2 works"])
    said = seen(bench, ["advance 90"])
    assert of_node(bench, "node-2") == [("load_failing", "closed")]
    assert said.count("load m on node-2, because") == 1


def test_the_pause_before_the_same_load_doubles() -> None:
    bench = Bench()
    seen(bench, [*LOST, "load node-2 failed"])
    pauses = bench.policy.redundancy.not_before_s
    assert pauses["node-2", "m"] == bench.now + LOAD_COOLDOWN_S
    seen(bench, ["advance 40", "load node-2 timed_out"])
    assert pauses["node-2", "m"] == bench.now + 2.0 * LOAD_COOLDOWN_S


def test_a_probe_of_the_loader_that_gets_an_error_twice_is_a_failure_too_and_nothing_is_loaded_there() -> None:
    bench = Bench()
    seen(bench, [STUCK, "node-0 fails to load", "advance 20"])
    assert of_node(bench, "node-0") == [("load_failing", "given_up")]
    assert bench.policy.view.nodes["node-0"].free_gib() < 0.0
    assert bench.health["node-0"] == "serving"
    seen(bench, ["node-0 works", "advance 20"])
    assert of_node(bench, "node-0") == [("load_failing", "closed")]
    assert bench.policy.view.nodes["node-0"].free_gib() > 0.0


def test_where_a_new_server_can_load_nothing_either_it_is_not_restarted_again() -> None:
    bench = Bench()
    said = seen(bench, [STUCK, "node-0 cannot load", "advance 16", "restart node-0 done", "advance 600"])
    assert said.count("restart node-0, because") == 1
    (incident,) = bench.policy.incidents
    assert (incident.diagnosis, incident.state) == ("load_path_stuck", "given_up")
    assert incident.evidence.endswith("; a new server process can load nothing either")
    seen(bench, ["node-0 works", "advance 120"])
    assert incident.state == "closed"


def test_where_the_machine_shows_that_the_disk_is_silent_it_is_not_restarted_at_all() -> None:
    bench = Bench()
    said = seen(bench, [STUCK, "machines are read", "node-0 reads nothing", "advance 600"])
    assert "restart node-0" not in said
    (incident,) = bench.policy.incidents
    assert (incident.diagnosis, incident.state) == ("load_path_stuck", "given_up")
    assert "the disk is silent, not the scheduler" in incident.evidence
    node = bench.policy.view.nodes["node-0"]
    assert (node.health, node.replicas["m"].resident, node.loads_nothing) == ("serving", True, True)
    seen(bench, ["node-0 works", "advance 30"])
    assert (incident.state, node.loads_nothing) == ("closed", False)


def test_where_the_machine_shows_no_load_the_scheduler_is_stuck_and_it_is_restarted() -> None:
    bench = Bench()
    said = seen(bench, [STUCK, "machines are read", "node-0 cannot load", "advance 30"])
    assert said.count("restart node-0, because load_path_stuck") == 1


def test_a_node_that_was_set_aside_for_its_loader_and_loads_again_is_not_restarted() -> None:
    bench = Bench()
    lines = [STUCK, "machines are read", "node-0 cannot load", "advance 14.5", "node-0 works", "advance 60"]
    said = seen(bench, lines)
    assert "drain node-0" in said
    assert "restart node-0" not in said
    assert of_node(bench, "node-0") == [("load_path_stuck", "closed")]
    assert bench.health["node-0"] == "serving"


def test_what_was_left_alone_makes_way_for_a_failure_that_can_be_mended() -> None:
    bench = Bench()
    seen(bench, [STUCK, "machines are read", "node-0 reads nothing", "advance 60"])
    said = seen(bench, ["node-0 refuses", "advance 5"])
    assert of_node(bench, "node-0") == [("load_path_stuck", "closed"), ("server_down", "acting")]
    assert "restart node-0, because server_down" in said
