"""The configuration of `ollamamax agent`: one YAML file, the command line on top of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from live.gateway.config import listen_address, load_file, node_url, validated
from live.hands.config import Closed, HandsConfig

AGENT_PORT = 11480


class AgentConfig(Closed):
    """Everything that an agent needs to know."""

    listen: Annotated[str, AfterValidator(listen_address)] = f"127.0.0.1:{AGENT_PORT}"
    ollama: Annotated[str, AfterValidator(node_url)] = "http://127.0.0.1:11434"
    controller: Annotated[str | None, AfterValidator(lambda url: url and node_url(url))] = None
    node: Annotated[str, Field(description="What the controller calls this node; empty: it goes by the address.")] = ""
    advertise: Annotated[
        str | None, Field(description="Where the controller reaches this agent; absent: where it listens.")
    ] = None
    token_file: Annotated[Path | None, Field(description="Holds the token that controller and agents share.")] = None
    ollama_log: Annotated[Path | None, Field(description="Ollama's log, to count its error lines.")] = None
    models_folder: Annotated[Path | None, Field(description="Where Ollama stores its models.")] = None
    period_s: Annotated[float, Field(ge=0.2, le=600, description="Between two samples.")] = 1.0
    hands: HandsConfig = HandsConfig()


def load_agent_config(file: Path | None, listen: str | None, ollama: str | None, controller: str | None) -> AgentConfig:
    """The configuration from a file, with what the command line says on top. Raises `ConfigError`."""
    root, data = load_file(file) if file is not None else (None, {})
    config = validated(AgentConfig, data, file, root)
    given: dict[str, Any] = {"listen": listen, "ollama": ollama, "controller": controller}
    changes = {name: value for name, value in given.items() if value is not None}
    return validated(AgentConfig, {**config.model_dump(exclude_unset=True), **changes}, None, None)
