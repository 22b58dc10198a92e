"""F17: loads make no progress."""

from __future__ import annotations

import pytest

from tests.sim.worlds import LOAD_S, NodeBench
from twin.sim.stalls import LOAD_TIMEOUT_S


def stalled(from_s: float, to_s: float | None = None) -> NodeBench:
    bench = NodeBench()
    conditions = bench.node.conditions

    def changed(value: float) -> None:
        conditions.set("fault", "loads_stalled", value) if value else conditions.withdraw("fault")
        bench.node.conditions_changed()

    bench.at(from_s, changed, 1.0)
    if to_s is not None:
        bench.at(to_s, changed, 0.0)
    return bench


def test_what_is_loaded_goes_on_and_a_load_fails_after_five_minutes_without_progress() -> None:
    bench = stalled(10.0)
    bench.ask(0.0, "loads before", "a")
    bench.ask(20.0, "hot", "a")
    bench.ask(30.0, "cold", "b")
    bench.ask(40.0, "behind it", "c")
    ended = bench.run()
    assert ended["loads before"] == (LOAD_S + 0.1, "")
    assert ended["hot"] == (20.1, "")
    assert ended["cold"] == (30.0 + LOAD_TIMEOUT_S, "server_error")
    assert ended["behind it"] == (30.0 + 2 * LOAD_TIMEOUT_S, "server_error"), "there is one loading routine"


@pytest.mark.parametrize(
    ("begun_s", "reading_s"), [(8.0, 2.5), (12.0, 4.0)], ids=["a part is read", "only the runner starts meanwhile"]
)
def test_a_load_goes_on_where_it_was_when_the_disk_gives_again(begun_s: float, reading_s: float) -> None:
    bench = stalled(10.0, 60.0)
    bench.ask(begun_s, "cold", "a")
    assert bench.run()["cold"] == (pytest.approx(60.0 + reading_s + 0.1), "")


def test_a_client_that_goes_away_aborts_the_load_and_the_next_one_stands_still_for_its_own_five_minutes() -> None:
    bench = stalled(0.0)
    bench.ask(1.0, "impatient", "a")
    bench.hang_up(100.0, "impatient")
    bench.ask(50.0, "patient", "b")
    assert bench.run() == {"patient": (100.0 + LOAD_TIMEOUT_S, "server_error")}
