from __future__ import annotations

import time
from typing import Any

import pytest

from tests.record.runs import NAN, Run
from twin.record.figures import compute_figures
from twin.record.names import FIGURES, SUMMARY_KEYS


def figure(run: Run, name: str, **changes: Any) -> Any:
    return compute_figures(run.end(**changes))[name]


def test_every_figure_has_its_name_in_the_catalogue() -> None:
    assert set(compute_figures(Run().end())) == set(FIGURES)


def test_wrong_answers_are_counted_of_those_that_passed_for_a_success() -> None:
    run = Run().request(1.0, 2.0).request(2.0, 3.0, answer="gibberish").request(3.0, 4.0, answer="truncated_prompt")
    run.request(4.0, 5.0, outcome="failed", answer=None)
    assert compute_figures(run.end())["answers_wrong"] == 2
    assert compute_figures(Run().request(1.0, 2.0, answer=None).end())["answers_wrong"] is None


def test_what_was_not_observed_is_none_and_never_zero() -> None:
    figures = compute_figures(Run().end(events=None))
    nothing = dict.fromkeys(SUMMARY_KEYS)
    assert figures == {
        "requests_offered": 0,
        "requests_admitted": 0,
        "requests_rejected": 0,
        "requests_succeeded": 0,
        "requests_lost": 0,
        "answers_wrong": None,
        "requests_cancelled": 0,
        "success_ratio": None,
        "ttd_s": None,
        "ttm_s": None,
        "ttr_s": None,
        "ttft_s": nothing,
        "e2e_s": nothing,
        "queue_wait_s": nothing,
        "tokens_generated": 0,
        "attempts_per_request": None,
        "actions": {},
        "incidents": 0,
        "incidents_healed": 0,
        "false_actions": 0,
        "faults_foretold": None,
        "false_warnings": 0,
        "simulated_s": 100.0,
        "events": None,
        "events_per_request": None,
        "wall_s": 0.5,
    }


def test_requests_are_counted_by_how_they_ended() -> None:
    run = Run()
    run.request(1.0, 2.0).request(1.0, 2.0).request(1.0, 2.0)
    run.request(1.0, 61.0, outcome="deadline", error="deadline")
    run.request(1.0, 3.0, outcome="failed", error="reset")
    run.request(1.0, 3.0, outcome="cancelled")
    run.request(1.0, 1.0, outcome="rejected", admitted=False, attempts=0, node=None, dispatched_s=NAN)
    figures = compute_figures(run.end())
    names = ("offered", "admitted", "rejected", "succeeded", "lost")
    assert [figures[f"requests_{name}"] for name in names] == [7, 6, 1, 3, 2]
    assert figures["requests_cancelled"] == 1
    assert figures["success_ratio"] == 3 / 5


def test_a_terminal_record_after_the_deadline_is_a_loss() -> None:
    run = Run().request(1.0, 5.0, deadline_s=4.0).request(1.0, 4.0, deadline_s=4.0)
    figures = compute_figures(run.end())
    assert (figures["requests_succeeded"], figures["requests_lost"]) == (1, 1)


def test_requests_of_the_warm_up_are_not_counted_but_the_first_after_it_is() -> None:
    run = Run().request(9.999, 10.5, outcome="failed").request(10.0, 12.0)
    figures = compute_figures(run.end(warmup_s=10.0))
    assert (figures["requests_offered"], figures["requests_lost"]) == (1, 0)
    assert figures["tokens_generated"] == 10
    assert figures["events_per_request"] == 25.0  # of the whole run: its events know no warm-up


def test_latencies_are_those_of_requests_that_succeeded() -> None:
    run = Run()
    for took_s in (1.0, 2.0, 3.0, 4.0):
        run.request(10.0, 10.0 + took_s, first_token_s=10.0 + took_s / 2)
    run.request(10.0, 60.0, outcome="failed")
    figures = compute_figures(run.end())
    assert figures["e2e_s"] == {"mean": 2.5, "p50": 2.5, "p95": pytest.approx(3.85), "p99": pytest.approx(3.97)}
    assert figures["ttft_s"] == {
        "mean": 1.25,
        "p50": 1.25,
        "p95": pytest.approx(1.925),
        "p99": pytest.approx(1.985),
    }


def test_a_request_without_a_first_token_says_nothing_of_the_time_to_it() -> None:
    run = Run().request(10.0, 12.0, first_token_s=NAN).request(10.0, 12.0, first_token_s=11.0)
    assert figure(run, "ttft_s")["mean"] == 1.0


def test_the_queue_wait_has_a_part_at_the_gateway_and_a_hidden_one_at_the_node() -> None:
    timings = {"load_duration_s": 0.5, "prompt_eval_duration_s": 1.0, "eval_duration_s": 2.0}
    run = Run().request(10.0, 20.0, dispatched_s=11.0, total_duration_s=5.5, **timings)
    assert figure(run, "queue_wait_s")["mean"] == 1.0 + 2.0
    without_timings = Run().request(10.0, 20.0, dispatched_s=11.0)
    assert figure(without_timings, "queue_wait_s")["mean"] == 1.0
    more_parts_than_total = Run().request(10.0, 20.0, dispatched_s=11.0, total_duration_s=3.0, **timings)
    assert figure(more_parts_than_total, "queue_wait_s")["mean"] == 1.0


def test_attempts_and_tokens_are_those_of_all_counted_requests() -> None:
    run = Run().request(1.0, 2.0).request(1.0, 3.0, attempts=3, tokens_received=7)
    run.request(1.0, 9.0, outcome="failed", tokens_received=4, attempts=2)
    figures = compute_figures(run.end())
    assert figures["attempts_per_request"] == 2.0
    assert figures["tokens_generated"] == 21


def test_actions_are_counted_by_kind() -> None:
    run = Run().action(1.0, "restart").action(2.0, "drain").action(3.0, "restart")
    assert figure(run, "actions") == {"drain": 1, "restart": 2}


@pytest.mark.parametrize(
    ("kind", "time_s", "node", "false"),
    [
        ("restart", 19.9, "node-0", 1),  # before the fault
        ("restart", 20.0, "node-0", 0),
        ("restart", 30.0, "node-0", 0),  # the very action that ends it
        ("restart", 30.1, "node-0", 1),  # the fault is over
        ("restart", 25.0, "node-1", 1),  # another node
        ("unload", 25.0, "node-1", 1),
        ("drain", 25.0, "node-1", 0),  # costs nothing that runs
    ],
)
def test_a_false_action_is_a_disruptive_one_where_no_fault_held(
    kind: str, time_s: float, node: str, false: int
) -> None:
    assert figure(Run().fault(20.0, ended_s=30.0).action(time_s, kind, node), "false_actions") == false


@pytest.mark.parametrize(("status", "false"), [("failed", 1), ("no_hand", 0), ("no_lease", 0), ("advised", 0)])
def test_what_was_not_tried_is_no_false_action(status: str, false: int) -> None:
    assert figure(Run().action(10.0, status=status), "false_actions") == false


def test_a_fault_that_never_ended_holds_its_node_to_the_end() -> None:
    assert figure(Run().fault(20.0, held=True).action(99.0), "false_actions") == 0


@pytest.mark.parametrize(
    ("changes", "healed"),
    [
        ({}, 1),
        ({"state": "given_up"}, 0),
        ({"state": "holding"}, 0),
        ({"verified_s": NAN}, 0),
        ({"verified_s": 60.0}, 0),  # no earlier than if nothing had been done
        ({"verified_s": 29.0}, 0),  # "verified" while the fault still held: nothing was healed
        ({"actions": 0}, 0),
        ({"node": "node-1"}, 0),
        ({"opened_s": 19.0}, 0),  # no fault held the node then
    ],
)
def test_a_healed_incident_was_verified_and_earlier_than_if_nothing_had_been_done(
    changes: dict[str, Any], healed: int
) -> None:
    whole: dict[str, Any] = {"opened_s": 22.0, "verified_s": 31.0, "closed_s": 41.0} | changes
    run = Run().fault(20.0, planned_end_s=60.0, ended_s=30.0).incident(**whole)
    figures = compute_figures(run.end())
    assert (figures["incidents"], figures["incidents_healed"]) == (1, healed)


def test_a_fault_that_nothing_else_would_end_is_healed_whenever_it_is_over() -> None:
    run = Run().fault(20.0, ended_s=80.0).incident(22.0, verified_s=85.0, closed_s=95.0)
    assert figure(run, "incidents_healed") == 1


def test_times_to_detection_mitigation_and_recovery_are_means_over_the_faults_that_showed_them() -> None:
    run = Run().every(1.0, 1.0, 99.0).every(1.0, 1.0, 99.0, node="node-1")
    run.fault(20.0).fault(60.0, node="node-1", fault_id=1).fault(95.0, node="node-2", fault_id=2)
    run.incident(23.0).incident(65.0, node="node-1")
    figures = compute_figures(run.end())
    assert figures["ttd_s"] == 4.0  # 3 and 5; the third was never detected
    assert figures["ttm_s"] is None  # nothing failed
    assert figures["ttr_s"] == 1.0  # the third was never recovered from


def test_twenty_runs_of_1500_requests_take_well_under_a_second() -> None:
    run = Run().fault(20.0).fault(50.0, node="node-1").incident(21.0)
    for index in range(1500):
        run.request(index / 20, index / 20 + 2.0, node=f"node-{index % 5}")
        if index % 50 == 0:
            run.failed_attempt(index / 20, request_id=index)
    record = run.end()
    compute_figures(record)
    started_s = time.process_time()
    for _ in range(20):
        compute_figures(record)
    assert time.process_time() - started_s < 1.0


@pytest.mark.parametrize("kind", ["partition", "link_down", "slow_network", "address_change", "connection_reset"])
def test_a_restart_mends_no_network_so_it_is_false_where_only_the_network_is_broken(kind: str) -> None:
    cut = Run().fault(10.0, ended_s=50.0, kind=kind).action(30.0)
    assert figure(cut, "false_actions") == 1
    dead_too = Run().fault(10.0, ended_s=50.0, kind=kind).fault(20.0, ended_s=30.0, fault_id=1).action(30.0)
    assert figure(dead_too, "false_actions") == 0


def test_a_gateway_that_is_cut_off_itself_is_no_reason_to_restart_a_node() -> None:
    run = Run().fault(10.0, ended_s=50.0, kind="partition", struck="gateway-0").action(30.0)
    assert figure(run, "false_actions") == 1


def test_a_rack_without_power_is_more_than_its_network() -> None:
    run = Run().fault(10.0, ended_s=50.0, kind="rack_failure", struck="r1").action(30.0)
    assert figure(run, "false_actions") == 0
