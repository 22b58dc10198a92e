"""The configuration of `ollamamax serve`: one YAML file, the command line on top of it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from yarl import URL

from twin.policy.parameters import ParameterError, Parameters, preset

OLLAMA_PORT = 11434
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class ConfigError(ValueError):
    """The operator's configuration is wrong; the message is one line: what, where, what to do."""


def _node_url(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    try:
        parsed = URL(url)
        port = parsed.explicit_port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}; write http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.path not in ("", "/") or parsed.query:
        raise ValueError(f"{text!r} is no address of a node; write http://HOST:PORT")
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    default = OLLAMA_PORT if parsed.scheme == "http" else 443
    return f"{parsed.scheme}://{host}:{port or default}"


def _node_name(text: str) -> str:
    if not _NODE_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name for a node: letters, digits, dots, dashes")
    return text


def _only_url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _words(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is no address to listen on; write HOST:PORT, such as 127.0.0.1:11435")
    return host.strip("[]") or "0.0.0.0", int(port)


def _listen(text: str) -> str:
    parse_listen(text)
    return text


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeConfig(_Closed):
    """A node: its address, and the GPU memory that its models must fit in."""

    url: Annotated[str, AfterValidator(_node_url)]
    vram_gib: Annotated[float | None, Field(gt=0)] = None


class ModelConfig(_Closed):
    """A model; what is not given is learnt from the nodes at the start."""

    replicas: Annotated[int | None, Field(ge=0)] = None
    slots: Annotated[int | None, Field(ge=1)] = None
    memory_gib: Annotated[float | None, Field(gt=0)] = None


class PolicyConfig(_Closed):
    """Which policy decides."""

    preset: str = "default"
    overrides: dict[str, bool | int | float | str] = {}


class HandsConfig(_Closed):
    """The operator's commands for what Ollama's API cannot do; `{node}` and `{address}` are filled in."""

    restart: Annotated[list[str], Field(min_length=1), BeforeValidator(_words)] | None = None


class ServeConfig(_Closed):
    """Everything that `ollamamax serve` needs to know."""

    nodes: dict[Annotated[str, AfterValidator(_node_name)], Annotated[NodeConfig, BeforeValidator(_only_url)]] = {}
    models: dict[str, ModelConfig] = {}
    slots_per_model: Annotated[int, Field(ge=1, description="OLLAMA_NUM_PARALLEL of the nodes.")] = 1
    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:11435"
    admin: Annotated[str | None, AfterValidator(lambda text: text and _listen(text))] = None
    request_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    shutdown_grace_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    normalise_context: Annotated[bool, Field(description="One num_ctx for all who ask for a model.")] = True
    policy: PolicyConfig = PolicyConfig()
    hands: HandsConfig = HandsConfig()

    def parameters(self) -> Parameters:
        """The policy's parameters. Raises `ConfigError`."""
        try:
            parameters = preset(self.policy.preset, self.policy.overrides)
        except ParameterError as error:
            raise ConfigError(str(error)) from error
        if self.hands.restart is None:
            # Nobody could carry a restart out: the policy is to choose among what is possible.
            parameters = parameters.with_values({"healer.restart": False})
        return parameters


def load_config(
    file: Path | None, nodes: Sequence[str] = (), listen: str | None = None, admin: str | None = None
) -> ServeConfig:
    """The configuration from a file, with what the command line says on top. Raises `ConfigError`."""
    root, data = _read(file) if file is not None else (None, {})
    try:
        config = ServeConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_one_line(error, file, root)) from error
    if file is not None:
        try:
            config.parameters()
        except ConfigError as error:
            raise ConfigError(f"{_place(file, root, ('policy',))}: policy: {error}") from error
    changes: dict[str, Any] = {"listen": listen, "admin": admin}
    changes = {name: value for name, value in changes.items() if value is not None}
    if nodes:
        changes["nodes"] = {f"node-{index}": url for index, url in enumerate(nodes)}
    try:
        config = ServeConfig.model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(_one_line(error, None, None)) from error
    if not config.nodes:
        where = f"{file}: " if file is not None else ""
        raise ConfigError(f"{where}no nodes are named; add them under nodes:, or give --node URL")
    return config


def _read(file: Path) -> tuple[yaml.Node | None, object]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file}: cannot be read: {reason}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicates(file, root)
        return root, yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{file}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error


def _refuse_duplicates(file: Path, node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise ConfigError(f"{file}:{key.start_mark.line + 1}: {key.value} is there twice; keep one")
            seen.add(key.value)
            _refuse_duplicates(file, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(file, value)


def _one_line(error: ValidationError, file: Path | None, root: yaml.Node | None) -> str:
    """The first of the errors, with its place and what to do."""
    # A key that is mistyped is missing as well: what is unknown says more.
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    location = tuple(part for part in first["loc"] if part != "[key]")
    key = ".".join(map(str, location))
    if first["type"] == "extra_forbidden":
        fields = _fields_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), fields, n=1, cutoff=0.5)
        text = f"unknown key; did you mean {near[0]}?" if near else f"unknown key; there are {', '.join(fields)}"
    else:
        text = first["msg"].removeprefix("Value error, ")
    place = f"{_place(file, root, location)}: " if file is not None else ""
    return f"{place}{key}: {text}" if key else f"{place}{text}"


def _fields_at(location: Sequence[object]) -> list[str]:
    models: dict[object, type[BaseModel]] = {
        "nodes": NodeConfig,
        "models": ModelConfig,
        "policy": PolicyConfig,
        "hands": HandsConfig,
    }
    model = models.get(location[0], ServeConfig) if location else ServeConfig
    return list(model.model_fields)


def _place(file: Path, root: yaml.Node | None, location: Sequence[object]) -> str:
    """FILE:LINE of a key."""
    node = root
    line = 1
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        if found is None:
            break
        line = found[0].start_mark.line + 1
        node = found[1]
    return f"{file}:{line}"
