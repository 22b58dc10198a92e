"""The promises are judged by intervals, a promise that fails says so, and finished runs are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports.claims import as_markdown
from tests.test_command_line import ollamamax
from twin.errors import OperatorError
from twin.experiment.claims import measures
from twin.experiment.claims.conduct import Asked, chosen, jobs_of, look_at_claims
from twin.experiment.claims.measures import of_promise, row
from twin.experiment.claims.parts import healing
from twin.experiment.engines import LocalEngine

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.mark.parametrize(
    ("value", "ends", "verdict"),
    [
        (1.0, [0.5, 1.5], "pass"),
        (1.0, [0.5, 2.5], "unknown"),  # within, but not surely
        (2.1, [1.5, 2.6], "fail"),
        (1.0, None, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_a_limit_is_kept_only_where_the_intervals_end_keeps_it(
    value: float | None, ends: list[float] | None, verdict: str
) -> None:
    assert row("x", "default", "promised", value, ends, 20, "s", most=2.0)["verdict"] == verdict


def line(seed: int, **changes: Any) -> dict[str, Any]:
    figures = {"requests_lost": 0, "requests_admitted": 1000, "requests_offered": 1000, "requests_rejected": 5}
    recovery = {
        "injected_s": 60.0,
        **{name: {"value_s": 5.0, "censored": False} for name in ("ttd_s", "ttm_s", "ttr_s")},
    }
    base = {
        "seed": seed,
        "figures": figures | changes.pop("figures", {}),
        "recoveries": [recovery],
        "policy_cost": None,
    }
    return base | changes


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    return [it["verdict"] for it in rows if it["kind"] == "promised" and it["verdict"]]


def test_one_lost_request_of_many_thousand_breaks_the_first_promise() -> None:
    kept = {("half", "default"): [line(seed) for seed in range(20)]}
    assert verdicts(of_promise(1, kept, 0.0, None)) == ["pass"]
    kept["half", "default"][3] = line(3, figures={"requests_lost": 1})
    rows = of_promise(1, kept, 0.0, None)
    assert verdicts(rows) == ["fail"]
    assert rows[0]["value"] == pytest.approx(1 / 20_000)


def test_a_recovery_that_was_not_seen_to_its_end_is_endless() -> None:
    unseen = {"value_s": None, "censored": True, "at_least_s": 3.0}
    never = {"injected_s": 60.0, "ttd_s": unseen, "ttm_s": unseen, "ttr_s": unseen}
    lines = [line(seed) for seed in range(80)] + [line(seed, recoveries=[never]) for seed in range(80, 100)]
    rows = of_promise(2, {("crash", "default"): lines}, 2.6, None)
    ttr = next(it for it in rows if it["kind"] == "promised")
    assert (ttr["value"], ttr["verdict"], ttr["note"]) == (None, "fail", measures.ENDLESS)
    rows = of_promise(2, {("crash", "default"): [line(seed) for seed in range(100)]}, 2.6, None)
    assert verdicts(rows) == ["pass"]


def test_prediction_is_unknown_without_an_evaluation_and_judged_by_recall_with_one(tmp_path: Path) -> None:
    (missing,) = of_promise(4, {}, 0.0, None)
    assert missing["verdict"] == "unknown"
    assert "ollamamax evaluate --json" in missing["note"]
    of_method = {"failures": 500, "recall": 0.9, "recall_ci95": [0.87, 0.93], "node_days": 900.0}
    rates = {"false_a_node_day": 0.04, "false_a_node_day_ci95": [0.03, 0.049]}
    methods = [{"method": "predictor", **of_method, **rates}, {"method": "always", **of_method, **rates, "recall": 0.1}]
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"methods": methods}), encoding="utf-8")
    rows = of_promise(4, {}, 0.0, path)
    assert verdicts(rows) == ["pass", "pass"]
    assert [it["policy"] for it in rows if it["unit"] == "" and it["kind"] == "shown"] == ["always", "always"]
    always = {**methods[0], "false_a_node_day": 50.0, "false_a_node_day_ci95": [40.0, 60.0]}
    path.write_text(json.dumps({"methods": [always]}), encoding="utf-8")
    assert verdicts(of_promise(4, {}, 0.0, path)) == ["pass", "fail"]  # who always warns foretells everything
    for nonsense in ({"recall": 1.7, "recall_ci95": [1.0, 2.0]}, {"recall_ci95": [0.9]}, {"node_days": "many"}):
        path.write_text(json.dumps({"methods": [methods[0] | nonsense]}), encoding="utf-8")
        with pytest.raises(OperatorError, match="not what `ollamamax evaluate --json` of this version prints"):
            of_promise(4, {}, 0.0, path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(OperatorError, match="not what `ollamamax evaluate --json` of this version prints"):
        of_promise(4, {}, 0.0, path)


def incident(node: str, opened_s: float, closed_s: float | None, actions: int = 1) -> dict[str, Any]:
    return {"node": node, "opened_s": opened_s, "state": "closed" if closed_s else "open", "verified_s": closed_s,
            "closed_s": closed_s, "actions": actions}  # fmt: skip


class Tables:
    """A record that has incidents and faults alone."""

    def __init__(self, incidents: list[dict[str, Any]], faults: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        self._tables = {
            "incidents": pa.Table.from_pylist(incidents),
            "faults": pa.table({key: [it[key] for it in faults] for key in ("node", "injected_s")}),
        }

    def table(self, name: str, columns: Any = None) -> Any:
        return self._tables[name]

    def number(self, path: str) -> float:
        return 7200.0


def healed(incidents: list[dict[str, Any]], faults: list[dict[str, Any]]) -> dict[str, int]:
    return healing(Tables(incidents, faults))  # type: ignore[arg-type]


def test_what_comes_back_within_half_an_hour_was_not_healed_unless_a_new_fault_struck() -> None:
    first, again = incident("node-0", 100, 120), incident("node-0", 900, 930)
    struck = [{"node": "node-0", "injected_s": 95.0}]
    assert healed([first], struck)["healed"] == 1
    assert healed([first, again], struck) == {"incidents": 2, "judged": 2, "healed": 1, "relapsed": 1}
    assert healed([first, again], [*struck, {"node": "node-0", "injected_s": 890.0}])["healed"] == 2
    assert healed([incident("node-0", 100, 120, actions=0)], struck)["healed"] == 0
    assert healed([incident("node-0", 7190, None)], struck)["judged"] == 0
    assert healed([incident("node-0", 100, None)], struck) == {"incidents": 1, "judged": 1, "healed": 0, "relapsed": 0}


def test_every_part_of_every_promise_is_a_scenario_that_stands_in_both_worlds() -> None:
    assert [it.number for it in chosen(())] == [1, 2, 3, 4, 5, 6, 7]
    twin = jobs_of(Asked(scenarios=SCENARIOS))
    live = jobs_of(Asked(world="live", scenarios=SCENARIOS))
    assert {job.promise.number for job in twin} == {1, 2, 3, 5, 6, 7}
    assert {job.promise.number for job in live} == {1, 2, 3, 6, 7}
    with pytest.raises(OperatorError, match="--only 8: there are 1, 2, 3, 4, 5, 6, 7"):
        chosen([8])


def test_finished_runs_are_kept_and_the_page_has_a_row_for_each(tmp_path: Path) -> None:
    asked = Asked(scenarios=SCENARIOS, only=[3], replications=1)
    folder, document = look_at_claims(asked, LocalEngine(1), None, tmp_path)
    (promise,) = document["promises"]
    assert promise["verdict"] == "unknown"  # one run has no interval
    assert {it["policy"] for it in promise["rows"]} == {"default", "reactive", "none"}
    lines = (folder / "results.jsonl").read_text(encoding="utf-8")

    def refuse(*_arguments: Any) -> Any:
        raise AssertionError("nothing is missing")

    engine = LocalEngine(1)
    engine.results = refuse  # type: ignore[method-assign]
    _, again = look_at_claims(
        Asked(scenarios=SCENARIOS, only=[3], replications=1, resume=folder), engine, None, tmp_path
    )
    assert again["promises"][0]["rows"] == promise["rows"]
    assert (folder / "results.jsonl").read_text(encoding="utf-8") == lines
    page = as_markdown(document)
    assert page.count("\n| ") == 1 + len(promise["rows"])


def test_the_command_prints_the_verdict_of_a_promise_and_how_to_see_it_again(tmp_path: Path) -> None:
    done = ollamamax("claims", "--only", "4", "--out", str(tmp_path))
    assert done.returncode == 3
    assert "? Unknown" in done.stdout
    assert "claims --only 4 --evaluation evaluation.json" in done.stdout
