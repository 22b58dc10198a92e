"""The page of a run: one HTML file that needs no network, with the claim and the verdict first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment

from reports.charts import timeline
from reports.logs import decision_log, fault_log, invariant_log, request_log, run_log
from reports.template import PAGE
from reports.words import (
    GROUPS,
    LABELS,
    NOT_OBSERVED,
    VERDICT_SIGNS,
    VERDICTS,
    ci95,
    figure,
    limit,
    notes,
    number,
    run_again,
    verdict_sentence,
)
from twin.record.figures import compute_figures
from twin.record.names import FIGURES, SUMMARIES, SUMMARY_KEYS
from twin.record.reader import RunRecord
from twin.record.recovery import recoveries


def write_page(records: Sequence[RunRecord], summary: Mapping[str, Any], path: Path) -> None:
    """Write the page of these runs to `path`, which is replaced when the page is whole.

    `summary` is the object of `run --json`. `records` are the runs behind it, at least one; where there are several,
    the timeline is that of the worst one. Raises ValueError without a record, OSError where the file cannot be written.
    """
    if not records:
        raise ValueError("a page needs at least one run; name a run folder")
    figures = [compute_figures(record) for record in records]
    worst = max(range(len(records)), key=lambda index: _badness(figures[index], records[index]))
    page = _page(records, summary, figures, worst)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)


def _page(
    records: Sequence[RunRecord], summary: Mapping[str, Any], figures: Sequence[dict[str, Any]], worst: int
) -> str:
    record = records[worst]
    scenario = record.manifest["scenario"]
    drawings = timeline(record)
    charts = json.dumps([drawing.spec() for drawing in drawings], separators=(",", ":"))
    before = [fault_log(record), decision_log(record), request_log(record)]
    after = [invariant_log(summary)]
    if len(records) > 1:
        after.append(run_log(records, figures))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE).render(
        scenario=summary["scenario"],
        where=_where(summary),
        claim=summary.get("claim") or scenario.get("claim") or summary["scenario"],
        why=scenario.get("why", ""),
        verdict=VERDICTS[summary["verdict"]],
        verdict_key=summary["verdict"],
        sign=VERDICT_SIGNS[summary["verdict"]],
        verdict_sentence=verdict_sentence(summary),
        notes=notes(summary),
        expectations=[_expectation(each) for each in summary["expectations"]],
        runs=records,
        shown=_shown(records, worst),
        drawings=drawings,
        figures=_figure_rows(summary["figures"]),
        figures_note=_figures_note(record),
        logs_before=before,
        logs_after=after,
        again=run_again(summary, record.manifest.get("scenario_file")),
        facts=_facts(record, summary),
        vega=_vega(),
        charts=charts.replace("</", "<\\/"),
    )


@cache
def _vega() -> str:
    """What draws the charts, as one script. Bundling it takes a second or two."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _badness(figures: dict[str, Any], record: RunRecord) -> tuple[float, float, float]:
    """What makes a run worth looking at: losses, then faults that were not recovered from, then slow recovery."""
    censored = sum(each.ttr.censored for each in recoveries(record))
    return (figures["requests_lost"], censored, figures["ttr_s"] or 0.0)


def _where(summary: Mapping[str, Any]) -> str:
    world = {"twin": "in the simulated world", "live": "in the live world"}.get(summary["world"], summary["world"])
    runs = summary["replications"]
    return f"{world}, {runs} run{'s' if runs != 1 else ''} from seed {summary['seed']}"


def _shown(records: Sequence[RunRecord], worst: int) -> str:
    seed = records[worst].manifest.get("seed")
    if len(records) == 1:
        return "Shaded spans are times in which a fault held a node."
    return (
        f"Of {len(records)} runs the worst one is drawn (seed {seed}): the one that lost most requests, then the one "
        "that did not recover, then the slowest to recover. Shaded spans are times in which a fault held a node."
    )


def _expectation(each: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": each["name"],
        "limit": limit(each["limit"], each["name"]),
        "value": figure(each["name"], each["value"]),
        "ci95": ci95(each.get("ci95"), each["name"]),
        "worst": figure(each["name"], each.get("worst")),
        "kept": f"{each['kept']} runs" if "kept" in each else "–",
        "verdict_key": each["verdict"],
        "sign": VERDICT_SIGNS[each["verdict"]],
        "verdict": VERDICTS[each["verdict"]],
    }


def _figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    groups = []
    for group, names in GROUPS.items():
        rows = []
        for name in names:
            value = figures.get(name)
            lines = [figure(name, value)]
            if name in SUMMARIES and value is not None and lines != [NOT_OBSERVED]:
                lines = [
                    f"{key} {figure(f'{name}.{key}', value[key])}" for key in SUMMARY_KEYS if key in value
                ] or lines
            rows.append({"label": LABELS[name], "lines": lines, "meaning": _meaning(name)})
        groups.append((group, rows))
    return groups


def _meaning(name: str) -> str:
    unit, meaning = FIGURES[name]
    return f"{meaning} ({unit})" if unit else meaning


def _figures_note(record: RunRecord) -> str:
    warmup_s = record.number("scenario.workload.warmup_s")
    return (
        f"Requests count that arrived after the warm-up of {number(warmup_s)} s; faults, incidents and actions count "
        "in the whole run. A figure that was not observed says so, and is never 0."
    )


def _facts(record: RunRecord, summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    manifest = record.manifest
    facts = {
        "Scenario digest": summary.get("digest"),
        "Version": manifest.get("version"),
        "Machine": _words(manifest.get("machine")),
        "Run folders": _words(summary.get("run_dirs")),
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        shown = ", ".join(str(each) for each in value[:5])
        return f"{shown} and {len(value) - 5} more" if len(value) > 5 else shown
    return str(value or "")
