from __future__ import annotations

from typing import Any

import vl_convert

from reports.charts import (
    at_nodes_over_time,
    latency_over_time,
    load_over_time,
    success_over_time,
    timeline,
    waiting_over_time,
)
from reports.lanes import moment_lanes, node_lanes
from tests.record.runs import READ, Run
from tests.reports.synthetic import crash
from twin.record.story import tell

POINTS_MAX = 5000
LABELS_WITHOUT_UNIT = ("Node", "Share succeeded (0 to 1)", "Requests per second", "Requests")


def rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for data in spec["datasets"].values() for row in data]


def axis_titles(spec: dict[str, Any]) -> list[str]:
    encodings = [layer["encoding"] for layer in spec["layer"]]
    return [each[at]["axis"]["title"] for each in encodings for at in "xy" if "axis" in each.get(at, {})]


def test_a_page_of_charts_stays_small_however_many_requests_and_nodes_there_were() -> None:
    drawings = timeline(tell(crash(nodes=40, requests=30_000)))
    assert sum(len(rows(drawing.spec())) for drawing in drawings) < POINTS_MAX


def test_every_axis_has_a_title_with_its_unit_and_every_chart_a_sentence() -> None:
    for drawing in timeline(tell(crash())):
        assert all(title.endswith("(s)") or title in LABELS_WITHOUT_UNIT for title in axis_titles(drawing.spec()))
        assert drawing.sentence.endswith(".")


def test_every_chart_compiles_even_of_an_empty_run() -> None:
    for record in (Run().end(), crash()):
        for drawing in timeline(tell(record)):
            assert vl_convert.vegalite_to_vega(drawing.spec(), vl_version="6.4")["marks"]


def test_the_lanes_tell_what_happened_at_the_faulted_node_and_say_it_in_words() -> None:
    whole, close_up = node_lanes(tell(crash()))
    # The lost request ended at 62.92 s; 20 s later it has left the window of the steady state.
    said = "server_crash at node-3: detected after 0.500 s, without failures after 2.92 s, recovered after 22.9 s."
    assert said in whole.sentence
    begins = {row["label"][:3]: row["y"] for row in rows(close_up.spec()) if "y2" in row and "label" in row}
    assert begins["TTD"] < begins["TTM"] < begins["TTR"], "a line would cross the label of another"
    labels = {row["label"] for row in rows(close_up.spec()) if "label" in row}
    assert {label[:3] for label in labels} == {"TTD", "TTM", "TTR"}
    assert "TTD 0.500 s" in labels
    assert {row["state"] for row in rows(whole.spec()) if "state" in row} >= {
        "serving",
        "restarting",
        "down",
    }


def test_a_fault_that_was_never_recovered_from_is_said_and_has_no_close_up() -> None:
    drawings = node_lanes(tell(Run().every(1.0, 1.0, 100.0, node="node-1").fault(30.0).end()))
    assert len(drawings) == 1
    assert "server_crash at node-0: not recovered within 60 s." in drawings[0].sentence


def test_failures_long_after_a_recovery_are_said_not_to_be_explained_by_a_fault_where_none_went_on() -> None:
    run = Run().every(1.0, 1.0, 100.0).fault(20.0).failed_attempt(20.5).failed_attempt(60.0, "node-1", "stall_timeout")
    sentence = node_lanes(tell(run.end()))[0].sentence
    assert "Attempts failed (stall_timeout) up to 39 s after that recovery, while no fault went on" in sentence


def test_failures_long_after_a_recovery_are_put_beside_a_fault_that_went_on_then() -> None:
    run = Run().every(1.0, 1.0, 100.0).fault(10.0, "node-2", held=True).fault(20.0, fault_id=1)
    run.failed_attempt(20.5).failed_attempt(60.0, "node-1", "stall_timeout")
    sentence = node_lanes(tell(run.end()))[0].sentence
    assert "after that recovery; server_crash at node-2 went on meanwhile and may be why." in sentence
    assert "no fault went on" not in sentence


def test_failures_that_end_with_the_recovery_need_no_word() -> None:
    run = Run().every(1.0, 1.0, 100.0).fault(20.0).failed_attempt(20.5)
    assert "after that recovery" not in node_lanes(tell(run.end()))[0].sentence


def test_where_several_lanes_are_labelled_the_times_of_a_fault_stand_in_one_line() -> None:
    run = Run().every(1.0, 1.0, 100.0, node="node-1").fault(30.0).incident(30.05).failed_attempt(33.0)
    [drawing] = node_lanes(tell(run.end()))
    labels = [row["label"] for row in rows(drawing.spec()) if str(row.get("label", "")).count("TTM")]
    assert "TTD 50 ms, TTM 3 s, not recovered" in labels


def test_of_many_nodes_those_where_something_happened_are_drawn() -> None:
    run = Run()
    for number in range(30):
        run.request(1.0, 2.0, node=f"node-{number}")
    drawing = node_lanes(tell(run.fault(30.0, node="node-27").end()))[0]
    assert "18 more nodes" in drawing.sentence
    axis = drawing.spec()["layer"][0]["encoding"]["y"]["axis"]
    assert "node-27" in axis["labelExpr"] and len(axis["values"]) == 12


def test_the_success_ratio_is_that_of_the_record_beside_its_floor() -> None:
    drawing = success_over_time(tell(Run().request(9.0, 10.0).request(9.0, 10.0, outcome="failed").end()))
    found = {row["ratio"] for row in rows(drawing.spec()) if "ratio" in row}
    assert found == {None, 0.5, 0.999}
    assert "It fell to 0.500 at its lowest." in drawing.sentence


def test_lost_and_rejected_requests_are_drawn_only_where_there_are_any() -> None:
    assert "None was lost or turned away." in load_over_time(tell(Run().request(1.0, 2.0).end())).sentence
    run = Run().request(1.0, 2.0, outcome="failed").request(3.0, 3.0, outcome="rejected", admitted=False)
    drawing = load_over_time(tell(run.end()))
    assert "1 were lost and 1 turned away" in drawing.sentence
    assert {row["requests"] for row in rows(drawing.spec()) if "requests" in row} == {
        "arrived",
        "succeeded",
        "lost",
        "turned away",
    }


def test_the_load_counts_each_request_once() -> None:
    drawing = load_over_time(tell(Run().every(0.5, 1.0, 99.0).end()))
    arrived = [row["rate"] for row in rows(drawing.spec()) if row.get("requests") == "arrived"]
    assert sum(arrived) * 1.0 == 197.0  # steps of 1 s


def test_latency_quantiles_are_of_the_requests_that_arrived_in_a_step() -> None:
    run = Run().request(1.0, 2.0).request(1.0, 4.0).request(50.0, 52.0)
    drawing = latency_over_time(tell(run.end()), "e2e", "Arrival to end")
    medians = [row["took"] for row in rows(drawing.spec()) if row.get("quantile") == "p50" and row["took"] is not None]
    assert medians == [2.0, 2.0]


def test_requests_in_the_system_are_added_over_nodes_and_waiting_ones_are_not() -> None:
    run = Run()
    for node in ("node-0", "node-1"):
        run.recorder.telemetry.add((5.0, node, 3, 4, 1, "serving", *READ))
    found = {row["requests"]: row["count"] for row in rows(waiting_over_time(tell(run.end())).spec()) if "count" in row}
    assert found == {"in flight": 6, "waiting": 4}


def test_what_each_node_had_to_do_is_drawn_in_shades() -> None:
    run = Run()
    for at_s, first in ((5.0, 3), (5.5, 1)):
        run.recorder.telemetry.add((at_s, "node-0", first, 0, 1, "serving", *READ))
        run.recorder.telemetry.add((at_s, "node-1", 7, 0, 1, "serving", *READ))
    drawing = at_nodes_over_time(tell(run.end()))
    shades = {row["node"]: row["requests"] for row in rows(drawing.spec()) if "requests" in row}
    assert shades == {"node-0": 3, "node-1": 7}
    assert "The most were 7 at node-1." in drawing.sentence


def test_the_moment_of_a_decision_shows_all_nodes_around_it() -> None:
    story = tell(crash())
    restart = next(row for row in story.decisions if row["what"] == "restart")
    drawing = moment_lanes(story, restart["at"], 15.0)
    assert drawing.title == "Around 60.75 s"
    spans = [row for row in rows(drawing.spec()) if "from" in row]
    assert spans and all(row["from"] >= 45.75 and row["to"] <= 75.75 for row in spans)
    assert {row["node"] for row in spans} == {f"node-{number}" for number in range(5)}


def test_every_chart_of_a_run_is_valid_vega_lite() -> None:
    for drawing in timeline(tell(crash())):
        drawing.chart.to_dict(validate=True)
