"""`ollamamax report`: from folders to one static page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.beside_charts import difference_log, differences, overlays, worlds_in_words
from reports.charts import success_over_time
from reports.drawing import Drawing
from reports.lanes import node_lanes
from reports.logs import Log, probe_log, run_log
from reports.page import rendered, write_page, write_whole
from reports.prediction_charts import (
    WANTED,
    class_recalls,
    in_words,
    lead_times,
    method_log,
    recall_curves,
    reliability,
)
from reports.study_charts import (
    bare_label,
    cost_chart,
    label_of,
    pair_forest,
    placement_of,
    proxy_charts,
    recovery_curves,
    recovery_strip,
    same_in_all,
    sweep_curve,
    sweep_map,
)
from reports.template import COMPARISON
from reports.words import VERDICT_SIGNS, ci95, figure, number
from twin.errors import OperatorError
from twin.experiment.beside import compare_worlds, unlike
from twin.experiment.conduct import words
from twin.experiment.library import Shelf, lines_of, shelf_of
from twin.experiment.overhead import had_faults, measures_overhead, relative_costs
from twin.experiment.points import figure_of
from twin.experiment.recovery_times import Name, TimesOf, times_of_runs, times_of_study
from twin.experiment.run import summarise_runs
from twin.record.cached import told
from twin.record.names import BETTER
from twin.record.reader import RunUnreadable, open_run
from twin.record.story import Story

TIMES: tuple[Name, ...] = ("ttd_s", "ttm_s", "ttr_s")


@dataclass(frozen=True, slots=True)
class Part:
    """A section of a page: a chart with its number, or a table."""

    what: Drawing | Log
    place: int = 0

    @property
    def is_log(self) -> bool:
        """Whether it is a table."""
        return isinstance(self.what, Log)


def write_report(folders: Sequence[Path], path: Path) -> None:
    """Write the page of these results. Raises `OperatorError` where one cannot be read, OSError for the file.

    One study: its comparison or map. Runs of both worlds: side by side and upon each other. Runs of one scenario with
    the same settings: their page, as `run` writes it. Other runs: their recovery and figures beside each other. A JSON file
    of `evaluate` or of the gateway's benchmark: its charts.
    """
    documents = [folder for folder in folders if folder.is_file()]
    if documents:
        if len(folders) > 1:
            raise OperatorError(f"{documents[0]}: an evaluation or a benchmark has a page of its own; give it alone")
        write_whole(path, _document_page(documents[0]))
        return
    found = [shelf_of(folder) for folder in folders]
    for shelf in found:
        if shelf.problem and not shelf.runs and (shelf.kind == "runs" or not shelf.summary):
            raise OperatorError(shelf.problem)
    studies = [shelf for shelf in found if shelf.kind != "runs"]
    if studies:
        if len(found) > 1:
            raise OperatorError(f"{studies[0].folder}: a study has a page of its own; give it alone")
        if not any(point["n"] for point in studies[0].summary["points"]):
            raise OperatorError(f"{studies[0].folder}: none of its runs is finished; --resume goes on with it")
        write_whole(path, _study_page(studies[0]))
        return
    runs = [run for shelf in found for run in shelf.runs]
    if len({shelf.digest for shelf in found}) == 1 and len({shelf.world for shelf in found}) == 1:
        if len(found) == 1 and found[0].summary and not found[0].problem:
            write_page(_opened(runs), found[0].summary, path)  # it was judged when it ran
            return
        records, summary = summarise_runs(runs)
        write_page(records, summary, path)
        return
    told_by = [[told(record) for record in _opened(list(shelf.runs))] for shelf in found]
    write_whole(path, _runs_page(found, told_by))


def _opened(folders: Sequence[Path]) -> list[Any]:
    try:
        return [open_run(folder) for folder in folders]
    except RunUnreadable as error:
        raise OperatorError(str(error)) from error


def _page(title: str, where: str, headline: str, lines: list[str], whats: list[Drawing | Log], again: list[str]) -> str:
    drawings: list[Drawing] = []
    parts = []
    for what in whats:
        parts.append(Part(what, len(drawings)))
        if isinstance(what, Drawing):
            drawings.append(what)
    return rendered(
        COMPARISON, drawings, title=title, where=where, headline=headline, lines=lines, parts=parts, again=again
    )


# -- evaluations and benchmarks ------------------------------------------------------------------------------------


def _document_page(path: Path) -> str:
    """The page of a JSON file: an evaluation of a predictor, or the gateway beside other proxies."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    whats: list[Drawing | Log] = []
    try:
        if isinstance(document, dict) and set(document) >= WANTED:
            headline, again = "How well failures are foretold", "ollamamax evaluate --json > evaluation.json"
            said = in_words(document)
            whats += [each(document) for each in (recall_curves, class_recalls, lead_times, reliability)]
            whats.append(method_log(document))
        elif isinstance(document, dict) and isinstance(document.get("targets"), list):
            headline = "The gateway beside other proxies"
            again = "python -m live.gateway.bench --json > gateway-bench.json"
            said = ["Each proxy in front of the same stub node."]
            whats += proxy_charts(document)
        else:
            raise OperatorError(
                f"{path} is neither an evaluation (`ollamamax evaluate --json`) nor a gateway's benchmark"
            )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise OperatorError(f"{path} is not of this version ({error}); make it again: {again}") from error
    if not whats:
        raise OperatorError(f"{path} has no figure to draw; make it again: {again}")
    return _page(headline, path.name, headline, said, whats, [again])


# -- runs beside each other ---------------------------------------------------------------------------------------


def _runs_page(found: Sequence[Shelf], told_by: Sequence[Sequence[Story]]) -> str:
    every = [story for stories in told_by for story in stories]
    live = [story for story in every if story.manifest.get("world") == "live"]
    twin = [story for story in every if story.manifest.get("world") == "twin"]
    same_scenario = len({shelf.scenario for shelf in found}) == 1
    again = [str(shelf.summary["command"]) for shelf in found if shelf.summary.get("command")]
    whats: list[Drawing | Log] = []
    if live and twin and same_scenario:
        rows = compare_worlds([it.figures for it in live], [it.figures for it in twin])
        whats += [differences(rows), difference_log(rows), *overlays(live, twin)]
        for world, stories in (("Live", live), ("Twin", twin)):
            for drawing in [node_lanes(stories[0])[0], success_over_time(stories[0])]:
                title = (
                    f"{world}, seed {stories[0].manifest.get('seed')}: {drawing.title[:1].lower()}{drawing.title[1:]}"
                )
                whats.append(Drawing(title, drawing.sentence, drawing.chart))
        lines = [worlds_in_words(rows), _unlike_line(live[0], twin[0]), _rule_of_verdicts()]
        headline = str(every[0].manifest["scenario"].get("claim") or found[0].scenario)
        live_runs = f"{len(live)} live run{'s' if len(live) > 1 else ''}"
        where = f"Scenario {found[0].scenario}, {live_runs} beside {len(twin)} of the twin"
    else:
        lines = ["Results beside each other: how long each took to recover, and what each lost."]
        headline = " and ".join(dict.fromkeys(f"{shelf.scenario} ({shelf.world})" for shelf in found))
        where = f"{len(every)} runs of {len(found)} results"
    for name in TIMES:
        groups = [
            times_of_runs(f"{shelf.scenario}, {shelf.world}, {shelf.policy or 'policy'} ({place})", stories, name)
            for place, (shelf, stories) in enumerate(zip(found, told_by, strict=True), start=1)
        ]
        whats += _recovery(groups, curves=name == "ttr_s")
    named = [f"{shelf.scenario}, {shelf.world}, {shelf.policy}" for shelf in found]
    whats.append(probe_log([(name, of[0]) for name, of in zip(named, told_by, strict=True)]))
    whats.append(run_log(every))
    return _page(headline, where, headline, [line for line in lines if line], whats, again)


def _unlike_line(live: Story, twin: Story) -> str:
    differing = unlike(live, twin)
    if not differing:
        return ""
    said = "; ".join(differing).replace("`", "")  # this page has no Markdown
    return f"These two did not run the same: {said}. So a difference need not be the twin's error."


def _rule_of_verdicts() -> str:
    return (
        "A figure is indistinguishable where the means differ by less than live runs do among each other (with one live "
        "run: where it lies among the twin's runs), close within 5 % (10 % for tails and times of recovery), off beyond."
    )


def _recovery(groups: Sequence[TimesOf], curves: bool) -> list[Drawing | Log]:
    shown = [group for group in groups if group.faults]
    if not shown:
        return []
    return [recovery_strip(shown), recovery_curves(shown)] if curves else [recovery_strip(shown)]


# -- studies ------------------------------------------------------------------------------------------------------


def _study_page(shelf: Shelf) -> str:
    study = shelf.summary
    lines = lines_of(shelf.folder)
    whats: list[Drawing | Log] = [_points_log(study)]
    placed: list[str] = []
    if study["kind"] == "compare":
        if measures_overhead(study) and not had_faults(lines) and (rows := relative_costs(study, lines)):
            whats.append(cost_chart(rows))
            placed = placement_of(study)
        whats += pair_forest(study["pairs"])
    else:
        whats += _maps(study)
    for name in TIMES:
        whats += _recovery(times_of_study(study, lines, name), curves=name == "ttr_s")
    said = [str(study["claim"]), *study["notes"], *placed]
    same = [bare_label(name) for name in same_in_all(study["pairs"])]
    if same:
        said.append(f"The same in every pair of runs: {', '.join(same)}.")
    if not study["complete"]:
        said.insert(1, f"Not complete: {study['stopped']}.")
    what = "Comparison" if study["kind"] == "compare" else "Sweep"
    headline = f"{what} of {study['scenario']} over {', '.join(study['vary'])}"
    where = f"{sum(point['n'] for point in study['points'])} simulated runs, seeds from {study['seed']}"
    return _page(headline, where, headline, said, whats, [str(study.get("command") or "")])


def _maps(study: dict[str, Any]) -> list[Drawing | Log]:
    keys = list(study["vary"])
    expected = [each["name"] for each in study["points"][0]["expectations"] if each["name"] in BETTER]
    names = list(dict.fromkeys([*expected, "requests_lost", "ttr_s", "e2e_s.p95", "success_ratio"]))
    fixed = {key: study["vary"][key][0] for key in keys[2:]}
    found: list[Drawing | Log] = []
    for name in names:
        if all(figure_of(point["figures"], name) is None for point in study["points"]):
            continue
        if len(keys) > 1:
            found.append(sweep_map(study, name, keys[0], keys[1], fixed))
        found.append(sweep_curve(study, name, keys[0], fixed))
    return found


def _points_log(study: dict[str, Any]) -> Log:
    names = [each["name"] for each in study["points"][0]["expectations"] if each["name"] in BETTER]
    names = list(dict.fromkeys([*names, "requests_lost", "success_ratio", "ttr_s", "e2e_s.p95"]))
    names = [name for name in names if any(figure_of(point["figures"], name) is not None for point in study["points"])]
    log = Log(
        "The points",
        "Means over the replications, with their 95 % intervals; the claim holds at a point only if every run kept it.",
        ("Point", "Runs >", "Claim", *(f"{label_of(name)} >" for name in names)),
    )
    for point in study["points"]:
        cells = []
        for name in names:
            value = figure_of(point["figures"], name)
            mean = value.get("mean") if isinstance(value, dict) else value
            said = figure(name, mean)
            if isinstance(value, dict) and value.get("ci95"):
                said += f" ({ci95(value['ci95'], name)})"
            cells.append(said)
        claim = f"{VERDICT_SIGNS[point['verdict']]} {point['verdict']}"
        log.rows.append((words(point["settings"]), number(point["n"]), claim, *cells))
    return log
