"""Incidents that are over are kept for a while, and no longer; what is open is kept, and numbers go on."""

from __future__ import annotations

from tests.policy.bench import cluster
from twin.policy.cluster_policy import ClusterPolicy
from twin.policy.healer import RELAPSE_S, SETTLED_KEPT, SETTLED_KEPT_S
from twin.policy.parameters import preset
from twin.policy.vocabulary import Incident

SURPLUS = 5


def policy() -> ClusterPolicy:
    """One incident that is open, and then many that were over at 10 s."""
    it = ClusterPolicy(cluster(2, 1, 1), preset("default"))
    it.healer.incidents.append(Incident(0, "node-0", "slow", "", 1.0))
    for number in range(1, 1 + SETTLED_KEPT + SURPLUS):
        it.healer.incidents.append(Incident(number, "node-1", "slow", "", 2.0, "closed", 5.0, 10.0))
    it.healer.opened = len(it.healer.incidents)
    return it


def test_as_long_as_one_may_be_opened_again_it_is_kept() -> None:
    it = policy()
    assert it.settled(10.0 + RELAPSE_S - 1.0) == []


def test_those_beyond_the_last_ones_are_handed_over_once_the_oldest_first() -> None:
    it = policy()
    now = 10.0 + RELAPSE_S
    assert [gone.incident_id for gone in it.settled(now)] == [1, 2, 3, 4, 5]
    assert it.settled(now) == []
    assert [kept.incident_id for kept in it.incidents[:2]] == [0, 6]


def test_after_a_day_only_what_is_open_is_left() -> None:
    it = policy()
    assert len(it.settled(10.0 + SETTLED_KEPT_S)) == SETTLED_KEPT + SURPLUS
    assert [kept.incident_id for kept in it.incidents] == [0]


def test_numbers_go_on_and_who_follows_incidents_misses_none() -> None:
    it = policy()
    it.settled(10.0 + SETTLED_KEPT_S)
    it.decide(10.0 + SETTLED_KEPT_S)
    node = it.view.nodes["node-0"]
    it.detection.reopen(10.0 + SETTLED_KEPT_S, node, "server_down", "refused")
    it.decide(11.0 + SETTLED_KEPT_S)
    number = 1 + SETTLED_KEPT + SURPLUS
    assert [new.incident_id for new in it.healer.opened_from(number)] == [number]
    assert it.foresight.judged == it.wear.next_incident == it.healer.opened == number + 1
