from __future__ import annotations

import numpy as np

from tests.learn.worlds import episode, failure, truth
from twin.experiment.twin_world import TwinWorld
from twin.learn.truth import CLASS_OF_KIND, FORETELLABLE, Truth, dormant, labels, shows, truth_of
from twin.policy.predictor.statistical import CLASSES
from twin.scenario.faults import FAULT_KINDS

from .worlds import SHORT

TIMES_S = np.arange(0.0, 2000.0, 100.0)


def label_at(what: Truth, time_s: float, horizon_s: float = 300.0) -> int:
    found, _ = labels(what, "n", TIMES_S, horizon_s)
    return int(found[np.flatnonzero(time_s == TIMES_S)[0]])


def test_within_the_horizon_of_a_failure_its_class_is_the_label_and_before_that_none() -> None:
    what = truth([failure(1000.0)])
    assert [label_at(what, at_s) for at_s in (600.0, 700.0, 900.0)] == [-1, 0, 0]
    _, until_s = labels(what, "n", TIMES_S, 300.0)
    assert until_s[9] == 100.0


def test_while_a_node_fails_and_a_horizon_after_nothing_is_used() -> None:
    what = truth([failure(1000.0, ended_s=1100.0)])
    assert [label_at(what, at_s) for at_s in (1000.0, 1300.0, 1400.0, 1500.0)] == [-2, -2, -2, -1]


def test_a_failure_that_an_action_averted_is_censored() -> None:
    what = truth(episodes=[episode(500.0, 700.0, "averted")])
    assert [label_at(what, at_s) for at_s in (400.0, 500.0, 1300.0, 1400.0)] == [-1, -2, -2, -1]


def test_a_look_alike_is_an_ordinary_time_without_failure() -> None:
    assert label_at(truth(episodes=[episode(500.0, 700.0, "nothing")]), 600.0) == -1


def test_a_node_that_was_restarted_without_a_failure_is_censored_around_it() -> None:
    what = truth(restarts=[("n", 1000.0)])
    assert [label_at(what, at_s) for at_s in (600.0, 700.0, 1300.0, 1400.0)] == [-1, -2, -2, -1]


def test_a_node_that_the_network_disturbs_is_an_ordinary_time_without_failure() -> None:
    assert label_at(Truth([], [], [("n", 500.0, 700.0)], []), 600.0) == -1


def test_other_nodes_failures_are_not_ones_own() -> None:
    found, _ = labels(truth([failure(1000.0)]), "other", TIMES_S, 300.0)
    assert (found == -1).all()


def test_every_kind_that_shows_has_a_class_or_is_known_to_have_none() -> None:
    shows = {kind for kind, it in FAULT_KINDS.items() if it.has_signs()}
    assert shows - set(FORETELLABLE) == {"registry_failure"}  # answers are not affected
    assert set(CLASS_OF_KIND) <= set(FAULT_KINDS)
    assert set(CLASS_OF_KIND.values()) == set(CLASSES)


def test_the_truth_of_a_run_has_its_failures_with_their_signs_and_its_look_alikes() -> None:
    what = truth_of(TwinWorld().run(SHORT, 1, None, lambda line: None))
    assert {(it.node, it.kind, it.at_s, it.signs_s) for it in what.failures} == {
        ("node-0", "vram_leak", 900.0, 500.0),
        ("node-1", "disk_full", 1700.0, 1400.0),
    }
    assert {(it.node, it.kind, it.outcome) for it in what.episodes} == {
        ("node-2", "host_out_of_memory", "nothing"),
        ("node-0", "cpu_offload", "failed"),  # what was loaded while the leak had the memory
    }


def test_a_defect_that_broke_nothing_is_in_the_truth_though_the_record_has_no_row_of_it() -> None:
    grabbed = {"kind": "gpu_out_of_memory", "target": "n", "at_s": 500.0, "duration_s": 100.0}
    [found] = dormant([grabbed], [], [], 2000.0)
    assert (found.node, found.began_s, found.ended_s, found.outcome) == ("n", 500.0, 600.0, "failed")
    assert not dormant([grabbed], [failure(550.0, kind="gpu_out_of_memory")], [], 2000.0)
    assert not dormant([{**grabbed, "comes_to_nothing": True}], [], [], 2000.0)


def test_a_dormant_defect_of_the_server_lasts_until_its_restart() -> None:
    slow = {"kind": "cpu_offload", "target": "n", "at_s": 500.0, "duration_s": 100.0}
    assert dormant([slow], [], [("n", 900.0), ("other", 700.0)], 2000.0)[0].ended_s == 900.0
    assert dormant([slow], [], [], 2000.0)[0].ended_s == 2000.0


def test_a_failure_shows_from_its_signs_to_its_beginning() -> None:
    found = shows(truth([failure(1000.0, signs_s=400.0), failure(1500.0)]), "n", TIMES_S)
    assert TIMES_S[found].tolist() == [400.0, 500.0, 600.0, 700.0, 800.0, 900.0]
