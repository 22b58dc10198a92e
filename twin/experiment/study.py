"""A study: a scenario at several points of a grid of settings, with replications at each, and its folder.

    study.json      what was asked, whether it is complete, and the figures of each point
    results.jsonl   a line for each finished replication, written as it finishes; in order once the study is complete

All points have the same seeds (common random numbers), so that any two of them can be compared pair by pair. A line
depends on the settings and the seed alone, its `wall_s` apart: not on the engine, the number of jobs or the order.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from twin.errors import OperatorError
from twin.experiment.statistics import Precision
from twin.record.names import BETTER, EXPECTABLE
from twin.scenario.loader import varied
from twin.scenario.schema import Scenario

Kind: TypeAlias = Literal["sweep", "compare"]
Line: TypeAlias = dict[str, Any]

STUDY = "study.json"
RESULTS = "results.jsonl"
NOT_TO_VARY = {
    "seed": "the seeds are those of the replications; --replications says how many",
    "replications": "all points have the same number; --replications says how many",
    "name": "it is what the study is called by",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the grid: what is set there, and the scenario that follows."""

    settings: dict[str, Any]
    scenario: Scenario

    @property
    def key(self) -> str:
        """The settings as one text."""
        return key_of(self.settings)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study is to do. `changes` are those of `--set`, already made in `scenario`."""

    kind: Kind
    scenario: Scenario
    changes: list[str]
    vary: dict[str, list[Any]]
    points: list[Point]
    replications: int
    precision: Precision | None = None
    replications_max: int = 0


def key_of(settings: dict[str, Any]) -> str:
    """Settings as one text, whatever their order."""
    return json.dumps(settings, sort_keys=True)


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`KEY=V1,V2...` as keys and values; a value is YAML as in `--set`. Raises `OperatorError`."""
    vary: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        if not equals or not key or not listed.strip():
            raise OperatorError(f"--vary {text}: write KEY=V1,V2..., e.g. --vary cluster.nodes=5,10,15")
        try:
            values = yaml.safe_load(f"[{listed}]")
        except yaml.YAMLError as error:
            raise OperatorError(f"--vary {text}: the values are no valid YAML") from error
        if key in vary:
            raise OperatorError(f"--vary {text}: {key} is varied already; list all its values once")
        if key in NOT_TO_VARY:
            raise OperatorError(f"--vary {text}: {key} cannot be varied: {NOT_TO_VARY[key]}")
        known = [json.dumps(value, sort_keys=True, default=str) for value in values]
        for value in known:
            if known.count(value) > 1:
                raise OperatorError(f"--vary {text}: {value} stands there twice; keep one")
        vary[key] = values
    return vary


def parse_precision(text: str) -> Precision:
    """`FIGURE=0.5` or `FIGURE=5%` as a precision. Raises `OperatorError`."""
    figure, equals, width = text.partition("=")
    relative = width.endswith("%")
    try:
        half_width = float(width.removesuffix("%")) / (100.0 if relative else 1.0)
    except ValueError:
        half_width = 0.0
    if not equals or not half_width > 0.0:
        raise OperatorError(f"--until {text}: write FIGURE=HALF_WIDTH, e.g. --until e2e_s.p95=5% or --until ttr_s=0.5")
    if figure not in EXPECTABLE - {"wall_s"}:
        raise OperatorError(f"--until {text}: unknown figure {figure}; `ollamamax catalogue metrics` lists them")
    return Precision(figure, half_width, relative)


def check_figures(names: Iterable[str]) -> list[str]:
    """Figures to compare by. Raises `OperatorError` for one of which nobody knows which way is better."""
    found = list(dict.fromkeys(names))
    for name in found:
        if name not in BETTER:
            raise OperatorError(f"--figure {name}: can be compared by {', '.join(BETTER)}")
    return found


def grid(scenario: Scenario, vary: dict[str, list[Any]]) -> list[Point]:
    """The points in order: the last key changes fastest, the first point has the first value of each key."""
    combinations = itertools.product(*vary.values())
    settings = [dict(zip(vary, values, strict=True)) for values in combinations]
    return [Point(each, varied(scenario, each)) for each in settings]


# -- the folder ---------------------------------------------------------------------------------------------------


class ResultsFile:
    """The lines of a study, on disk as soon as they are there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS
        self._of: dict[str, dict[int, Line]] = {}  # settings to seed to line

    def read(self) -> None:
        """Take over what is there. A last line that was cut off while it was written is dropped from the file."""
        if not self.path.exists():
            return
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        for number, text in enumerate(whole[:end].splitlines(), start=1):
            try:
                line = json.loads(text)
                self._take(line)
            except (ValueError, KeyError, TypeError) as error:
                raise OperatorError(
                    f"{self.path}:{number}: not a result of this version; remove the line, and --resume again"
                ) from error
        if end < len(whole):
            with self.path.open("r+b") as file:
                file.truncate(end)

    def _take(self, line: Line) -> None:
        self._of.setdefault(key_of(line["settings"]), {}).setdefault(int(line["seed"]), line)

    def has(self, point: Point, seed: int) -> bool:
        """Whether that replication is finished."""
        return seed in self._of.get(point.key, {})

    def add(self, line: Line) -> None:
        """Write a line down. Raises `OSError`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._take(line)

    def of(self, point: Point, count: int | None = None) -> list[Line]:
        """The lines of a point by seed; with a `count` only of the first so many seeds of the study."""
        lines = self._of.get(point.key, {})
        end = None if count is None else point.scenario.seed + count
        return [lines[seed] for seed in sorted(lines) if end is None or point.scenario.seed <= seed < end]

    def sort(self, points: Sequence[Point]) -> None:
        """Put the file in order: by point, then by seed. What belongs to no point comes after."""
        keys = [point.key for point in points]
        keys += sorted(self._of.keys() - set(keys))
        ordered = [self._of[key][seed] for key in keys for seed in sorted(self._of.get(key, {}))]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in ordered))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it. Raises `OSError`."""
    beside = path.with_name(f"{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read_study(folder: Path) -> dict[str, Any]:
    """What a study's folder says of itself. Raises `OperatorError`."""
    path = folder / STUDY
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"--resume {folder}: {STUDY}: {error.strerror}; give the folder of a study") from error
    except ValueError as error:
        raise OperatorError(f"--resume {folder}: {STUDY} is damaged; start the study anew") from error
    if not isinstance(document, dict) or not {"kind", "digest", "vary", "changes", "replications"} <= set(document):
        raise OperatorError(f"--resume {folder}: {STUDY} is not of this version; start the study anew")
    return document
