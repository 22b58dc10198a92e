"""What a gate holds: `gate.yaml`, and the baseline beside it.

    gate: 1
    scenarios:
      - file: scenarios/node-crash.yaml       # beside the gate file
        set: [record.journal=false]           # as `--set` of `run`
        replications: 20
        figures:
          requests_lost: {worse_by: 0.5}      # in the figure's unit: the change of the mean that matters
          ttr_s: {worse_by: 20%}              # of the baseline's mean
    cost: {nodes: 15, requests: 20000, repeats: 9, worse_by: 25%}

A baseline has the figures of each replication, so that a later run on the same seeds is compared pair by pair.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from twin import compiled
from twin.errors import OperatorError
from twin.experiment.study import write_whole
from twin.record.names import BETTER, Direction
from twin.record.schema import RECORD_VERSION
from twin.scenario.inputs import without_places
from twin.scenario.loader import as_document, load
from twin.scenario.schema import Scenario

DIRECTIONS: dict[str, Direction] = {**BETTER, "events_per_request": "lower", "answers_wrong": "lower"}
"""Figures that a gate can hold, and which way is better."""
NOT_THE_QUESTION = ("seed", "replications", "name", "claim", "why", "expect", "live", "policy")
"""Keys of a scenario that may change between two runs that are compared: the policy is what is compared."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Threshold(_Closed):
    """The smallest worsening of a mean that anyone should act on: in the figure's unit, or in per cent of the baseline."""

    worse_by: float | str

    @field_validator("worse_by")
    @classmethod
    def _a_number_or_per_cent(cls, value: float | str) -> float | str:
        try:
            number = float(value.removesuffix("%")) if isinstance(value, str) and value.endswith("%") else float(value)
        except ValueError:
            number = -1.0
        if not 0.0 <= number < float("inf"):
            raise ValueError(f"write a number in the figure's unit, or per cent of the baseline (20%), not {value!r}")
        return value if isinstance(value, str) and value.endswith("%") else number

    def of(self, baseline_mean: float) -> float:
        """In the figure's unit."""
        if isinstance(self.worse_by, str):
            return abs(baseline_mean) * float(self.worse_by.removesuffix("%")) / 100.0
        return self.worse_by


class GateScenario(_Closed):
    """One scenario of a gate."""

    file: str
    changes: Annotated[list[str], Field(alias="set")] = []
    name: Annotated[str, Field(description="What it is called by; the scenario's own name unless given.")] = ""
    replications: Annotated[int, Field(ge=3, le=10_000)] = 20
    seed: Annotated[int, Field(ge=0)] = 1
    figures: Annotated[dict[str, Threshold], Field(min_length=1)]

    @field_validator("figures")
    @classmethod
    def _they_have_a_direction(cls, value: dict[str, Threshold]) -> dict[str, Threshold]:
        for name in value:
            if name not in DIRECTIONS:
                raise ValueError(f"{name} cannot be held by a gate; there are {', '.join(DIRECTIONS)}")
        return value


class Cost(_Closed):
    """Processor time of a simulated request, in units of a plain event loop's in the same run."""

    nodes: Annotated[int, Field(ge=1)] = 15
    requests: Annotated[int, Field(ge=1000)] = 20_000
    repeats: Annotated[int, Field(ge=3)] = 9
    worse_by: Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$")] = "25%"


class GateFile(_Closed):
    """A gate file."""

    gate: Annotated[int, Field(ge=1, le=1, description="Version of this schema.")]
    level: Annotated[
        float, Field(ge=0.5, lt=1, description="Of all intervals together: one gate in a hundred may err by chance.")
    ] = 0.99
    scenarios: Annotated[list[GateScenario], Field(min_length=1)]
    cost: Cost | None = None


class _Known(BaseModel):
    """A scenario of a baseline: as many values of each figure."""

    model_config = ConfigDict(allow_inf_nan=False)

    digest: str
    seed: int
    figures: dict[str, list[float | None]]

    @field_validator("figures")
    @classmethod
    def _as_many_of_each(cls, value: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
        if len({len(values) for values in value.values()}) > 1:
            raise ValueError("figures of unequal numbers of runs")
        return value


class Item:
    """A scenario of a gate, loaded."""

    def __init__(self, asked: GateScenario, scenario: Scenario) -> None:
        self.asked = asked
        self.scenario = scenario
        self.name = asked.name or scenario.name
        self.digest = asked_digest(scenario)


def asked_digest(scenario: Scenario) -> str:
    """sha256 (16 hex digits) of what the scenario says that is simulated, without what it leaves to defaults.

    A default that changes is a change of the system, which a gate is there to compare.
    """
    document = without_places({key: it for key, it in as_document(scenario).items() if key not in NOT_THE_QUESTION})
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def load_gate(path: Path) -> tuple[GateFile, list[Item]]:
    """The gate in a file, with its scenarios. Raises `OperatorError`."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise OperatorError(f"{path}: {reason}; give a gate file (docs/gate.md says how to write one)") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise OperatorError(f"{path}:{line}: no valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise OperatorError(f"{path}: no valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise OperatorError(f"{path}: no gate file (gate: 1, scenarios: ...); docs/gate.md says how to write one")
    try:
        gate = GateFile.model_validate(document)
    except ValidationError as error:
        # A misspelt key makes two problems, of which its being unknown says more than the right one's being missing.
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        where = ".".join(str(step) for step in first["loc"])
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise OperatorError(f"{path}: {where}: {what}") from error
    items = [Item(it, load(path.parent / it.file, it.changes)) for it in gate.scenarios]
    names = [item.name for item in items]
    for item in items:
        if names.count(item.name) > 1:
            raise OperatorError(f"{path}: {item.name} stands there twice; give one of them another name")
    return gate, items


# -- the baseline -------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What processor time depends on."""
    return {
        "processor": _processor_name(),
        "python": platform.python_version(),
        "compiled": compiled.SIMULATOR.in_use(),
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {named[0]}" if named else platform.machine()


def read_baseline(path: Path) -> dict[str, Any]:
    """A baseline that this version can compare with. Raises `OperatorError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}; `ollamamax gate --update` writes a baseline") from error
    except ValueError as error:
        raise OperatorError(f"{path} is no baseline; `ollamamax gate --update` writes one") from error
    if not isinstance(document, dict) or document.get("gate") != 1 or not isinstance(document.get("scenarios"), dict):
        raise OperatorError(f"{path} is no baseline of this version; `ollamamax gate --update` writes one")
    if document.get("record_version") != RECORD_VERSION:
        raise OperatorError(
            f"{path} is of record version {document.get('record_version')}, this version writes {RECORD_VERSION}: nothing "
            "is compared; `ollamamax gate --update` writes a new baseline"
        )
    try:
        for it in document["scenarios"].values():
            _Known.model_validate(it)
    except ValidationError as error:
        raise OperatorError(f"{path} is damaged; `ollamamax gate --update` writes a new baseline") from error
    return document


def write_baseline(path: Path, document: dict[str, Any]) -> None:
    """Write it, a line for each figure, so that a change of it can be read. Raises `OperatorError`."""
    scenarios = []
    for name, it in document["scenarios"].items():
        figures = ",\n".join(f"    {json.dumps(key)}: {json.dumps(values)}" for key, values in it["figures"].items())
        head = json.dumps({key: value for key, value in it.items() if key != "figures"})[1:-1]
        scenarios.append(f'  {json.dumps(name)}: {{{head}, "figures": {{\n{figures}}}}}')
    rest = {key: value for key, value in document.items() if key != "scenarios"}
    text = json.dumps(rest)[:-1] + ',\n"scenarios": {\n' + ",\n".join(scenarios) + "}}\n"
    json.loads(text)
    try:
        write_whole(path, text)
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}; name a --baseline that can be written") from error
