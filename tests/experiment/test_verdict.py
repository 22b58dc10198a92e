"""From figures to a verdict: one broken limit fails the claim, and what was not seen is not called good."""

from __future__ import annotations

from typing import Any

import pytest

from tests.record.runs import Run
from tests.scenario.documents import scenario
from twin.experiment.verdict import Replication, expectation, judge_one, look_up, verdict
from twin.record.figures import compute_figures
from twin.record.reader import RunRecord
from twin.scenario.schema import Limit

LOST = {"requests_lost": {"max": 0}}


def replication(record: RunRecord) -> Replication:
    return Replication(record, compute_figures(record), "digest")


def served(lost: int = 0, **changes: Any) -> Replication:
    """Ten requests that ended well, and some that did not."""
    run = Run().every(1.0, 1.0, 10.0)
    for number in range(lost):
        run.request(20.0 + number, 21.0 + number, outcome="failed", error="reset")
    return replication(run.end(**changes))


def struck(run: Run | None = None, **incident: Any) -> Replication:
    """Served throughout; a fault at 20 s that ends at 60 s, and an incident if one is given."""
    run = (run or Run()).every(1.0, 1.0, 95.0).fault(20.0, planned_end_s=60.0, ended_s=60.0)
    run.probe(62.0, ok=True)
    if incident:
        run.incident(**incident)
    return replication(run.end())


def judged(name: str, limit: Limit, *replications: Replication) -> dict[str, Any]:
    return expectation(name, limit, replications)


def test_a_limit_holds_only_if_it_holds_in_every_replication() -> None:
    limit = Limit(max=0)
    found = judged("requests_lost", limit, served(), served(lost=2), served())
    assert found == {
        "name": "requests_lost",
        "limit": {"max": 0.0},
        "value": pytest.approx(2 / 3),
        "ci95": pytest.approx([2 / 3 - 2.868435, 2 / 3 + 2.868435], abs=1e-5),
        "worst": 2.0,
        "observed": 3,
        "kept": 2,
        "verdict": "fail",
    }
    assert judged("requests_lost", limit, served(), served())["verdict"] == "pass"


def test_a_floor_is_judged_as_a_ceiling_is() -> None:
    found = judged("success_ratio", Limit(min=0.9), served(), served(lost=2))
    assert (found["worst"], found["verdict"]) == (pytest.approx(10 / 12), "fail")
    assert judged("success_ratio", Limit(min=0.8), served(), served(lost=2))["verdict"] == "pass"


def test_a_value_on_its_limit_keeps_it() -> None:
    assert judge_one("requests_lost", Limit(max=2), served(lost=2)) == "pass"
    assert judge_one("requests_lost", Limit(min=2), served(lost=2)) == "pass"
    assert judge_one("requests_lost", Limit(min=3), served(lost=2)) == "fail"
    assert judge_one("requests_lost", Limit(min=1, max=1), served(lost=2)) == "fail"


def test_what_was_not_observed_is_unknown_and_a_failure_says_more() -> None:
    nothing = replication(Run().end())
    assert nothing.figures["success_ratio"] is None
    limit = Limit(min=0.9)
    assert judged("success_ratio", limit, served(), nothing)["verdict"] == "unknown"
    assert judged("success_ratio", limit, served(), nothing, served(lost=5))["verdict"] == "fail"
    found = judged("success_ratio", limit, nothing)
    assert (found["value"], found["ci95"], found["worst"], found["observed"]) == (None, None, None, 0)


def test_without_a_replication_nothing_is_known() -> None:
    found = judged("requests_lost", Limit(max=0))
    assert (found["verdict"], found["observed"], found["value"]) == ("unknown", 0, None)


def test_detection_without_a_fault_is_unknown() -> None:
    assert judge_one("ttd_s", Limit(max=10), served()) == "unknown"


def test_a_detection_in_time_keeps_the_limit_and_a_late_one_breaks_it() -> None:
    seen = struck(opened_s=25.0)
    assert judge_one("ttd_s", Limit(max=5), seen) == "pass"
    assert judge_one("ttd_s", Limit(max=4), seen) == "fail"


def test_a_fault_that_was_never_detected_breaks_the_limit_if_it_was_watched_for_longer() -> None:
    missed = struck()
    assert judge_one("ttd_s", Limit(max=10), missed) == "fail"
    assert judge_one("ttd_s", Limit(max=1000), missed) == "unknown", "it may yet have been detected within that"


def test_a_recovery_that_never_came_is_no_recovery_in_time() -> None:
    run = Run().every(1.0, 1.0, 19.0)
    for second in range(21, 99):
        run.request(second - 0.5, float(second), outcome="failed", error="reset")
    lasting = replication(run.fault(20.0).end())
    assert lasting.figures["ttr_s"] is None
    assert judge_one("ttr_s", Limit(max=30), lasting) == "fail"
    assert judge_one("ttr_s", Limit(max=500), lasting) == "unknown"


def test_nothing_to_mitigate_breaks_no_limit() -> None:
    quiet = struck(opened_s=25.0)
    assert quiet.figures["ttm_s"] is None
    assert judge_one("ttm_s", Limit(max=1), quiet) == "pass"


def test_of_two_faults_both_must_keep_the_limit() -> None:
    run = Run().fault(30.0, node="node-1", planned_end_s=50.0, ended_s=50.0, fault_id=1)
    run.incident(31.0, node="node-1")
    late = struck(run, opened_s=40.0)
    assert judge_one("ttd_s", Limit(max=25), late) == "pass"
    assert judge_one("ttd_s", Limit(max=10), late) == "fail"
    assert late.figures["ttd_s"] == pytest.approx((20.0 + 1.0) / 2), "the mean of both would have kept 11"


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "unknown"], "unknown"),
        (["unknown", "fail"], "fail"),
        (["fail", "pass"], "fail"),
    ],
)
def test_the_claim_is_as_good_as_its_worst_limit(verdicts: list[str], whole: str) -> None:
    expectations = [{"verdict": it} for it in verdicts]
    assert verdict(scenario(expect=LOST), expectations, [served()]) == whole


def test_an_aborted_replication_leaves_the_claim_unknown_but_does_not_hide_a_failure() -> None:
    aborted = served(aborted="at 5 s: success ratio 0.1")
    assert aborted.aborted == "at 5 s: success ratio 0.1"
    assert verdict(scenario(expect=LOST), [{"verdict": "pass"}], [served(), aborted]) == "unknown"
    assert verdict(scenario(expect=LOST), [{"verdict": "fail"}], [served(), aborted]) == "fail"


def test_a_scenario_that_expects_nothing_and_a_run_of_nothing_prove_nothing() -> None:
    assert verdict(scenario(), [], [served()]) == "unknown"
    assert verdict(scenario(expect=LOST), [{"verdict": "pass"}], []) == "unknown"


def test_a_figure_is_looked_up_by_its_dotted_name() -> None:
    figures = {"ttft_s": {"p95": 0.25}, "ttr_s": None, "requests_lost": 3}
    assert look_up(figures, "ttft_s.p95") == 0.25
    assert look_up(figures, "requests_lost") == 3.0
    assert look_up(figures, "ttr_s") is None
    assert look_up(figures, "ttr_s.mean") is None
