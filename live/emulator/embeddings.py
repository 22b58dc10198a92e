"""`/api/embed`: vectors in place of text, from an embedding model or from one that chats; without a text a mere load."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable

from live.emulator.calls import JsonObject, Refused, integer_option, keep_alive_s, text_field
from live.emulator.generation import Generation
from live.emulator.keep_alive import KeepAlive
from live.emulator.refusals import refuse_if_failed, unknown_to_embed
from live.emulator.text import count_tokens
from twin.sim.node import ModelOnNode, OllamaNode

PATH = "/api/embed"
GO_TYPE = "api.EmbedRequest"
DIMENSIONS = 16


async def embed(
    fields: JsonObject, node: OllamaNode, keep_alive: KeepAlive, find: Callable[[str], ModelOnNode]
) -> bytes:
    """Serve one request. All its texts are one prefill, as the twin has it. Raises Refused.

    With `keep_alive` 0 and without a text the model is let go afterwards, and so first loaded where it is not; that is
    how Ollama 0.24 does it.
    """
    name = text_field(fields, "model", GO_TYPE)
    texts = _texts(fields.get("input"))
    options = fields.get("options")
    context_tokens = max(0, integer_option(options, "num_ctx") or 0) if isinstance(options, dict) else 0
    keep_s = keep_alive_s(fields.get("keep_alive"))
    try:
        model = find(name)
    except Refused as refused:
        raise (unknown_to_embed(name) if name else refused) from None
    tokens = max(1, sum(map(count_tokens, texts)))
    content = zlib.crc32("\0".join(texts).encode())
    asked = 1 if texts else 0  # an embedding ends with its prefill; 0 is a load
    generation = Generation(node, model.name, tokens, asked, context_tokens or model.context_tokens, content)
    try:
        while not generation.ended:
            await generation.more()
        refuse_if_failed(generation, unknown_to_embed(name))
        answer: JsonObject = {"model": name, "embeddings": [_vector(model.name, text) for text in texts]}
        if texts:
            timings = generation.timings()
            answer["total_duration"] = round(timings.total_s * 1e9)
            answer["load_duration"] = round(timings.load_s * 1e9)
            answer["prompt_eval_count"] = node.answers.prompt_eval_count(generation.job)
        return json.dumps(answer, separators=(",", ":")).encode()
    finally:
        generation.cancel()
        keep_alive.used(model.name, keep_s)


def _texts(value: object) -> list[str]:
    """What is to be embedded. Raises Refused."""
    if value is None or value == "":
        return []
    values: list[object] = value if isinstance(value, list) else [value]
    texts = [text for text in values if isinstance(text, str)]
    if len(texts) < len(values):
        raise Refused(400, "invalid input type")
    return texts


def _vector(model: str, text: str) -> list[float]:
    """Of length 1, the same for the same text."""
    draw = random.Random(f"{model}\0{text}")
    vector = [draw.gauss(0.0, 1.0) for _ in range(DIMENSIONS)]
    length = math.hypot(*vector)
    return [component / length for component in vector]
