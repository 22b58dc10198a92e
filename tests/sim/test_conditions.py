"""Conditions: set by faults, combined, withdrawn; and the signs that a fault shows beforehand."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.sim.worlds import NodeBench
from twin.scenario.faults.load_failure import LoadFailure
from twin.scenario.faults.silent_end import SilentEnd
from twin.sim.conditions import Conditions


def test_the_worst_of_two_faults_holds_until_both_are_over() -> None:
    it = Conditions()
    it.set("first", "load_failure_share", 0.5)
    it.set("second", "load_failure_share", 1.0)
    assert (it.values["load_failure_share"], it.disturbed) == (1.0, True)
    assert it.withdraw("second") == ["load_failure_share"]
    assert it.values["load_failure_share"] == 0.5
    it.withdraw("first")
    assert (it.values["load_failure_share"], it.disturbed) == (0.0, False)
    assert it.withdraw("first") == []


def test_a_fault_replaces_what_it_set_itself() -> None:
    it = Conditions()
    it.set("ramp", "load_failure_share", 0.9)
    it.set("ramp", "load_failure_share", 0.2)
    assert it.values["load_failure_share"] == 0.2


def test_of_two_loads_one_dies_half_way_when_half_of_them_fail() -> None:
    bench = NodeBench()
    bench.node.conditions.set("fault", "load_failure_share", 0.5)
    bench.ask(0.0, "first", "a")
    bench.ask(10.0, "second", "b")
    ended: dict[str, Any] = bench.run()
    assert ended["first"] == (4.6, "")
    assert ended["second"] == (10.0 + 4.5 / 2, "server_error")


def test_a_kind_without_signs_refuses_a_lead_time() -> None:
    with pytest.raises(ValidationError, match="silent_end has no signs beforehand"):
        SilentEnd(kind="silent_end", at_s=100, lead_s=10)


def test_a_look_alike_needs_something_to_show() -> None:
    with pytest.raises(ValidationError, match="there is nothing else to see of it"):
        LoadFailure(kind="load_failure", at_s=100, comes_to_nothing=True)
