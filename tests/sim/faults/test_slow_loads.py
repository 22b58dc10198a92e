"""F17: loads take many times as long."""

from __future__ import annotations

import pytest

from tests.sim.worlds import NodeBench


def test_only_the_reading_of_weights_is_slow() -> None:
    bench = NodeBench()
    bench.ask(0.0, "usual", "a")
    bench.at(5.0, bench.node.conditions.set, "fault", "load_speed_factor", 1.0 / 10.0)
    bench.ask(6.0, "slow", "b")
    bench.ask(50.0, "hot", "a")
    ended = bench.run()
    assert ended["usual"] == (pytest.approx(0.5 + 4.0 + 0.1), "")
    assert ended["slow"] == (pytest.approx(6.0 + 0.5 + 40.0 + 0.1), "")
    assert ended["hot"] == (pytest.approx(50.1), "")
