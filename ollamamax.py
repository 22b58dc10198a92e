"""The front door: the command line. Each command is a few lines that hand over to the room that does the work.

Exit status: 0 pass, 1 fail, 2 bad input (one line on stderr), 3 unknown.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from twin.errors import OperatorError

if TYPE_CHECKING:
    from live.rig.operator_cluster import OperatorNodes
    from twin.experiment.conduct import Asked
    from twin.experiment.engines import Engine
    from twin.experiment.statistics import Precision
    from twin.experiment.study import Kind
    from twin.experiment.world import World
    from twin.scenario.schema import Scenario

EXIT_STATUS = {"pass": 0, "fail": 1, "unknown": 3}
BAD_INPUT = 2

app = typer.Typer(
    name="ollamamax",
    help="Fault tolerance for clusters of Ollama nodes that can be rehearsed before it is trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Start with: ollamamax run scenarios/node-crash.yaml",
)


class WorldChoice(StrEnum):
    """Where a scenario runs."""

    twin = "twin"
    live = "live"


class EngineChoice(StrEnum):
    """Where the runs of a study run."""

    local = "local"
    dask = "dask"


class SoakMode(StrEnum):
    """Which invariants a soak looks at."""

    safety = "safety"
    liveness = "liveness"
    both = "both"


class Catalogue(StrEnum):
    """What can be listed."""

    faults = "faults"
    workloads = "workloads"
    policies = "policies"
    parameters = "parameters"
    metrics = "metrics"
    hardware = "hardware"
    models = "models"
    conditions = "conditions"


ScenarioFile = Annotated[
    Path, typer.Argument(metavar="SCENARIO", help="A scenario file, e.g. scenarios/node-crash.yaml.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the scenario, e.g. --set policy.preset=none."),
]


Vary = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=V1,V2...", help="Values of a key of the scenario; repeatable: all combinations."),
]
Replications = Annotated[int | None, typer.Option(min=1, help="Runs at each point, all on the same seeds.")]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="FIGURE=WIDTH",
        help="Go on until the 95 % interval's half width is at most this, e.g. e2e_s.p95=5% or ttr_s=0.5.",
    ),
]
ReplicationsMax = Annotated[int | None, typer.Option(min=1, help="For --until: at most so many; 10 times as a rule.")]
EngineOption = Annotated[EngineChoice, typer.Option(help="This machine's cores, or a Dask cluster.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="For --engine dask: a scheduler, e.g. tcp://host:8786.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes of this machine; all cores unless given.")]
Resume = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Go on with a study that was broken off.")]
KeepRuns = Annotated[bool, typer.Option("--keep-runs", help="Keep the record of every run in the study's folder.")]
OutFolder = Annotated[Path, typer.Option(help="Where the folder goes.")]


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _load(path: Path, changes: list[str] | None, seed: int | None, replications: int | None) -> Scenario:
    from twin.scenario.loader import load

    more = [f"seed={seed}"] if seed is not None else []
    more += [f"replications={replications}"] if replications is not None else []
    return load(path, [*(changes or []), *more])


def _own_cluster(nodes: str, config: Path | None, allow_disruption: bool) -> OperatorNodes | None:
    """The operator's own nodes, where `--nodes` names some."""
    if nodes in ("real", "emulated"):
        if config is not None or allow_disruption:
            raise OperatorError("--config and --allow-disruption are for drills on your own nodes: --nodes URL,URL,...")
        return None
    from live.rig.operator_options import operator_nodes

    return operator_nodes(nodes, config, allow_disruption)


def _world(choice: WorldChoice, nodes: str, own: OperatorNodes | None) -> World:
    if choice is WorldChoice.twin:
        from twin.experiment.twin_world import TwinWorld

        return TwinWorld()
    from live.rig.live_world import LiveWorld

    if own is not None:
        return LiveWorld(own)
    return LiveWorld("real" if nodes == "real" else "emulated")


def _refuse_faults(scenario: Scenario, own: OperatorNodes) -> None:
    """End before anything is touched where a fault may not be done: a line for each."""
    from live.rig.operator_cluster import plan

    seeds = range(scenario.seed, scenario.seed + scenario.replications)
    lines = dict.fromkeys(line for seed in seeds for line in plan(scenario, seed, own)[1])
    for line in lines:
        typer.echo(f"ollamamax: refused: {line}", err=True)
    if lines:
        raise typer.Exit(BAD_INPUT)


def _dry_run(scenario: Scenario, own: OperatorNodes, as_json: bool) -> NoReturn:
    """Say what a drill would do to which node, and what it would refuse; nothing is touched."""
    from live.rig.operator_cluster import load_in_words, plan

    doing, refused = plan(scenario, scenario.seed, own)
    load = load_in_words(scenario)
    if as_json:
        _print_json({"nodes": dict(own.urls), "load": load, "faults": doing, "refused": refused})
    else:
        typer.echo(f"{scenario.name}: {load}")
        for line in doing:
            typer.echo(line)
        for line in refused:
            typer.echo(f"ollamamax: refused: {line}", err=True)
        if not own.allow_disruption:
            typer.echo("The nodes themselves are left alone: nothing is restarted, loaded or unloaded there.")
    raise typer.Exit(BAD_INPUT if refused else 0)


@app.command()
def run(
    scenario: ScenarioFile,
    world: Annotated[WorldChoice, typer.Option(help="Simulated, or on real processes.")] = WorldChoice.twin,
    nodes: Annotated[
        str, typer.Option(help="For --world live: real (Ollama processes), emulated, or your own nodes: URL,URL,...")
    ] = "real",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For your own nodes: the hands that a drill may use.")
    ] = None,
    allow_disruption: Annotated[
        bool, typer.Option("--allow-disruption", help="For your own nodes: use these hands; else only the network.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="For your own nodes: say what would be done to which, and do nothing.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the first replication.")] = None,
    replications: Annotated[
        int | None, typer.Option(help="How many runs, each with the next seed; live: 1 unless given.")
    ] = None,
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="Where the run's folder goes.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run a scenario, judge its claim, write its record and a page to look at.

    [bold]ollamamax run scenarios/node-crash.yaml[/bold] simulates a crash twenty times;
    with [bold]--world live --nodes emulated[/bold] it happens to processes on this machine.
    """
    from rich.console import Console

    from twin.experiment.run import run_scenario

    if world is WorldChoice.live and replications is None:
        replications = 1
    own = None
    if world is WorldChoice.live:
        own = _own_cluster(nodes, config, allow_disruption)
    if own is not None:
        from live.rig.operator_cluster import of_scenario

        changes = [*(changes or []), of_scenario(own)]
    loaded = _load(scenario, changes, seed, replications)
    if dry_run:
        if own is None:
            raise OperatorError("--dry-run is for drills on your own nodes: --world live --nodes URL,URL,...")
        _dry_run(loaded, own, as_json)
    if own is not None:
        _refuse_faults(loaded, own)
    place = _world(world, nodes, own)
    console = Console(stderr=True, highlight=False)
    with console.status(f"{loaded.name}: starting") as status:

        def progress(line: str) -> None:
            status.update(f"{loaded.name}: {line}")
            if not console.is_terminal and world is WorldChoice.live:
                console.print(line)

        result = run_scenario(
            place, loaded, out, progress, lambda done, wanted: progress(f"{done} of {wanted} replications")
        )
    result.summary["command"] = shlex.join([_program(), *sys.argv[1:]])
    if result.replications:
        from reports.page import write_page

        assert result.folder is not None
        page = result.folder / "page.html"
        _write_page(page, lambda: write_page([it.record for it in result.replications], result.summary, page))
        result.summary["page"] = str(page)
    if as_json:
        _print_json(result.summary)
    else:
        from reports.terminal import print_summary

        print_summary(result.summary, Console(highlight=False))
        _say_what_is_next(Console(highlight=False), loaded, result.summary, result.folder)
    raise typer.Exit(EXIT_STATUS[result.summary["verdict"]])


def _write_page(path: Path, write: Callable[[], Any]) -> None:
    try:
        write()
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror or error}; name a file that can be written") from error


def _program() -> str:
    """How the reader of a hint can call this program."""
    called = Path(sys.argv[0])
    if shutil.which("ollamamax") or called.name != "ollamamax":
        return "ollamamax"
    return os.path.relpath(called)


def _say_what_is_next(console: Any, scenario: Scenario, summary: dict[str, Any], folder: Path | None) -> None:
    console.print(f"\n[dim]record[/dim]  {folder}")
    if "page" in summary:
        console.print(f"[dim]page[/dim]    {summary['page']}")
    if summary["world"] == "twin":
        command = summary["command"]
        if summary["policy"] == "default":
            console.print(f"[dim]compare[/dim] {command} --set policy.preset=none", soft_wrap=True)
        fits = not scenario.cluster.groups and all(model.replicas <= 3 for model in scenario.cluster.models.values())
        fewer = " --set cluster.nodes=3" if fits else ""
        console.print(f"[dim]live[/dim]    {command} --world live --nodes emulated{fewer}", soft_wrap=True)


@app.command()
def sweep(
    scenario: ScenarioFile,
    vary: Vary = None,
    replications: Replications = None,
    seed: Annotated[int | None, typer.Option(help="Of the first replication.")] = None,
    until: Until = None,
    replications_max: ReplicationsMax = None,
    changes: Changes = None,
    engine: EngineOption = EngineChoice.local,
    scheduler: Scheduler = None,
    jobs: Jobs = None,
    out: OutFolder = Path("runs"),
    resume: Resume = None,
    keep_runs: KeepRuns = False,
    as_json: AsJson = False,
) -> None:
    """Sweep: run a scenario at every point of a grid, on all cores or a cluster, and map how it goes.

    [bold]ollamamax sweep scenarios/node-crash.yaml --vary cluster.nodes=3,5,10[/bold]

    Exit status: 0 the map is complete (whatever it shows), 1 an invariant is broken, 2 bad input, 3 not complete.
    """
    from twin.experiment.conduct import Asked

    asked = Asked(scenario, vary or [], changes or [], replications, seed, _precision(until), replications_max, resume)
    _study("sweep", asked, _engine(engine, scheduler, jobs), out, keep_runs, [], as_json)


@app.command()
def compare(
    scenario: ScenarioFile,
    vary: Vary = None,
    replications: Replications = None,
    seed: Annotated[int | None, typer.Option(help="Of the first replication.")] = None,
    figure: Annotated[
        list[str] | None, typer.Option(help="Compare by this; repeatable. Else by what the scenario expects, and more.")
    ] = None,
    until: Until = None,
    replications_max: ReplicationsMax = None,
    changes: Changes = None,
    engine: EngineOption = EngineChoice.local,
    scheduler: Scheduler = None,
    jobs: Jobs = None,
    out: OutFolder = Path("runs"),
    resume: Resume = None,
    keep_runs: KeepRuns = False,
    as_json: AsJson = False,
) -> None:
    """Compare: the same seeds with different settings, pair by pair; the first values are the baseline.

    [bold]ollamamax compare scenarios/node-crash.yaml --vary policy.preset=default,none[/bold]

    Exit status: 0 the comparison is complete, 1 an invariant is broken, 2 bad input, 3 not complete.
    """
    from twin.experiment.conduct import Asked
    from twin.experiment.study import check_figures

    asked = Asked(scenario, vary or [], changes or [], replications, seed, _precision(until), replications_max, resume)
    figures = check_figures(figure or [])
    _study("compare", asked, _engine(engine, scheduler, jobs), out, keep_runs, figures, as_json)


@app.command()
def soak(
    scenario: ScenarioFile,
    seeds: Annotated[int, typer.Option(min=1, help="How many; 1, 2, 3 ... unless --first is given.")] = 100,
    first: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    mode: Annotated[
        SoakMode, typer.Option(help="safety: while it runs; liveness: all is well again once the faults are over.")
    ] = SoakMode.both,
    changes: Changes = None,
    engine: EngineOption = EngineChoice.local,
    scheduler: Scheduler = None,
    jobs: Jobs = None,
    out: OutFolder = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Go on with a soak that was broken off, or with more seeds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Soak: many seeds of a scenario, only to see whether an invariant can be broken; what breaks one is shrunk.

    [bold]ollamamax soak scenarios/soak.yaml --seeds 1000[/bold]

    Exit status: 0 nothing is broken, 1 an invariant is broken, 2 bad input, 3 not complete.
    """
    from rich.console import Console

    from reports.progress import progress_bar
    from twin.experiment.shrink import soak_and_shrink

    loaded = _load(scenario, changes, None, None)
    command = shlex.join([_program(), *sys.argv[1:]])
    with progress_bar(f"{loaded.name}: soak", "seeds") as on_result:
        summary = soak_and_shrink(
            loaded,
            range(first, first + seeds),
            mode.value,
            _engine(engine, scheduler, jobs),
            out,
            on_result,
            command,
            resume=resume,
        )
    if as_json:
        _print_json(summary)
    else:
        from reports.studies import print_soak

        print_soak(summary, _program(), Console(highlight=False))
    if summary["stopped"]:
        again = command if resume else f"{command} --resume {shlex.quote(summary['folder'])}"
        sys.stderr.write(f"ollamamax: {summary['stopped']}; go on with: {again}\n")
    raise typer.Exit(EXIT_STATUS[summary["verdict"]])


@app.command()
def train(
    scenarios: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SCENARIO...]", help="Scenarios to learn from; none: worlds that are drawn."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="MODEL", help="Where the model file goes.")] = Path(
        "model.json"
    ),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Training worlds, or runs of each scenario; 128 worlds, 10 runs.")
    ] = None,
    jobs: Jobs = None,
    shuffle_labels: Annotated[
        bool, typer.Option("--shuffle-labels", help="A check for leaks: what is learnt must be worthless.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train the predictor from runs in the twin, whose truth is known.

    [bold]ollamamax train --out model.json[/bold]   the shipped model is made so
    """
    from rich.console import Console

    from reports.prediction import print_training
    from reports.progress import progress_bar
    from twin.experiment.engines import LocalEngine
    from twin.learn import model_file
    from twin.learn.training import TRAINING_WORLDS
    from twin.learn.training import train as make

    given = [_load(path, None, None, None) for path in scenarios or ()]
    with progress_bar("train", "steps") as on_step:
        document = make(
            LocalEngine(jobs),
            seeds or (10 if given else TRAINING_WORLDS),
            given,
            lambda _what, done, wanted: on_step(done, wanted),
            shuffle_labels,
        )
    model_file.write(document, out)
    if as_json:
        _print_json({key: document[key] for key in ("digest", "data", "figures")} | {"model": str(out)})
        return
    print_training(document, Console(highlight=False))
    typer.echo(f"Written to {out}; next: {_program()} evaluate {shlex.quote(str(out))}")


@app.command()
def evaluate(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="A model file; the shipped one unless given.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of labelled series of real machines: a .npz for each machine."),
    ] = None,
    period_s: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For --data: between samples; by the data set's name unless given."),
    ] = None,
    worlds: Annotated[int, typer.Option(min=1, help="Test worlds; those of other kinds are in proportion.")] = 100,
    shuffle_labels: Annotated[
        bool,
        typer.Option(
            "--shuffle-labels", help="A check for leaks instead: without labels or precursors recall must be chance."
        ),
    ] = False,
    jobs: Jobs = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the figures into a file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the predictor in worlds that it has not seen, by event; or the detector on series of real machines.

    Both beside baselines and with each part switched off.

    [bold]ollamamax evaluate[/bold]              the figures of docs/prediction.md
    [bold]ollamamax evaluate --data DIR[/bold]   the statistical detector on real machines
    [bold]ollamamax evaluate --shuffle-labels[/bold]   whether the figures are too good to be true
    """
    from rich.console import Console

    if data is not None:
        if model is not None:
            raise OperatorError("give either a model file or --data, not both: they are scored on other things")
        if shuffle_labels:
            raise OperatorError("--shuffle-labels is for a model; --data turns its labels in a circle by itself")
        _evaluate_series(data, period_s, out, as_json)
        return
    if period_s is not None:
        raise OperatorError("--period-s is for --data; give that, too")
    from reports.prediction import print_evaluation
    from reports.progress import progress_bar
    from twin.experiment.engines import LocalEngine
    from twin.learn import evaluation, model_file

    path = model if model is not None else model_file.SHIPPED
    document = model_file.read(path)
    model_file.model_of(document, path)
    if shuffle_labels:
        _check_for_leaks(document, worlds, jobs, out, as_json)
        return
    with progress_bar("evaluate", "worlds") as on_world:
        found = evaluation.evaluate(
            document, LocalEngine(jobs), worlds, lambda _what, done, wanted: on_world(done, wanted)
        )
    _write_figures(found, out)
    if as_json:
        _print_json(found)
    else:
        print_evaluation(found, Console(highlight=False))


def _check_for_leaks(document: dict[str, Any], worlds: int, jobs: int | None, out: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from reports.progress import progress_bar
    from reports.tables import print_table
    from twin.experiment.engines import LocalEngine
    from twin.learn.leaks import leak_check, words
    from twin.learn.training import TRAINING_WORLDS

    training_worlds = min(worlds, TRAINING_WORLDS)
    with progress_bar("leaks", "steps") as on_step:
        found = leak_check(
            document, LocalEngine(jobs), worlds, training_worlds, lambda _what, done, wanted: on_step(done, wanted)
        )
    _write_figures(found, out)
    if as_json:
        _print_json(found)
    else:
        print_table(words(found), Console(highlight=False, width=None if sys.stdout.isatty() else 120))
        typer.echo("no leak was found" if found["passed"] else "something foretells better than chance: it leaks")
    raise typer.Exit(EXIT_STATUS["pass" if found["passed"] else "fail"])


def _evaluate_series(data: Path, period_s: float | None, out: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from twin.learn.series_evaluation import evaluate_folder
    from twin.learn.series_words import heading, rows

    console = Console(stderr=True, highlight=False)
    with console.status("evaluate: reading") as status:

        def progress(line: str) -> None:
            status.update(f"evaluate: {line}")
            if not console.is_terminal:
                console.print(f"evaluate: {line}")

        found = evaluate_folder(data, period_s, progress)
    _write_figures(found, out)
    if as_json:
        _print_json(found)
        return
    from reports.tables import print_table

    for line in heading(found):
        typer.echo(line)
    print_table(rows(found), None if sys.stdout.isatty() else Console(highlight=False, width=120))


def _write_figures(found: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    try:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"--out {out}: {error.strerror}; name a file that can be written") from error


def _precision(until: str | None) -> Precision | None:
    from twin.experiment.study import parse_precision

    return parse_precision(until) if until is not None else None


def _engine(choice: EngineChoice, scheduler: str | None, jobs: int | None) -> Engine:
    if choice is EngineChoice.local:
        if scheduler is not None:
            raise OperatorError("--scheduler is for --engine dask; give that, too")
        from twin.experiment.engines import LocalEngine

        return LocalEngine(jobs)
    from twin.experiment.engine_dask import DaskEngine

    return DaskEngine(scheduler, jobs)


def _study(
    kind: Kind, asked: Asked, engine: Engine, out: Path, keep_runs: bool, figures: list[str], as_json: bool
) -> None:
    from rich.console import Console

    from reports.progress import progress_bar
    from twin.experiment.conduct import conduct, plan_of

    plan = plan_of(kind, asked)
    command = shlex.join([_program(), *sys.argv[1:]])
    with progress_bar(f"{plan.scenario.name}: {kind}", "runs") as on_result:
        folder, summary = conduct(
            plan,
            engine,
            out,
            resume=asked.resume,
            keep_runs=keep_runs,
            figures=figures,
            command=command,
            on_result=on_result,
        )
    if as_json:
        _print_json(summary | {"folder": str(folder)})
    else:
        from reports.studies import print_study

        print_study(summary, Console(highlight=False))
        typer.echo(f"\nresults {folder}")
    if not summary["complete"]:
        again = command if asked.resume else f"{command} --resume {shlex.quote(str(folder))}"
        sys.stderr.write(f"ollamamax: {summary['stopped']}; go on with: {again}\n")
        raise typer.Exit(EXIT_STATUS["unknown"])
    broken = any(any(point["invariants"].values()) for point in summary["points"])
    raise typer.Exit(EXIT_STATUS["fail" if broken else "pass"])


@app.command()
def validate(
    scenarios: Annotated[list[Path], typer.Argument(metavar="SCENARIO...", help="Scenario files.")],
    as_json: AsJson = False,
) -> None:
    """Check scenario files, and say what is wrong, where, and what to do."""
    from twin.scenario.loader import load
    from twin.scenario.workload.trace_files import TraceMissing

    results: list[dict[str, Any]] = []
    for path in scenarios:
        try:
            load(path)
            results.append({"file": str(path), "valid": True, "problem": None})
        except TraceMissing as error:
            load(path, files=False)  # the scenario stands; what it replays is not here
            results.append({"file": str(path), "valid": True, "problem": str(error)})
        except OperatorError as error:
            results.append({"file": str(path), "valid": False, "problem": str(error)})
    if as_json:
        _print_json(results)
    else:
        for result in results:
            if result["valid"]:
                note = f", but to run it a file is wanted: {result['problem']}" if result["problem"] else ""
                typer.echo(f"{result['file']}: valid{note}")
            else:
                typer.echo(f"ollamamax: {result['problem']}", err=True)
    raise typer.Exit(0 if all(result["valid"] for result in results) else BAD_INPUT)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a scenario file, for editors."""
    from twin.scenario.loader import json_schema

    _print_json(json_schema())


@app.command()
def catalogue(
    what: Annotated[Catalogue, typer.Argument(help="What to list.")],
    as_json: AsJson = False,
) -> None:
    """List what there is: faults, workloads, policies, parameters, metrics, hardware, models, conditions."""
    from twin.scenario.catalogue import coverage, rows

    table = rows(what.value)
    if as_json:
        _print_json(table)
        return
    from reports.tables import print_table

    print_table(table)
    if what is Catalogue.faults:
        typer.echo(coverage())


@app.command()
def replay(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder (one seed of it).")],
    as_json: AsJson = False,
) -> None:
    """Feed a recorded run to today's policy: the same decisions, or where they differ."""
    from twin.experiment.run import replay_run

    outcome = replay_run(run_folder)
    if as_json:
        _print_json(
            {
                "run": str(run_folder),
                "compared": outcome.compared,
                "differing": outcome.differing,
                "differences": [str(difference) for difference in outcome.differences],
            }
        )
    else:
        typer.echo(f"{outcome.compared} decisions compared, {outcome.differing} differ")
        for difference in outcome.differences:
            typer.echo(f"  {difference}")
    raise typer.Exit(0 if outcome.same else 1)


@app.command()
def adapt(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, of either world.")],
    replications: Annotated[int, typer.Option(min=3, help="Paired runs of each trial.")] = 8,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Propose a better setting for what a run showed, after trials in the twin on its load; nothing is changed.

    Exit status: 0 (also where nothing is better), 2 bad input.
    """
    from twin.experiment.adapt import adapt_run

    report = adapt_run(run_folder, replications, jobs, lambda line: typer.echo(line, err=True))
    if as_json:
        _print_json(report)
        return
    typer.echo(f"{report['seen']['bad']} of {report['seen']['requests']} requests were lost or turned away")
    for trial in report["trials"]:
        low, high = trial["ci95"] or (None, None)
        width = "" if low is None else f" (95 % {low:+.1f} to {high:+.1f})"
        typer.echo(f"  {trial['key']} {trial['was']} -> {trial['value']}: {trial['difference']:+.1f} a run{width}")
    typer.echo(report["evidence"])
    if report["set"]:
        typer.echo(f"try it: --set policy.{report['set']}")


@app.command()
def bench(
    requests: Annotated[int, typer.Option(min=1000, help="Requests in each measured run.")] = 100_000,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are printed.")] = 3,
    long: Annotated[bool, typer.Option("--long", help="Also ten million requests, and a whole day (minutes).")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the simulator's speed beside a plain event loop in the same run."""
    from twin.experiment.bench import measure

    figures = measure(requests, repeats, long=long)
    if as_json:
        _print_json(figures)
        return
    from reports.tables import print_table

    print_table(figures["rows"])
    print_table(figures["more"])
    typer.echo("hot modules: " + ("compiled" if figures["compiled"] else "interpreted; `make compiled` compiles them"))


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, folders of several runs, or a study's folder.")
    ],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Where the page goes; report.html unless given.")
    ] = None,
    time: Annotated[
        bool, typer.Option("--time", help="Write no page; measure how long a run takes to open, afresh and again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report: one static HTML page that needs no network, of a run, of a study, or of several results beside each other.

    [bold]ollamamax report runs/node-crash-twin-... runs/node-crash-live-... --html both.html[/bold]
    lays the two worlds beside each other.
    """
    if time:
        from reports.opening import opening_times, print_opening

        found = [opening_times(folder) for folder in runs]
        if as_json:
            _print_json(found)
        else:
            print_opening(found)
        return
    from reports.static import write_report

    target = html or Path("report.html")
    _write_page(target, lambda: write_report(runs, target))
    if as_json:
        _print_json({"page": str(target)})
    else:
        typer.echo(str(target))


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Option(metavar="DIR", help="The folder in which the runs lie.")] = Path("runs"),
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="On 127.0.0.1; a free one unless given.")] = None,
    admin: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The admin API of `serve`, for its live page.", envvar="OLLAMAMAX_ADMIN"),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds its token.", envvar="OLLAMAMAX_TOKEN_FILE")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
) -> None:
    """Dashboard: all runs, studies and the running cluster in a browser, on this machine alone, until Ctrl-C."""
    from reports.app.launch import dashboard as show

    raise typer.Exit(show(runs, port, admin, token_file, not no_browser, typer.echo))


@app.command()
def serve(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A configuration file.")] = None,
    node: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="An Ollama node, e.g. http://gpu1:11434.")
    ] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where clients connect.")] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where operators look at the nodes and give orders.")
    ] = None,
) -> None:
    """Serve: an Ollama-compatible gateway in front of your nodes, with the policy of the twin."""
    from live.serve import serve as run_server

    raise typer.Exit(run_server(config, node or [], listen, admin))


@app.command()
def agent(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A configuration file.")] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the controller asks it; 127.0.0.1:11480 unless given."),
    ] = None,
    ollama: Annotated[
        str | None, typer.Option(metavar="URL", help="The Ollama beside it; http://127.0.0.1:11434 unless given.")
    ] = None,
    controller: Annotated[
        str | None, typer.Option(metavar="URL", help="The admin API of a controller to announce itself to.")
    ] = None,
) -> None:
    """Agent: runs beside an Ollama, reads its machine, and restarts it when the controller says so."""
    from live.agent.command import agent as run_agent

    run_agent(config, listen, ollama, controller)


nodes_app = typer.Typer(help="Show the nodes of a running `serve`, and set them aside, restart them, give them back.")
app.add_typer(nodes_app, name="nodes", no_args_is_help=True)
Admin = Annotated[str, typer.Option(metavar="URL", help="The admin API of `serve`.", envvar="OLLAMAMAX_ADMIN")]
TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Holds the admin API's token.", envvar="OLLAMAMAX_TOKEN_FILE")
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Its name in the list.")]
Wait = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Wait this long until it is carried out.")]
ADMIN = "http://127.0.0.1:11436"


@nodes_app.command("list")
def nodes_list(admin: Admin = ADMIN, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """List the nodes: health, orders, load."""
    from live.controller.nodes_command import AdminClient, rows

    answer = AdminClient(admin, token_file).nodes()
    if as_json:
        _print_json(answer)
        return
    from reports.tables import print_table

    print_table(rows(answer))


def _order(order: str, node: str, admin: str, token_file: Path | None, wait: float, as_json: bool) -> None:
    from live.controller.nodes_command import AdminClient

    client = AdminClient(admin, token_file)
    before = {each["name"]: each["operator"] for each in client.nodes()["nodes"]}
    last = max((action["id"] for action in client.actions()), default=0)
    answer = client.order(order, node)
    problem = ""
    if wait:
        answer["node"], problem = client.wait(order, node, last, wait, stays=before.get(node) == "drained")
    if as_json:
        _print_json(answer | {"problem": problem or None})
    else:
        for warning in answer["warnings"]:
            typer.echo(f"ollamamax: warning: {warning}", err=True)
        state = answer["node"]
        typer.echo(f"{node}: {state['operator'] or state['health']}, {state['in_flight']} in flight")
        if problem:
            typer.echo(f"ollamamax: {problem}", err=True)
    raise typer.Exit(1 if problem else 0)


@nodes_app.command("drain")
def nodes_drain(
    node: NodeName, admin: Admin = ADMIN, token_file: TokenFile = None, wait: Wait = 0.0, as_json: AsJson = False
) -> None:
    """Send a node nothing new until it is returned; what runs there ends by itself."""
    _order("drain", node, admin, token_file, wait, as_json)


@nodes_app.command("return")
def nodes_return(
    node: NodeName, admin: Admin = ADMIN, token_file: TokenFile = None, wait: Wait = 0.0, as_json: AsJson = False
) -> None:
    """Give a drained node back: its models are loaded, a generation proves it, then traffic rises."""
    _order("return", node, admin, token_file, wait, as_json)


@nodes_app.command("restart")
def nodes_restart(
    node: NodeName, admin: Admin = ADMIN, token_file: TokenFile = None, wait: Wait = 0.0, as_json: AsJson = False
) -> None:
    """Drain a node, restart its Ollama once it is idle, and give it back (unless it was drained before)."""
    _order("restart", node, admin, token_file, wait, as_json)


@app.command()
def emulate(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it listens.")] = "127.0.0.1:11434",
    hardware: Annotated[str, typer.Option(metavar="PROFILE", help="How fast it is.")] = "rtx-4090",
    model: Annotated[list[str] | None, typer.Option(help="A model that it has; repeatable.")] = None,
) -> None:
    """Emulate: a stand-in Ollama node, the twin's node model served over HTTP."""
    from live.emulator.command import emulate as run_emulator

    run_emulator(listen, hardware, model or ["llama3.1:8b"])


@app.command()
def calibrate(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN...]", help="Run folders: several loads, and a few cold loads.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="PROFILE", help="Where the profile goes.")] = Path("profile.yaml"),
    drive: Annotated[
        Path | None, typer.Option(metavar="SCENARIO", help="Make the runs now, on the cluster of this scenario.")
    ] = None,
    nodes: Annotated[
        str, typer.Option(help="For --drive: real (Ollama processes), emulated, or your own nodes: URL,URL,...")
    ] = "real",
    seconds: Annotated[float, typer.Option(help="For --drive: how long each of its runs takes.")] = 60.0,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate: from recorded runs to a profile of the machines, for the twin.

    With [bold]--drive[/bold] the runs are made first: a sweep of loads, and on the rig a crash. Your own nodes get the
    loads alone.
    """
    from rich.console import Console

    from twin.experiment.calibration.drive import drive as drive_runs
    from twin.experiment.calibration.profile import calibrate as calibrated
    from twin.experiment.calibration.profile import source, write_profile
    from twin.record.reader import open_run

    if (drive is None) == (not runs):
        raise OperatorError("give either run folders, or --drive SCENARIO to make them")
    console = Console(stderr=True, highlight=False)
    if drive is not None:
        from twin.experiment.run import new_folder

        own = _own_cluster(nodes, None, False)
        if own is not None:
            from live.rig.operator_cluster import of_scenario

            changes = [*(changes or []), of_scenario(own)]
        scenario = _load(drive, changes, None, None)
        folder = new_folder(Path("runs"), f"{scenario.name}-calibration")
        world = _world(WorldChoice.live, nodes, own)
        sources = list(drive_runs(world, scenario, folder, seconds, disrupt=own is None, progress=console.print))
    else:
        sources = [source(folder, open_run(folder)) for folder in runs or []]
    profile = calibrated(out.stem, sources)
    write_profile(out, profile)
    if as_json:
        _print_json(profile)
    else:
        from reports.fidelity import print_profile

        print_profile(profile, Console(highlight=False))
        typer.echo(f"\nprofile {out}; name it in a scenario: --set cluster.hardware={out}")


@app.command()
def fidelity(
    scenario: ScenarioFile,
    profile: Annotated[
        Path | None, typer.Option(metavar="PROFILE", help="What `ollamamax calibrate` wrote; --all makes its own.")
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Calibrate, then 50, 80 and 95 % of what the nodes carry, bursts, crashes and hangs (50 minutes).",
        ),
    ] = False,
    live: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="A live run that is there already; repeatable: none is made."),
    ] = None,
    nodes: Annotated[str, typer.Option(help="real (Ollama processes) or emulated.")] = "real",
    repeats: Annotated[int, typer.Option(min=1, help="Live runs of each policy: how much it differs from itself.")] = 3,
    policies: Annotated[
        int, typer.Option(min=1, max=4, help="Policies whose order must agree: default, reactive, none, none + router.")
    ] = 4,
    replications: Annotated[int, typer.Option(min=1, help="Twin runs beside each live one.")] = 5,
    changes: Changes = None,
    out: OutFolder = Path("runs"),
    resume: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Go on: live runs in it are kept.")] = None,
    seconds: Annotated[float, typer.Option(help="For --all: how long each live run takes.")] = 60.0,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For --all: also write the tables as a page of Markdown.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fidelity: the twin beside live runs, on the same requests and faults, figure by figure.

    Exit status: 0 close or not to be told apart, 1 off or drifted, 2 bad input, 3 not all could be judged.
    """
    from rich.console import Console

    from reports.fidelity import print_fidelity
    from twin.experiment.fidelity_run import POLICIES, fidelity_folder, given_runs, judge_fidelity, live_runs
    from twin.scenario.calibrated import read_measured

    loaded = _load(scenario, changes, None, None)
    if everything == (profile is not None) or (everything and live):
        raise OperatorError("give either --profile PROFILE, or --all, which calibrates and makes all runs itself")
    folder = fidelity_folder(out, loaded.name, resume)
    console = Console(stderr=True, highlight=False)
    if everything:
        _fidelity_of_all(loaded, folder, nodes, (seconds, repeats, replications), markdown, as_json)
    assert profile is not None
    read_measured(profile)  # before the runs, which take minutes
    if live:
        runs = given_runs(live, loaded)
    else:
        world = _world(WorldChoice.live, nodes, None)
        runs = live_runs(world, loaded, folder, repeats, list(POLICIES)[:policies], console.print)
    result = judge_fidelity(loaded.name, runs, profile, folder, replications)
    if as_json:
        _print_json(result)
    else:
        print_fidelity(result, Console(highlight=False))
        typer.echo(f"\nresults {folder}")
    raise typer.Exit(EXIT_STATUS[result["verdict"]])


def _fidelity_of_all(
    scenario: Scenario, folder: Path, nodes: str, asked: tuple[float, int, int], markdown: Path | None, as_json: bool
) -> None:
    from rich.console import Console

    from reports.fidelity import as_markdown, print_fidelity, print_profile
    from twin.experiment.fidelity_suite import Asked as AskedSuite
    from twin.experiment.fidelity_suite import fidelity_suite

    console, told = Console(highlight=False), Console(stderr=True, highlight=False)
    command = shlex.join([_program(), *sys.argv[1:]])

    def on_case(document: dict[str, Any]) -> None:
        if markdown is not None:
            page = markdown
            _write_page(page, lambda: page.write_text(as_markdown(document, command), encoding="utf-8"))
        if not as_json:
            if len(document["cases"]) == 1:
                print_profile(document["profile"], console)
            print_fidelity(document["cases"][-1]["result"], console)

    try:
        document = fidelity_suite(
            _world(WorldChoice.live, nodes, None), scenario, folder, AskedSuite(*asked), told.print, on_case
        )
    except BaseException:
        told.print(f"ollamamax: finished runs are kept; go on with --resume {shlex.quote(str(folder))}")
        raise
    if as_json:
        _print_json(document)
    else:
        typer.echo(f"\nresults {folder}")
    raise typer.Exit(EXIT_STATUS[document["verdict"]])


@app.command()
def claims(
    world: Annotated[WorldChoice, typer.Option(help="Simulated, or on real processes.")] = WorldChoice.twin,
    nodes: Annotated[str, typer.Option(help="For --world live: real (Ollama processes) or emulated.")] = "emulated",
    only: Annotated[
        list[int] | None, typer.Option(metavar="NUMBER", help="Only this promise, 1 to 7; repeatable.")
    ] = None,
    replications: Annotated[int | None, typer.Option(min=1, help="At most so many runs of each part.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For promise 4: what `ollamamax evaluate --json` printed.")
    ] = None,
    scenarios: Annotated[Path, typer.Option(help="The folder with the scenario files.")] = Path("scenarios"),
    jobs: Jobs = None,
    out: OutFolder = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Go on with claims that were broken off.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the tables as a page of Markdown.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Claims: the seven promises that such systems make, each measured, with its verdict and the baselines beside.

    Exit status: 0 all are kept, 1 one is not, 2 bad input, 3 one could not be judged.
    """
    from rich.console import Console

    from reports.claims import as_markdown, print_overall, print_promise
    from reports.progress import progress_bar
    from twin.experiment.claims.conduct import Asked as AskedClaims
    from twin.experiment.claims.conduct import look_at_claims
    from twin.experiment.engines import LocalEngine

    live = world is WorldChoice.live
    command = shlex.join([_program(), "claims", *(("--world", "live", "--nodes", nodes) if live else ())])
    asked = AskedClaims(world.value, scenarios, only or (), replications, evaluation, resume, command)
    console = Console(highlight=False)
    with progress_bar("claims", "runs") as on_result:
        folder, document = look_at_claims(
            asked,
            None if live else LocalEngine(jobs),
            _world(world, nodes, None) if live else None,
            out,
            on_result,
            (lambda promise: None) if as_json else (lambda promise: print_promise(promise, console)),
        )
    if markdown is not None:
        page = markdown
        _write_page(page, lambda: page.write_text(as_markdown(document), encoding="utf-8"))
    if as_json:
        _print_json(document)
    else:
        print_overall(document, console)
        typer.echo(f"\nresults {folder}")
    if not document["complete"]:
        sys.stderr.write(f"ollamamax: {document['stopped']}; go on with --resume {shlex.quote(str(folder))}\n")
    raise typer.Exit(EXIT_STATUS[document["verdict"]])


@app.command()
def gate(
    gate_file: Annotated[Path, typer.Argument(metavar="[GATE]", help="What is held; gate.yaml unless given.")] = Path(
        "gate.yaml"
    ),
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Figures of before; beside the gate file unless given.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write the baseline instead of comparing with it.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="First seed of every scenario; others than the baseline's: not paired.")
    ] = None,
    jobs: Jobs = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JUnit's XML, for a CI server.")] = None,
    as_json: AsJson = False,
) -> None:
    """Gate: hold figures of many simulated runs against a committed baseline; fail for a reason, not for noise.

    Exit status: 0 nothing got worse, 1 something did, 2 bad input, 3 not everything could be compared.
    """
    from rich.console import Console

    from reports.gate import print_gate, write_junit
    from reports.progress import progress_bar
    from twin.experiment.engines import LocalEngine
    from twin.experiment.gate import baseline_of, broken_invariants, compare, measure
    from twin.experiment.gate_file import load_gate, read_baseline, write_baseline

    asked, items = load_gate(gate_file)
    place = baseline or gate_file.with_suffix(".baseline.json")
    before = None if update else read_baseline(place)
    with progress_bar(gate_file.stem, "runs") as on_result:
        measured = measure(asked, items, LocalEngine(jobs), on_result, seed)
    if before is None:
        if not measured.complete:
            raise OperatorError(f"interrupted; {place} is left as it was")
        broken = [
            f"{it['invariant']} in {it['scenario']}, seed {it['seed']}" for it in broken_invariants(items, measured)
        ]
        if broken:
            raise OperatorError(f"invariants are broken, {place} is left as it was: {'; '.join(broken)}")
        write_baseline(place, baseline_of(items, measured))
        typer.echo(str(place))
        return
    result = compare(asked, items, measured, before)
    if junit is not None:
        write_junit(result, junit)
    if as_json:
        _print_json(result)
    else:
        print_gate(result, Console(highlight=False))
    raise typer.Exit(EXIT_STATUS[result["verdict"]])


def _bad_input(line: str) -> NoReturn:
    sys.stderr.write(f"ollamamax: {line}\n")
    raise SystemExit(BAD_INPUT)


def main() -> None:
    """Run the command line; what the operator must mend is one line and exit status 2."""
    command: Callable[[], Any] = app
    # A polite end (`timeout`, a service manager, CI) puts everything back as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    try:
        command()
    except OperatorError as error:
        _bad_input(" ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.stderr.write("ollamamax: interrupted\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
