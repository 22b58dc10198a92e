"""The healing score counts every incident, and only those as healed that were verified, in time, and stayed well."""

from __future__ import annotations

import pytest

from twin.experiment.healing_score import (
    NOTHING,
    incidents_of,
    mendable_kinds,
    own_kinds,
    scenario_for,
    share_of,
)


@pytest.mark.long
def test_a_crash_that_the_policy_repairs_is_healed_and_left_alone_it_is_not() -> None:
    ours = incidents_of(1, ["server_crash"], {})
    nothing = incidents_of(1, ["server_crash"], NOTHING)
    assert share_of(ours)["share"] == 1.0
    assert share_of(nothing)["share"] == 0.0
    assert {it.kind for it in ours} == {"server_crash"}


@pytest.mark.long
def test_where_the_cause_stays_nothing_is_healed_and_a_node_that_is_left_alone_costs_nothing_more() -> None:
    seen = incidents_of(1, ["load_stall"], {})
    assert len(seen) == 4, "one for each node that was struck"
    assert not any(it.healed for it in seen)
    assert all(it.contained for it in seen)


@pytest.mark.long
def test_a_runner_that_hung_is_renewed_before_it_has_taken_as_many_requests_again() -> None:
    seen = incidents_of(3, ["hang_after_requests"], {})
    assert len(seen) == 4, "one for each node that was struck"
    assert all(it.healed for it in seen)


def test_of_none_there_is_no_share() -> None:
    nothing = {"n": 0, "healed": 0, "share": None, "ci95": None, "contained": 0, "unjudged": 0}
    assert share_of([]) == nothing


def test_a_seed_strikes_four_different_nodes_and_nobody_from_outside_helps_in_time() -> None:
    it = scenario_for(7, own_kinds(), {})
    assert len({fault.target for fault in it.faults}) == 4
    assert all(fault.duration_s is None or fault.at_s + fault.duration_s > it.end_of_load_s for fault in it.faults)


def test_what_can_be_mended_is_what_the_catalogue_says() -> None:
    assert {"server_crash", "runner_hang", "vram_leak", "scheduler_deadlock", "damaged_model"} <= set(mendable_kinds())
    assert not {"thermal_throttle", "foreign_load", "hang_after_requests"} & set(mendable_kinds())
