"""F30: every open connection is reset, once."""

from __future__ import annotations

from tests.scenario.documents import scenario
from tests.sim.test_faults import client_sees, failed_of, outcomes
from tests.sim.worlds import simulate


def test_streams_break_once_and_the_next_request_is_well() -> None:
    record = client_sees({"kind": "connection_reset"})
    assert failed_of(record) == {19, 20}
    assert {outcomes(record)[second][1].split(":")[0] for second in (19, 20)} == {"reset"}
    (fault,) = record.table("faults").to_pylist()
    assert (fault["ended_s"], fault["ended_by"]) == (20.5, "schedule")


def test_the_node_stops_working_for_those_that_were_reset() -> None:
    it = scenario(policy={"preset": "none"}, faults=[{"kind": "connection_reset", "at_s": 20, "target": "all"}])
    world, record = simulate(it)
    before = {row["node"] for row in record.table("attempts").to_pylist() if row["error"] == "reset"}
    assert before
    assert all(runner.count == 0 for node in world.nodes.values() for runner in node.runners.values())
