from __future__ import annotations

from typing import Any

from reports.study_charts import bare_label, in_a_sentence, label_of, pair_forest, placement_of

PAIR: dict[str, Any] = {
    "figure": "e2e_s.p95",
    "variant": {"policy.preset": "default"},
    "baseline": {"policy.preset": "none"},
    "difference": {"mean": -0.2, "ci95": [-0.3, -0.1], "n": 8},
    "p_adjusted": 0.01,
    "verdict": "better",
}


def test_a_figure_has_one_pair_of_brackets_however_it_is_called() -> None:
    assert label_of("ttr_s") == "Time to recovery (TTR, s)"
    assert label_of("e2e_s.p95") == "Arrival to end, p95 (s)"
    assert bare_label("e2e_s.p95") == "Arrival to end, p95"
    assert in_a_sentence("ttr_s") == "time to recovery"
    assert in_a_sentence("e2e_s.p95") == "arrival to end (p95)"


def test_a_difference_has_the_unit_of_its_figure() -> None:
    lost = PAIR | {"figure": "requests_lost"}
    drawings = pair_forest([PAIR, lost])
    axes = [drawing.spec()["layer"][0]["encoding"]["x"]["axis"]["title"] for drawing in drawings]
    assert [" ".join(lines) for lines in axes] == [
        "Difference from the baseline (s)",
        "Difference from the baseline (requests)",
    ]
    assert [drawing.title for drawing in drawings] == ["Arrival to end, p95", "Requests lost"]


def test_placement_is_spoken_of_only_where_the_comparison_left_the_replicas_alone() -> None:
    vary = {"policy.preset": ["none", "default"]}
    said = placement_of({"vary": vary, "changes": []})
    assert "place requests differently" in said[0] and "replicas=5" in said[1]
    assert placement_of({"vary": vary, "changes": ["cluster.models.llama3.1:8b.replicas=5"]}) == []
