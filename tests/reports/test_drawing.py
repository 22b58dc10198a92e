"""What the charts share: labels and legends that a phone has room for."""

from __future__ import annotations

import pytest

from reports.drawing import LABEL_CHARACTERS, LINE_PX, lanes_px, legend, wrapped


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("node-3", ["node-3"]),
        ("", [""]),
        ("Time to recovery (TTR, s)", ["Time to recovery (TTR, s)"]),
        ("cluster.nodes=3, workload.arrivals.rate_rps=2", ["cluster.nodes=3, workload.", "arrivals.rate_rps=2"]),
        ("Time to first token, p95 (s)", ["Time to first token, p95 (s)"]),
        ("x" * 30, ["x" * 29, "x"]),
    ],
)
def test_a_label_is_broken_where_it_may_be_broken(text: str, lines: list[str]) -> None:
    assert wrapped(text) == lines
    assert all(len(line) <= LABEL_CHARACTERS for line in wrapped(text))


def test_a_lane_has_room_for_the_longest_label() -> None:
    assert lanes_px(["a", "b"], 30) == 2 * 30 + 10
    assert lanes_px(["a", "word " * 20], 30) >= 2 * 4 * LINE_PX


def test_a_legend_has_as_many_columns_as_its_labels_leave_room_for() -> None:
    assert legend(["p50", "p95", "p99"]).columns == 3
    assert legend(["unnoticed fault", "down"]).columns == 2
    assert legend(["cluster.nodes=3, policy.preset=default"]).columns == 1


def test_a_label_that_no_column_has_room_for_is_broken_in_the_legend() -> None:
    long = "cluster.nodes=3, workload.arrivals.rate_rps=2"
    assert '["cluster.nodes=3, workload.", "arrivals.rate_rps=2"]' in legend([long, "none"], 220).labelExpr
    assert "labelExpr" not in legend(["p50"]).to_dict()
