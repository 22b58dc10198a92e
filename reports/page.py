"""The page of a run: one HTML file that needs no network, with the claim and the verdict first."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment

from reports.charts import timeline
from reports.drawing import Drawing, theme
from reports.logs import blast_log, decision_log, fault_log, invariant_log, probe_log, request_log, run_log
from reports.node_charts import foretold, happenings
from reports.template import RUN
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
from twin.record.cached import told
from twin.record.names import FIGURES, SUMMARIES, SUMMARY_KEYS
from twin.record.one_node import node_story
from twin.record.reader import RunRecord
from twin.record.story import Story


def write_page(records: Sequence[RunRecord], summary: Mapping[str, Any], path: Path) -> None:
    """Write the page of these runs to `path`, which is replaced when the page is whole.

    `summary` is the object of `run --json`. `records` are the runs behind it, at least one; where there are several,
    the timeline is that of the worst one. Raises ValueError without a record, OSError where the file cannot be written.
    """
    if not records:
        raise ValueError("a page needs at least one run; name a run folder")
    stories = [told(record) for record in records]
    worst = max(range(len(stories)), key=lambda index: badness(stories[index]))
    write_whole(path, _page(stories, summary, worst, warnings_of(records[worst])))


def write_whole(path: Path, page: str) -> None:
    """Write a page so that a reader sees the old or the new one, never half of it. Raises OSError."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)


def warnings_of(record: RunRecord) -> list[Drawing]:
    """Signs and warnings of the node that had most of them; nothing where none showed and none was foretold."""
    named = Counter(
        node for table in ("signs", "forecasts") for node in record.table(table, ["node"])["node"].to_pylist()
    )
    if not named:
        return []
    story = node_story(record, named.most_common(1)[0][0], [])
    drawing = foretold(story)
    return [Drawing(f"{drawing.title} at {story.node}", f"{happenings(story)} {drawing.sentence}", drawing.chart)]


def _page(stories: Sequence[Story], summary: Mapping[str, Any], worst: int, warnings: list[Drawing]) -> str:
    story = stories[worst]
    scenario = story.manifest["scenario"]
    drawings = [*timeline(story), *warnings]
    before = [fault_log(story), blast_log(story), decision_log(story), request_log(story)]
    named = f"{summary['scenario']}, {summary['world']}, seed {story.manifest.get('seed')}"
    after = [probe_log([(named, story)]), invariant_log(summary)]
    if len(stories) > 1:
        after.append(run_log(stories))
    return rendered(
        RUN,
        drawings,
        title=f"{summary['scenario']}: {VERDICTS[summary['verdict']]}",
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
        runs=stories,
        shown=_shown(stories, worst),
        figures=figure_rows(summary["figures"]),
        figures_note=figures_note(story.manifest),
        logs_before=before,
        logs_after=after,
        again=run_again(summary, story.manifest.get("scenario_file")),
        facts=facts(story.manifest, summary),
    )


def rendered(template: str, drawings: Sequence[Drawing], **values: Any) -> str:
    """A page from its template and values; the charts, and what draws them, go into it."""
    specs = json.dumps([drawing.spec() for drawing in drawings], separators=(",", ":"))
    themes = json.dumps([theme(False), theme(True)], separators=(",", ":"))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        **values,
        drawings=drawings,
        vega=_vega(),
        charts=specs.replace("</", "<\\/"),
        themes=themes.replace("</", "<\\/"),
    )


@cache
def _vega() -> str:
    """What draws the charts, as one script. Bundling it takes a second or two."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def badness(story: Story) -> tuple[float, float, float]:
    """What makes a run worth looking at: losses, then faults that were not recovered from, then slow recovery."""
    censored = sum(each["ttr"]["censored"] for each in story.recoveries)
    return (story.figures["requests_lost"], censored, story.figures["ttr_s"] or 0.0)


def _where(summary: Mapping[str, Any]) -> str:
    world = {"twin": "in the simulated world", "live": "in the live world"}.get(summary["world"], summary["world"])
    runs = summary["replications"]
    return f"{world}, {runs} run{'s' if runs != 1 else ''} from seed {summary['seed']}"


def _shown(stories: Sequence[Story], worst: int) -> str:
    seed = stories[worst].manifest.get("seed")
    if len(stories) == 1:
        return "Shaded spans are times in which a fault held a node."
    return (
        f"Of {len(stories)} runs the worst one is drawn (seed {seed}): the one that lost most requests, then the one "
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


def figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The figures by group, each with its label, its value in words and its definition."""
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


def figures_note(manifest: Mapping[str, Any]) -> str:
    """What the figures count."""
    warmup_s = float(manifest["scenario"]["workload"]["warmup_s"])
    return (
        f"Requests count that arrived after the warm-up of {number(warmup_s)} s; faults, incidents and actions count "
        "in the whole run. A figure that was not observed says so, and is never 0."
    )


def facts(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What else is to be known of a run: name and value."""
    known = {
        "Scenario digest": summary.get("digest"),
        "Version": manifest.get("version"),
        "Machine": _words(manifest.get("machine")),
        "Run folders": _words(summary.get("run_dirs")),
    }
    return [(name, str(value)) for name, value in known.items() if value]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        shown = ", ".join(str(each) for each in value[:5])
        return f"{shown} and {len(value) - 5} more" if len(value) > 5 else shown
    return str(value or "")
