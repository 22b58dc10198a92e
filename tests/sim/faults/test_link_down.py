"""F30: a link that is down, with a router that says so."""

from __future__ import annotations

from tests.sim.test_faults import client_sees, failed_of, outcomes, took_s


def test_streams_are_reset_and_new_connections_refused_at_once_while_the_node_is_well() -> None:
    record = client_sees({"kind": "link_down", "duration_s": 6})
    assert failed_of(record) == set(range(19, 27))
    assert {outcomes(record)[second][1].split(":")[0] for second in (19, 20)} == {"reset"}
    assert {outcomes(record)[second][1].split(":")[0] for second in range(21, 27)} == {"refused"}
    assert max(took_s(record)[second] for second in range(21, 27)) < 0.002, "not a second of silence"
    assert took_s(record)[27] < 2.002, "nothing had to be loaded again"


def test_an_agent_behind_it_cannot_be_reached() -> None:
    models = {"llama3.1:8b": {"replicas": 3}}
    record = client_sees({"kind": "link_down"}, policy={}, cluster__nodes=3, cluster__models=models)
    orders = [row for row in record.table("actions").to_pylist() if row["kind"] == "restart"]
    assert orders
    assert {row["detail"] for row in orders} == {"the node's agent cannot be reached"}
