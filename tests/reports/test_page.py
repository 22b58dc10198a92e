from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reports.page import write_page
from reports.static import write_report
from tests.record.runs import Run
from tests.reports.evaluation import EVALUATION
from tests.reports.synthetic import crash, summary
from twin.errors import OperatorError


def text_of(page: str) -> str:
    """What a reader sees: no scripts, no tags, single spaces."""
    visible = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", visible))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    record = crash()
    write_page([record], summary([record]), path)
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_needs_no_network(page: str) -> None:
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert "<script>" in page and "vegaEmbed" in page
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import""", markup)


def test_claim_and_verdict_come_first_and_are_escaped(page: str) -> None:
    text = text_of(page)
    claim = "A crashed node costs no admitted &lt;request&gt;"
    verdict = "✗ Fail. requests_lost should be at most 0, and is 1."
    assert text.index(claim) < text.index(verdict) < text.index("What was expected") < text.index("Figures")


def test_the_page_has_figures_with_definitions_decisions_with_reasons_and_troubled_requests(page: str) -> None:
    text = text_of(page)
    for words in (
        "Time to detection (TTD) 0.500 s",
        "arrival to first token, of the streams that succeeded (who does not stream sees no first token) (s)",
        "incident: server_down 2 × refused",
        "restart the server is down: a restart is expected to save 12 requests done pid 5 after 3.25 s",
        "closed at 76.00 s: a generation passed, and it held",
        "1 lost, 0 turned away, 0 cancelled by their client, 2 saved by another attempt.",
        "Attempts that failed: 3 × reset.",
        "server_crash node-3 60.00 64.00 s, by action 0.500 s",
        "admitted request ends once 0",
        "Requests meanwhile Lost Turned away",
        "node-3 (reset) → node-0",
        "ollamamax run scenarios/node-crash.yaml --seed 1 --replications 1",
    ):
        assert words in text


def test_each_chart_has_its_place_and_its_data(page: str) -> None:
    found = re.search(r'id="charts">(.*?)</script>', page, flags=re.S)
    assert found is not None
    specs = json.loads(found[1].replace("<\\/", "</"))
    assert len(specs) == page.count('class="chart"') == 8


def test_of_several_runs_the_worst_is_drawn_and_all_are_listed(tmp_path: Path) -> None:
    records = [crash(lost=0, seed=1), crash(lost=2, seed=2)]
    write_page(records, summary(records), tmp_path / "page.html")
    text = text_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Of 2 runs the worst one is drawn (seed 2)" in text
    assert "All runs" in text
    assert "0.500 s (95 % CI 0.500 to 0.500 s, n = 2)" in text


def test_a_run_without_faults_or_trouble_says_so(tmp_path: Path) -> None:
    record = Run().request(1.0, 2.0).end()
    write_page(
        [record], summary([record], expectations=[], verdict="unknown", notes=["nothing to judge"]), tmp_path / "p"
    )
    text = text_of((tmp_path / "p").read_text(encoding="utf-8"))
    for words in (
        "? Unknown.",
        "Nothing to judge.",
        "No fault was injected.",
        "It opened no incident and did nothing.",
    ):
        assert words in text
    assert "No attempt failed." in text


def test_long_tables_are_cut_and_say_so(tmp_path: Path) -> None:
    run = Run()
    for _ in range(40):
        run.request(1.0, 2.0, outcome="failed")
    record = run.end()
    write_page([record], summary([record]), tmp_path / "p")
    assert "10 more are in the run folder." in text_of((tmp_path / "p").read_text(encoding="utf-8"))


def test_a_page_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_page([], {}, tmp_path / "p")


def test_an_evaluation_has_a_page_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    write_report([tmp_path / "evaluation.json"], tmp_path / "page.html")
    text = text_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert all(part in text for part in ("Reliability", "Lead time", "Class by class", "Methods", "evaluate --json"))


def test_the_gateways_benchmark_has_a_page_of_its_own(tmp_path: Path) -> None:
    cost = {"median": 0.5, "low": 0.4, "high": 0.6}
    targets = [{"target": "ollamamax", "added_p50_ms": cost}, {"target": "envoy", "added_p50_ms": cost}]
    (tmp_path / "bench.json").write_text(json.dumps({"targets": targets}))
    write_report([tmp_path / "bench.json"], tmp_path / "page.html")
    assert "Time that a proxy adds to a request, median" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["{", "[]", '{"targets": []}', '{"targets": [1]}', '{"other": 1}'])
def test_a_file_that_is_neither_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "it.json").write_text(content)
    with pytest.raises(OperatorError) as refused:
        write_report([tmp_path / "it.json"], tmp_path / "page.html")
    assert "it.json" in str(refused.value) and "\n" not in str(refused.value)


def test_runs_of_which_none_can_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "seed-1").every(1.0, 1.0, 100.0)
    run.end()
    record = crash()
    (tmp_path / "runs" / "summary.json").write_text(json.dumps(summary([record])))
    (tmp_path / "runs" / "seed-1" / "manifest.json").write_text('{"record_version": 2}')
    with pytest.raises(OperatorError, match="has record version 2"):
        write_report([tmp_path / "runs"], tmp_path / "page.html")


def test_warnings_stand_on_the_page_of_a_run_that_has_some(tmp_path: Path) -> None:
    run = Run().every(1.0, 1.0, 100.0)
    run.recorder.forecasts.add((40.0, "node-2", "gpu_memory", 0.9, 600.0, 120.0, "memory grows", "gateway-0"))
    record = run.end()
    write_page([record], summary([record]), tmp_path / "page.html")
    assert "Warnings at node-2" in text_of((tmp_path / "page.html").read_text(encoding="utf-8"))
