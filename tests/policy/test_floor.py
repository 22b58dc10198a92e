"""The floor of serving replicas holds until the very moment of a repair."""

from __future__ import annotations

from tests.policy.bench import Bench

STUCK = ["cluster nodes 2 slots 2 replicas 2 probes.load_path_model=s healer.drain_timeout_s=30.0", "requests 1-4"]


def stuck() -> Bench:
    """node-0 cannot load, still serves two requests, and is drained for its restart."""
    bench = Bench()
    for command in [*STUCK, "node-0 cannot load"]:
        bench.do(command)
    for _ in range(80):
        bench.do("advance 0.5")
        if bench.policy.health_of("node-0") == "drained":
            break
    assert bench.policy.health_of("node-0") == "drained"
    return bench


def test_a_drained_node_is_given_back_where_the_others_fail_before_its_restart() -> None:
    bench = stuck()
    bench.do("node-1 refuses")
    seen = bench.do("advance 3")  # while it waits for its last requests
    for number in (1, 2, 3, 4):  # it is idle now: nothing else holds its restart back
        if bench.attempts.get(number, (0, "", 0.0))[1] == "node-0":
            bench.do(f"ended {number} succeeded")
    seen += bench.do("advance 6")
    assert not any("restart node-0" in line for line in seen), seen
    assert bench.policy.health_of("node-0") == "serving"
    incident = next(it for it in bench.policy.incidents if it.node == "node-0")
    assert incident.state == "open"
    assert "not set aside while fewer replicas" in incident.evidence


def test_and_repaired_once_they_are_back() -> None:
    bench = stuck()
    seen = []
    for number in (1, 2, 3, 4):
        if bench.attempts.get(number, (0, "", 0.0))[1] == "node-0":
            seen += bench.do(f"ended {number} succeeded")
    seen += bench.do("advance 6")
    assert any("restart node-0" in line for line in seen), seen
