"""How a node refuses what it cannot do, in Ollama's words."""

from __future__ import annotations

import math

from live.emulator.calls import Refused
from live.emulator.dialects import BROKEN
from live.emulator.generation import Generation

_NOT_LOADED = "llama runner process has terminated with exit code -1"
_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
_QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"


def unsupported(model: str, capability: str) -> Refused:
    """The model cannot do this. Ollama says so of a model whose file is gone, too: it does not know what it can do."""
    return Refused(400, f'"{model}" does not support {capability}')


def unknown_to_embed(model: str) -> Refused:
    """`/api/embed` has words of its own for a model that is not there, or whose file is gone."""
    return Refused(404, f'model "{model}" not found, try pulling it first')


def refuse_if_failed(generation: Generation, without_file: Refused) -> None:
    """An error before the first byte has a status. Raises Refused; `without_file` where the model's file is gone."""
    if not generation.error:
        return
    if generation.error == "overloaded":
        raise Refused(503, _QUEUE_FULL)
    if generation.error == "client_error":
        raise without_file
    if math.isnan(generation.job.loaded_s):
        raise Refused(500, _NOT_LOADED)
    raise Refused(500, BROKEN if generation.job.tokens else _STOPPED)
