"""The hands as an operator configures them: for all nodes under `hands:`, for one under `nodes: {NAME: {hands: ...}}`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from yarl import URL

from twin.scenario.faults.base import Operation


class Closed(BaseModel):
    """A part of a configuration file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _words(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


Words = Annotated[list[str], Field(min_length=1), BeforeValidator(_words)]
"""A command: a list of words, or one text that is split as a shell would."""


def _web_url(text: str) -> str:
    try:
        parsed = URL(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL: {error}; write https://HOST/PATH") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{text!r} is no URL; write https://HOST/PATH")
    return text


class SystemdConfig(Closed):
    """The node's Ollama is a systemd unit."""

    unit: str = "ollama.service"
    host: Annotated[str, Field(description="As `systemctl --host` takes it, e.g. root@{host}; empty: here.")] = ""
    user: bool = False
    kill_after_s: Annotated[float, Field(gt=0, le=600)] = 10.0


class WebhookConfig(Closed):
    """An HTTP endpoint of the operator's restarts it."""

    url: Annotated[str, AfterValidator(_web_url)]
    secret_file: Annotated[Path, Field(description="Holds the shared secret that signs what is sent.")]
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    tries: Annotated[int, Field(ge=1, le=20)] = 4


class KubernetesConfig(Closed):
    """The node's Ollama is a deployment, or a pod that a controller makes anew."""

    way: Literal["rollout", "delete_pod", "scale"] = "rollout"
    name: str
    namespace: str = "default"
    server: Annotated[str | None, AfterValidator(lambda url: url and _web_url(url))] = None
    token_file: Path | None = None
    ca_file: Path | None = None


class ProcessConfig(Closed):
    """The node's Ollama is a process on this machine that we start ourselves, and keep alive."""

    command: Words = ["ollama", "serve"]
    log: Path
    environment: dict[str, str] = {}
    start_limit_s: Annotated[float, Field(gt=0, le=600)] = 30.0


class RestartConfig(Closed):
    """How a node's Ollama is restarted: one way."""

    command: Words | None = None
    systemd: SystemdConfig | None = None
    webhook: WebhookConfig | None = None
    kubernetes: KubernetesConfig | None = None
    process: ProcessConfig | None = None

    @model_validator(mode="after")
    def _one_way(self) -> RestartConfig:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            ways = ", ".join(type(self).model_fields)
            raise ValueError(f"give one of {ways}, not {' and '.join(given) or 'none'}")
        return self


def _restart(value: object) -> object:
    return {"command": value} if isinstance(value, (str, list)) else value


class HandsConfig(Closed):
    """What can be done to a node beyond Ollama's API. `{node}`, `{host}` and `{address}` are filled in."""

    restart: Annotated[RestartConfig, BeforeValidator(_restart)] | None = None
    kill_runner: Annotated[
        Words | None,
        Field(
            description="Command that kills the node's runner processes; absent: its agent, or the supervised process."
        ),
    ] = None
    drill: Annotated[
        dict[Operation, Words],
        Field(description="Commands that do to a node what a drill does: kill_server, start_server, kill_runner ..."),
    ] = {}


FIELDS: dict[str, type[BaseModel]] = {
    "hands": HandsConfig,
    "restart": RestartConfig,
    "systemd": SystemdConfig,
    "webhook": WebhookConfig,
    "kubernetes": KubernetesConfig,
    "process": ProcessConfig,
}
"""Key of a file to the model behind it, for messages that name what there is."""


def read_secret(path: Path) -> bytes:
    """The content of a file with a secret, without white space around it. Raises OSError, and ValueError if empty."""
    secret = path.read_bytes().strip()
    if not secret:
        raise ValueError(f"{path} is empty")
    return secret
