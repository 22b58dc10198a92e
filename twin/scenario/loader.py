"""From a file and `--set` changes to a `Scenario`, or one clear line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError

from twin.errors import OperatorError
from twin.scenario import inputs
from twin.scenario.calibrated import put_profiles
from twin.scenario.schema import Scenario

Lines: TypeAlias = dict[tuple[str | int, ...], int]
"""Path of a key in the document to its line number."""


class ScenarioError(OperatorError):
    """A scenario file, or a change to it, that does not stand."""


class _Loader(yaml.SafeLoader):
    """YAML without the surprise that two equal keys are one."""


def load(path: Path, changes: Iterable[str] = (), *, files: bool = True) -> Scenario:
    """The scenario in a file, with `KEY=VALUE` changes. Raises `ScenarioError`.

    `files`: also read the files that it names (traces), and note their digests; raises `TraceError`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ScenarioError(
            f"{path}: {reason}; give the path of a scenario file, e.g. scenarios/node-crash.yaml"
        ) from error
    try:
        root = yaml.compose(text, Loader=_Loader)
        if not isinstance(root, yaml.MappingNode):
            raise ScenarioError(
                f"{path}:1: a scenario is a mapping of keys (schema, name, claim, cluster, workload ...)"
            )
        lines: Lines = {}
        document = _plain(path, root, (), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise ScenarioError(f"{where}: no valid YAML: {error.problem or error.context}") from error
    inputs.relative_to(document, path.parent)
    put_profiles(document, path.parent)
    for change in changes:
        apply_change(document, change)
    inputs.relative_to(document, Path.cwd())
    put_profiles(document, Path.cwd())
    scenario = _with_inputs(_validated(document, str(path), lines), document, str(path), lines, files)
    if scenario.name != path.stem:
        line = lines.get(("name",), 1)
        raise ScenarioError(
            f"{path}:{line}: name is {scenario.name}, the file is called {path.stem}; make them the same"
        )
    return scenario


def changed(scenario: Scenario, changes: Iterable[str]) -> Scenario:
    """A scenario with `KEY=VALUE` changes. Raises `ScenarioError`."""
    document = as_document(scenario)
    for change in changes:
        apply_change(document, change)
    inputs.relative_to(document, Path.cwd())
    put_profiles(document, Path.cwd())
    inputs.forget_digests(document)
    return _with_inputs(_validated(document, scenario.name, {}), document, scenario.name, {}, True)


def _with_inputs(scenario: Scenario, document: dict[str, Any], source: str, lines: Lines, files: bool) -> Scenario:
    """The scenario with the digests of the files that it names, which are read and found good."""
    if not files or not inputs.note_digests(document):
        return scenario
    scenario = _validated(document, source, lines)
    inputs.check(scenario)
    return scenario


def varied(scenario: Scenario, settings: Mapping[str, Any]) -> Scenario:
    """A scenario with other values at these dotted paths. Raises `ScenarioError`."""
    document = as_document(scenario)
    for key, value in settings.items():
        put(document, key, value, f"--vary {key}={value}")
    put_profiles(document, Path.cwd())
    return _validated(document, scenario.name, {})


def as_document(scenario: Scenario) -> dict[str, Any]:
    """The scenario as plain data, with the keys of its file; what is at its default is left out."""
    document: dict[str, Any] = scenario.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return document


def _plain(path: Path, node: yaml.Node, where: tuple[str | int, ...], lines: Lines) -> Any:
    """The node as plain data; notes the line of every key."""
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            lines[(*where, key)] = key_node.start_mark.line + 1
            if key in result:
                raise ScenarioError(f"{path}:{key_node.start_mark.line + 1}: {key} stands here a second time; keep one")
            value = _plain(path, value_node, (*where, key), lines)
            lines[(*where, key)] = key_node.start_mark.line + 1
            result[key] = value
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(path, item, (*where, place), lines) for place, item in enumerate(node.value)]
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


# -- changes ------------------------------------------------------------------------------------------------------


def apply_change(document: dict[str, Any], change: str) -> None:
    """Put `KEY=VALUE` into a document; KEY is a dotted path, VALUE is YAML. Raises `ScenarioError`."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ScenarioError(f"--set {change}: write KEY=VALUE, e.g. --set cluster.nodes=15")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ScenarioError(f"--set {change}: the value is no valid YAML") from error
    put(document, key, value, f"--set {change}")


def put(document: dict[str, Any], key: str, value: Any, said: str) -> None:
    """Put a value at a dotted path of a document. `said`: what the operator wrote, for the error `ScenarioError`."""
    steps = _steps(document, key)
    at: Any = document
    for place, step in enumerate(steps[:-1]):
        if isinstance(at, list):
            at = at[_index(at, step, said)]
            continue
        if not isinstance(at.get(step), (dict, list)):
            at[step] = {}
        at = at[step]
        if not isinstance(at, (dict, list)):
            raise ScenarioError(f"{said}: {'.'.join(steps[: place + 1])} has no keys below it")
    last = steps[-1]
    if isinstance(at, list):
        at[_index(at, last, said)] = value
        return
    at[last] = value
    if steps == ["cluster", "nodes"]:
        document["cluster"].pop("groups", None)
    elif steps == ["cluster", "groups"]:
        document["cluster"].pop("nodes", None)


def _steps(document: Mapping[str, Any], key: str) -> list[str]:
    """The dotted path as steps. `policy.PART.NAME` is a parameter; a model's name may itself contain dots."""
    steps = key.split(".")
    if steps[0] == "policy" and len(steps) > 1 and steps[1] not in ("preset", "overrides"):
        return ["policy", "overrides", ".".join(steps[1:])]
    if steps[:2] == ["policy", "overrides"]:
        return ["policy", "overrides", ".".join(steps[2:])]
    if steps[:2] == ["cluster", "models"]:
        models = document.get("cluster", {}).get("models", {})
        rest = ".".join(steps[2:])
        for model in models:
            if rest == model or rest.startswith(f"{model}."):
                return ["cluster", "models", model, *filter(None, rest[len(model) + 1 :].split("."))]
    return steps


def _index(items: list[Any], step: str, said: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise ScenarioError(f"{said}: {step} is no place in a list of {len(items)} (the first is 0)")
    return int(step)


# -- saying what is wrong -----------------------------------------------------------------------------------------


def _validated(document: dict[str, Any], source: str, lines: Lines) -> Scenario:
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        raise ScenarioError(_say(error, document, source, lines)) from error


def _say(error: ValidationError, document: dict[str, Any], source: str, lines: Lines) -> str:
    """The first problem in one line, and how many more there are."""
    # A misspelt key makes two problems, of which its being unknown says more than the right one's being missing.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    path, tags = _path_in(document, problem["loc"])
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    where = f"{source}:{line}" if line else source
    place = re.match(r"Value error, (faults|fault_generators)\[(\d+)\]", problem["msg"])
    if place and (place[1], int(place[2])) in lines:
        where = f"{source}:{lines[place[1], int(place[2])]}"
    key = ".".join(str(step) for step in path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        text = f"unknown key {key}{_suggestion(str(path[-1]), path[:-1], tags)}"
    elif kind == "union_tag_invalid":
        context = problem["ctx"]
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        near = difflib.get_close_matches(context["tag"], known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        text = f"{key}: unknown kind {context['tag']}; {hint}"
    elif kind == "missing":
        text = f"{key} is missing"
    elif kind == "value_error":
        text = problem["msg"].removeprefix("Value error, ")
        text = f"{key}: {text}" if key else text
    else:
        given = problem.get("input")
        shown = "" if isinstance(given, (dict, list)) else f", not {json.dumps(given, default=str)}"
        text = f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}{shown}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {' '.join(text.split())}{more}"


def _path_in(document: Any, location: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], list[str]]:
    """The part of pydantic's location that stands in the document; and the union tags that do not."""
    at = document
    path: list[str | int] = []
    tags: list[str] = []
    for place, step in enumerate(location):
        if (isinstance(at, dict) and step in at) or (isinstance(at, list) and isinstance(step, int) and step < len(at)):
            path.append(step)
            at = at[step]  # type: ignore[index]  # a list has whole numbers for steps
        elif place == len(location) - 1 and isinstance(step, str) and step[:1].islower():
            path.append(step)  # a key that is missing
        else:
            tags.append(str(step))
    return tuple(path), tags


def _suggestion(key: str, parents: tuple[str | int, ...], tags: list[str]) -> str:
    known = _known_keys(parents, tags)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(sorted(known))}" if known else "; `ollamamax schema` has all keys"


def _known_keys(parents: tuple[str | int, ...], tags: list[str]) -> list[str]:
    """The keys of the model that stands at that path."""
    schema = Scenario.model_json_schema(by_alias=True)
    found = [schema]
    for step in parents:
        following: list[dict[str, Any]] = []
        for node in found:
            for option in _options(schema, node):
                if isinstance(step, int):
                    following.append(option.get("items", {}))
                elif step in option.get("properties", {}):
                    following.append(option["properties"][step])
                elif isinstance(option.get("additionalProperties"), dict):
                    following.append(option["additionalProperties"])
        found = following
    options = [option for node in found for option in _options(schema, node)]
    tagged = [o for o in options if o.get("properties", {}).get("kind", {}).get("const") in tags]
    return sorted({key for option in tagged or options for key in option.get("properties", {})})


def _options(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    """The object schemas that a schema node may stand for."""
    if "$ref" in node:
        return _options(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    alternatives = node.get("anyOf") or node.get("oneOf")
    if alternatives:
        return [option for alternative in alternatives for option in _options(schema, alternative)]
    return [node]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema(by_alias=True)}
