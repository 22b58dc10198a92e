"""F29: a server that is started finds no GPU, or looks for it for long."""

from __future__ import annotations

from tests.sim.faults.test_vram_leak import SHORT, pace_ms
from tests.sim.test_faults import client_sees, outcomes
from tests.sim.worlds import NodeBench


def test_nothing_listens_for_half_a_minute_and_then_all_is_slow() -> None:
    record = client_sees(
        {"kind": "gpu_discovery", "looks_for_s": 30.0, "duration_s": 80}, workload__duration_s=140, **SHORT
    )
    refused = {second for second, it in outcomes(record).items() if it[1].startswith("refused")}
    assert refused == set(range(22, 51, 2))
    assert pace_ms(record, 52.0, 95.0) > 40.0
    assert pace_ms(record, 120.0, 140.0) < 11.0, "a new driver"


def test_a_search_that_takes_long_and_finds_them_leaves_the_speed_as_it_was() -> None:
    record = client_sees({"kind": "gpu_discovery", "looks_for_s": 10.0, "finds_none": False}, **SHORT)
    assert pace_ms(record, 40.0, 60.0) < 11.0


def test_a_server_that_is_killed_while_it_looks_begins_again() -> None:
    bench = NodeBench()
    node = bench.node
    node.conditions.set("fault", "start_added_s", 30.0)
    answering: list[tuple[float, bool]] = []
    bench.at(0.0, node.kill_server)
    bench.at(1.0, node.start_server)
    bench.at(20.0, node.kill_server)
    bench.at(21.0, node.start_server)
    for time_s in (32.0, 50.0, 52.0):
        bench.at(time_s, lambda: answering.append((bench.engine.now, node.alive)))
    bench.run()
    assert answering == [(32.0, False), (50.0, False), (52.0, True)]
