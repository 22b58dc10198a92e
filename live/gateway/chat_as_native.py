"""A plain `/v1/chat/completions` asked of a node as `/api/chat`, which alone can say `num_ctx`.

For Ollama `/v1` means the model's own context: it reloads a model that native clients have had loaded with another. So
while one is in use, a chat that `/v1` and `/api/chat` understand alike goes the native way, and its answer is told in
the words of `/v1`, as Ollama's own translation does it. What says more than that (tools, images, grammars, reasoning)
goes to the node's own `/v1`.
"""

from __future__ import annotations

import random
import time

from live.gateway.dialect import JsonObject, ParsedRequest, count_of, dumps, loads_record

PATH = "/api/chat"
_OPTIONS = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
_FIELDS = frozenset({"model", "messages", "stream", "stream_options", "stop", "user", *_OPTIONS})
_ROLES = ("system", "user", "assistant")
_DEFAULTS = {"temperature": 1.0, "top_p": 1.0}
"""What Ollama takes on `/v1` where the client says nothing, whatever the model's own parameters say."""


def is_plain(fields: JsonObject) -> bool:
    """Whether both endpoints understand the request alike."""
    messages, stop = fields.get("messages"), fields.get("stop")
    return (
        _FIELDS.issuperset(fields)
        and isinstance(messages, list)
        and all(_is_text(message) for message in messages)
        and all(type(fields.get(name)) in (int, float, type(None)) for name in _OPTIONS)
        and (stop is None or isinstance(stop, str) or (isinstance(stop, list) and all(type(s) is str for s in stop)))
    )


def _is_text(message: object) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and message["role"] in _ROLES
        and isinstance(message["content"], str)
    )


def body(request: ParsedRequest, seed: int | None) -> bytes:
    """The same for `/api/chat`, as a stream, with the context that is to be sent."""
    fields = request.fields
    options: JsonObject = {**_DEFAULTS, "num_ctx": request.send_context_tokens}
    options |= {own: fields[name] for name, own in _OPTIONS.items() if fields.get(name) is not None}
    if seed is not None and not request.seeded:
        options["seed"] = seed
    stop = fields.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    messages = [_native(message) for message in fields["messages"]]
    return dumps({"model": fields["model"], "messages": messages, "stream": True, "options": options})


def _native(message: JsonObject) -> JsonObject:
    """What was thought, in a message that is to be gone on with, has another name there."""
    if "reasoning" not in message:
        return message
    rest = {name: value for name, value in message.items() if name != "reasoning"}
    return {**rest, "thinking": message["reasoning"]}


class Chunks:
    """Tells the records of one answer of `/api/chat` as the lines that `/v1` would have sent."""

    def __init__(self) -> None:
        self._id = f"chatcmpl-{random.randrange(1000)}"

    def lines(self, line: bytes) -> list[bytes]:
        """The lines for one record. Raises `BadRecord`."""
        if not line.strip():
            return []
        fields = loads_record(line)
        if fields.get("error") is not None:
            return [line]
        message = fields.get("message")
        message = message if isinstance(message, dict) else {}
        delta: JsonObject = {"role": "assistant", "content": message.get("content", "")}
        if message.get("thinking"):
            delta["reasoning"] = message["thinking"]
        done = fields.get("done") is True
        reason = fields.get("done_reason") or None
        chunk = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": fields.get("model"),
            "system_fingerprint": "fp_ollama",
        }
        said = [{**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason if done else None}]}]
        if not done:
            return [_line(said[0])]
        prompt, generated = count_of(fields, "prompt_eval_count"), count_of(fields, "eval_count")
        usage = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
        said.append({**chunk, "choices": [], "usage": usage})
        return [*map(_line, said), b"data: [DONE]\n"]


def _line(fields: JsonObject) -> bytes:
    return b"data: " + dumps(fields) + b"\n"
