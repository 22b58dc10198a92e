"""What an emulated node is: its address, its hardware, its models and Ollama's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twin.errors import OperatorError
from twin.scenario.hardware import Hardware


class EmulatedModel(BaseModel):
    """A model that the node has on its disk."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    size_gib: Annotated[float, Field(gt=0, description="Weights.")]
    memory_gib: Annotated[float, Field(gt=0, description="Weights and KV cache, when loaded.")]
    context_tokens: Annotated[int, Field(ge=1, description="num_ctx where a request says none.")] = 4096
    trained_tokens: Annotated[
        int, Field(ge=1, description="Tokens that it was trained for: /api/ps lists no more, whatever was asked for.")
    ] = 131_072
    embedding: Annotated[
        bool, Field(description="It makes embeddings, and no text: one slot, no generations, no chats.")
    ] = False


class EmulatorConfig(BaseModel):
    """One emulated node."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    listen: Annotated[str, Field(pattern=r"^.+:\d{1,5}$", description="HOST:PORT.")] = "127.0.0.1:11434"
    hardware: Hardware
    models: Annotated[dict[str, EmulatedModel], Field(min_length=1)]
    slots: Annotated[int, Field(ge=1, description="OLLAMA_NUM_PARALLEL.")] = 4
    keep_alive_s: Annotated[
        float | None, Field(ge=0, description="OLLAMA_KEEP_ALIVE: how long an idle model is kept; null: for ever.")
    ] = None
    max_queue: Annotated[int, Field(ge=0, description="OLLAMA_MAX_QUEUE.")] = 512
    preloaded: Annotated[list[str], Field(description="Models that are loaded at the start.")] = []

    @model_validator(mode="after")
    def _preloaded_models_exist_and_fit(self) -> EmulatorConfig:
        for name in self.preloaded:
            if name not in self.models:
                raise ValueError(f"preloaded model {name} is not among the models: {', '.join(self.models)}")
        need_gib = sum(self.models[name].memory_gib for name in self.preloaded)
        if need_gib > self.hardware.total_vram_gib:
            raise ValueError(
                f"the preloaded models need {need_gib:g} GiB, the hardware has {self.hardware.total_vram_gib:g}"
            )
        for name, model in self.models.items():
            if model.memory_gib > self.hardware.total_vram_gib:
                # It could never be loaded, and would block the loading of all others.
                raise ValueError(
                    f"{name} needs {model.memory_gib:g} GiB, the hardware has {self.hardware.total_vram_gib:g}"
                )
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def load_config(path: Path) -> EmulatorConfig:
    """The configuration in a JSON file. Raises OperatorError."""
    try:
        return EmulatorConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}; give the emulator's configuration, a JSON file") from error
    except ValidationError as error:
        raise OperatorError(f"{path}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one line."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
