"""The configuration of `ollamamax serve`: one YAML file, the command line on top of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from yarl import URL

from live.hands.config import FIELDS, HandsConfig
from twin.errors import OperatorError
from twin.policy.parameters import ParameterError, Parameters, preset

OLLAMA_PORT = 11434
AGENT_PORT = 11480
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST_NAME = re.compile(r"[A-Za-z0-9*._-]+")


Model = TypeVar("Model", bound=BaseModel)


class ConfigError(OperatorError, ValueError):
    """The operator's configuration is wrong; the message is one line: what, where, what to do."""


def node_url(text: str) -> str:
    """The address of a node in one form, http://HOST:PORT. Raises ValueError."""
    url = text if "://" in text else f"http://{text}"
    try:
        parsed = URL(url)
        port = parsed.explicit_port
        (parsed.raw_host or "").encode("idna")  # as it will be looked up
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}; write http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.path not in ("", "/") or parsed.query:
        raise ValueError(f"{text!r} is no address of a node; write http://HOST:PORT")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise ValueError("nodes are asked without a name and password; write http://HOST:PORT")
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    default = OLLAMA_PORT if parsed.scheme == "http" else 443
    return f"{parsed.scheme}://{host}:{port or default}"


def agent_url(text: str) -> str:
    """The address of an agent, http://HOST:PORT. Raises ValueError."""
    url = URL(node_url(text))
    return str(url.with_port(AGENT_PORT) if URL(text).explicit_port is None else url).rstrip("/")


def _same_machine(url: str) -> str:
    """An address as it is compared with others: `localhost` is 127.0.0.1, and letters have no case."""
    parsed = URL(url)
    host = (parsed.host or "").lower()
    return f"{'127.0.0.1' if host == 'localhost' else host}:{parsed.port}"


def _node_name(text: str) -> str:
    if not _NODE_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name for a node: letters, digits, dots, dashes")
    return text


def _host_name(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name of a host: write it without scheme, port and path; * stands for anything"
        )
    return text


def _only_url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is no address to listen on; write HOST:PORT, such as 127.0.0.1:11435")
    return host.strip("[]") or "0.0.0.0", int(port)


def listen_address(text: str) -> str:
    """The text, if it is HOST:PORT. Raises ValueError."""
    parse_listen(text)
    return text


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeConfig(_Closed):
    """A node: its address, the GPU memory that its models must fit in, its agent, and its own hands."""

    url: Annotated[str, AfterValidator(node_url)]
    vram_gib: Annotated[float | None, Field(gt=0)] = None
    rack: Annotated[str, Field(description="What fails together with it: a model's replicas go to different ones.")] = (
        ""
    )
    agent: Annotated[str | None, AfterValidator(lambda url: url and agent_url(url))] = None
    hands: HandsConfig | None = None


class ModelConfig(_Closed):
    """A model; what is not given is learnt from the nodes at the start."""

    replicas: Annotated[int | None, Field(ge=0)] = None
    slots: Annotated[int | None, Field(ge=1)] = None
    memory_gib: Annotated[float | None, Field(gt=0)] = None


class PolicyConfig(_Closed):
    """Which policy decides."""

    preset: str = "default"
    overrides: dict[str, bool | int | float | str] = {}


class ServeConfig(_Closed):
    """Everything that `ollamamax serve` needs to know."""

    nodes: dict[Annotated[str, AfterValidator(_node_name)], Annotated[NodeConfig, BeforeValidator(_only_url)]] = {}
    models: dict[str, ModelConfig] = {}
    slots_per_model: Annotated[
        int | None, Field(ge=1, description="OLLAMA_NUM_PARALLEL of the nodes; learnt where no slots are given.")
    ] = None
    listen: Annotated[str, AfterValidator(listen_address)] = "127.0.0.1:11435"
    admin: Annotated[str | None, AfterValidator(lambda text: text and listen_address(text))] = None
    request_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    shutdown_grace_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    client_stall_s: Annotated[
        float, Field(ge=1, le=3600, description="A client that reads nothing of its answer for so long is cut off.")
    ] = 60.0
    client_buffer_mib: Annotated[
        float,
        Field(ge=0.1, le=1024, description="Kept of an answer for a client that is slow to read; so its node is free."),
    ] = 4.0
    all_client_buffers_mib: Annotated[
        float,
        Field(
            ge=1, le=1_048_576, description="Likewise of all; beyond it who has read nothing for longest is cut off."
        ),
    ] = 256.0
    client_wait_s: Annotated[
        float,
        Field(
            ge=0, le=3600, description="How long in all a node waits for one whose buffer is full; then it is cut off."
        ),
    ] = 10.0
    normalise_context: Annotated[bool, Field(description="One num_ctx for all who ask for a model.")] = True
    continue_text: Annotated[
        bool,
        Field(description="Where a node says something else than the broken stream, have it go on after the text."),
    ] = True
    origins: Annotated[
        tuple[str, ...],
        Field(description="Web pages that may use the gateway, beside those of its machine; * stands for anything."),
    ] = ()
    hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_host_name)], ...],
        Field(
            description="Names by which clients call it, beside its machine's; beyond loopback any where none is given."
        ),
    ] = ()
    policy: PolicyConfig = PolicyConfig()
    hands: HandsConfig = HandsConfig()
    token_file: Annotated[
        Path | None, Field(description="Holds the token of the admin API, shared with the agents.")
    ] = None
    state_file: Annotated[
        Path | None, Field(description="Keeps what must outlive a restart of the gateway: the drained nodes.")
    ] = None
    calibration: Annotated[
        Path | None,
        Field(description="What `ollamamax calibrate` wrote of these nodes: with it the policy can look ahead."),
    ] = None
    replication_factor: Annotated[
        int, Field(ge=1, le=10, description="Copies of the state file; a damaged one is passed over at the start.")
    ] = 2
    checkpoint_interval_s: Annotated[float, Field(ge=10, le=3600, description="Between two saves; drains at once.")] = (
        60.0
    )
    discovery_period_s: Annotated[float, Field(ge=0.2, le=3600, description="Between two looks at the models.")] = 10.0
    telemetry_period_s: Annotated[float, Field(ge=0.2, le=3600, description="Between two samples of an agent.")] = 5.0

    @model_validator(mode="after")
    def _each_node_once(self) -> ServeConfig:
        names: dict[str, str] = {}
        for name, node in self.nodes.items():
            other = names.setdefault(_same_machine(node.url), name)
            if other != name:
                raise ValueError(f"nodes.{name}: {node.url} is {other} already; name each node once")
        return self

    @model_validator(mode="after")
    def _all_have_room_for_one(self) -> ServeConfig:
        one, all_of_them = self.client_buffer_mib, self.all_client_buffers_mib
        if all_of_them < one:
            raise ValueError(f"all_client_buffers_mib: {all_of_them:g} is less than client_buffer_mib, {one:g}")
        return self

    def learns_slots(self) -> bool:
        """Whether nobody says how many requests a node serves at once."""
        return self.slots_per_model is None and all(model.slots is None for model in self.models.values())

    def parameters(self) -> Parameters:
        """The policy's parameters; what can be done to which node is in the cluster. Raises `ConfigError`."""
        try:
            parameters = preset(self.policy.preset, self.policy.overrides)
        except ParameterError as error:
            raise ConfigError(str(error)) from error
        if self.learns_slots() and "admission.learn_slots" not in self.policy.overrides:
            parameters = parameters.with_values({"admission.learn_slots": True})
        return parameters


def load_config(
    file: Path | None, nodes: Sequence[str] = (), listen: str | None = None, admin: str | None = None
) -> ServeConfig:
    """The configuration from a file, with what the command line says on top. Raises `ConfigError`."""
    root, data = load_file(file) if file is not None else (None, {})
    config = validated(ServeConfig, data, file, root)
    if file is not None:
        try:
            config.parameters()
        except ConfigError as error:
            raise ConfigError(f"{_place(file, root, ('policy',))}: policy: {error}") from error
    changes: dict[str, Any] = {"listen": listen, "admin": admin}
    changes = {name: value for name, value in changes.items() if value is not None}
    if nodes:
        changes["nodes"] = {f"node-{index}": url for index, url in enumerate(nodes)}
    config = validated(ServeConfig, {**config.model_dump(exclude_unset=True), **changes}, None, None)
    if not config.nodes:
        where = f"{file}: " if file is not None else ""
        raise ConfigError(f"{where}no nodes are named; add them under nodes:, or give --node URL")
    return config


def validated(model: type[Model], data: object, file: Path | None, root: yaml.Node | None) -> Model:
    """The data as that model. Raises `ConfigError` with the place in the file."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_one_line(error, model, file, root)) from error


def load_hands(file: Path | None) -> ServeConfig:
    """A configuration for a drill: its hands and its nodes' agents count, not where it listens. Raises `ConfigError`."""
    root, data = load_file(file) if file is not None else (None, {})
    return validated(ServeConfig, data, file, root)


def load_file(file: Path) -> tuple[yaml.Node | None, object]:
    """A YAML file as nodes with their places and as data. Raises `ConfigError`."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file}: cannot be read: {reason}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicates(file, root)
        return root, yaml.safe_load(text) or {}
    except RecursionError as error:
        raise ConfigError(f"{file}: lists and mappings in it are nested too deep, or within themselves") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{file}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error


def _refuse_duplicates(file: Path, node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{file}:{key.start_mark.line + 1}: a key is one word, not a list or a mapping")
            if key.value in seen:
                raise ConfigError(f"{file}:{key.start_mark.line + 1}: {key.value} is there twice; keep one")
            seen.add(key.value)
            _refuse_duplicates(file, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(file, value)


def _one_line(error: ValidationError, model: type[BaseModel], file: Path | None, root: yaml.Node | None) -> str:
    """The first of the errors, with its place and what to do."""
    # A key that is mistyped is missing as well: what is unknown says more.
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    location = tuple(part for part in first["loc"] if part != "[key]")
    key = ".".join(map(str, location))
    if first["type"] == "extra_forbidden":
        fields = _fields_at(location[:-1], model)
        near = difflib.get_close_matches(str(location[-1]), fields, n=1, cutoff=0.5)
        text = f"unknown key; did you mean {near[0]}?" if near else f"unknown key; there are {', '.join(fields)}"
    else:
        text = first["msg"].removeprefix("Value error, ")
    place = f"{_place(file, root, location)}: " if file is not None else ""
    return f"{place}{key}: {text}" if key else f"{place}{text}"


def _fields_at(location: Sequence[object], root: type[BaseModel]) -> list[str]:
    for part in reversed(location):
        if part in FIELDS:
            return list(FIELDS[str(part)].model_fields)
        if root is ServeConfig and part in _PARTS:
            return list(_PARTS[str(part)].model_fields)
    return list(root.model_fields)


_PARTS: dict[str, type[BaseModel]] = {"nodes": NodeConfig, "models": ModelConfig, "policy": PolicyConfig}


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
