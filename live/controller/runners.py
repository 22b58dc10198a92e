"""Which models Ollama serves by one runner: those with the same files of weights and the same options of a runner.

A model made from another with only a system prompt, a template or sampling of its own has a digest of its own in
`/api/tags`, and yet the runner of the other: it is loaded once, its requests share the runner's slots, `/api/ps` tells of
the name alone that was asked for first, and who lets the one go lets both go. A model with other options (`num_ctx`,
`num_batch` ...) has the same place but not the same runner: each load of the one ends the other (tried on Ollama 0.24).

Only `/api/show` tells, for one model at a time; so only models that look alike in the list are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

OF_A_REQUEST = frozenset(
    {
        "frequency_penalty",
        "min_p",
        "num_keep",
        "num_predict",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    }
)
"""Parameters that go with each request; every other one, also one that is not known here, may ask for another runner."""
SIZE_MAX_BYTES = 1 << 50
"""No model is larger."""
_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_OF_THE_TEXT = ("TEMPLATE", "SYSTEM", "RENDERER", "PARSER", "PARAMETER", "LICENSE", "MESSAGE")


def digest_of(model: Mapping[str, object]) -> str:
    """Of a model in a node's list; empty where it says none."""
    digest = model.get("digest")
    return digest if isinstance(digest, str) else ""


def size_of(model: Mapping[str, object], *names: str) -> int:
    """Of a model in a node's list, in bytes: the first of these fields that says one; 0 where none does."""
    for name in names:
        size = model.get(name)
        if type(size) is int and 0 < size <= SIZE_MAX_BYTES:
            return size
    return 0


def look_alikes(models: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Names in a node's list that may have a runner together: of one family, size and quantization, but not one digest."""
    alike: dict[str, dict[str, list[str]]] = {}
    for name, model in models.items():
        details, digest = model.get("details"), digest_of(model)
        if isinstance(details, dict) and details and digest:
            alike.setdefault(repr(sorted(details.items(), key=str)), {}).setdefault(digest, []).append(name)
    return [name for digests in alike.values() if len(digests) > 1 for names in digests.values() for name in names]


def runner_of(shown: Mapping[str, object]) -> str:
    """What Ollama tells runners apart by, of an answer of `/api/show`: equal for models with one runner. Empty where it does
    not say, as of models that are no files of the node."""
    modelfile, parameters = shown.get("modelfile"), shown.get("parameters", "")
    if not isinstance(modelfile, str) or not isinstance(parameters, str):
        return ""
    parts: list[str] = []
    for line in modelfile.splitlines():
        if line.startswith(_OF_THE_TEXT):  # what is quoted there may have any lines
            break
        if line and not line.startswith("#"):
            blob = _BLOB.search(line)
            if blob is None:
                return ""
            parts.append(f"{line.partition(' ')[0]} {blob[1]}")
    if not parts:
        return ""
    options = sorted(" ".join(line.split()) for line in parameters.splitlines())
    return "\n".join([*parts, *(option for option in options if option.partition(" ")[0] not in OF_A_REQUEST)])


def place_of(runner: str) -> str:
    """What Ollama tells a runner's place by, of which it has one runner at a time: the weights, whatever the options. Empty
    where that is not known."""
    first = runner.partition("\n")[0]
    return first if first.startswith("FROM ") else ""


def is_made(shown: Mapping[str, object]) -> bool:
    """Whether a model was made here from another or from a file, by an answer of `/api/show`: no registry may have it."""
    details = shown.get("details")
    return isinstance(details, dict) and bool(details.get("parent_model"))
