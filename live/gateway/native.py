"""Ollama's own dialect: `/api/generate` and `/api/chat`, one JSON object a line."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from live.gateway.dialect import (
    TOKENS_MAX,
    Aggregate,
    Asked,
    BadRequest,
    Before,
    JsonObject,
    ParsedRequest,
    Record,
    SoFar,
    Timings,
    characters,
    continued_messages,
    count_of,
    dumps,
    dumps_request,
    loads_record,
    number_of,
    objects_of,
    parse_model,
    parse_object,
    parse_switch,
    quick_line,
    text_of,
    tokens_left,
    tokens_of,
)

NANOSECONDS = 1e-9
CHAT_PATH: Final = "/api/chat"
RANDOM_SEED = -1
"""Ollama takes this seed for none."""
_ONLY_OF_GENERATE = ("prompt", "system", "raw", "images", "template", "suffix", "context")


_NO_TIME = re.compile(r"[+-]?(?:0|(?:0+(?:\.0*)?(?:ns|us|µs|μs|ms|s|m|h))+)")
"""A duration of Go's that is none."""


def is_unload(fields: JsonObject) -> bool:
    """Whether a request asks for nothing but that the model be let go at once."""
    if fields.get("prompt") or fields.get("messages"):
        return False
    kept = fields.get("keep_alive")
    return _NO_TIME.fullmatch(kept) is not None if isinstance(kept, str) else type(kept) in (int, float) and kept == 0


class _Native:
    """What `/api/generate` and `/api/chat` share."""

    path: str
    stream_type = "application/x-ndjson"
    record_beginning = b""
    record_ending = b""
    quick: re.Pattern[bytes]

    def parse(self, body: bytes) -> ParsedRequest:
        """Understand a request. Raises `BadRequest`."""
        fields = parse_object(body)
        options = fields.get("options")
        if options is not None and not isinstance(options, dict):
            raise BadRequest("options takes an object")
        options = options or {}
        return ParsedRequest(
            model=parse_model(fields),
            stream=parse_switch(fields, "stream", True),
            prompt_tokens=tokens_of(self._prompt_characters(fields)),
            context_tokens=_asked_context(options),
            generates=self._generates(fields) and not fields.get("_debug_render_only"),
            tokens_visible=not fields.get("tools"),
            seeded=options.get("seed", RANDOM_SEED) not in (RANDOM_SEED, None),
            fields=fields,
            body=body,
            takes_context=True,
        )

    def asked(self, request: ParsedRequest, seed: int | None) -> Asked:
        """The request as a stream, with a seed."""
        return Asked(self.path, self._body(request, seed))

    def _body(self, request: ParsedRequest, seed: int | None) -> bytes:
        add_seed = seed is not None and not request.seeded
        own_context = request.send_context_tokens in (None, request.context_tokens)
        if request.stream and not add_seed and own_context:
            return request.body
        fields = {**request.fields, "stream": True}
        options = {**(fields.get("options") or {})}
        if add_seed:
            options["seed"] = seed
        if not own_context:
            options.pop("num_ctx", None)
            if request.send_context_tokens:
                options["num_ctx"] = request.send_context_tokens
        if options:
            fields["options"] = options
        else:
            fields.pop("options", None)
        return dumps(fields)

    def continuation(
        self, request: ParsedRequest, seed: int | None, text: str, tokens: int, thinking: str = ""
    ) -> Asked | None:
        """The request with the text as the beginning of its answer; a grammar (`format`) cannot begin in the middle."""
        if request.fields.get("format"):
            return None
        continued = self._continued(request.fields, text, thinking)
        if continued is None:
            return None
        path, fields = continued
        options = {**(fields.get("options") or {})}
        left = tokens_left(options.get("num_predict"), tokens)
        if left is not None:
            fields["options"] = {**options, "num_predict": left}
        return Asked(path, self._body(replace(request, fields=fields, body=dumps(fields)), seed))

    def count_in(self, record: Record, before: Before) -> None:
        """The terminal record has the counts."""
        if record.kind == "terminal":
            fields = record.fields
            counts = {"eval_count": count_of(fields, "eval_count") + before.tokens}
            if "prompt_eval_count" in fields:
                counts["prompt_eval_count"] = max(0, count_of(fields, "prompt_eval_count") - before.in_prompt)
            record.fields = {**fields, **counts}
            record.raw = dumps(record.fields) + b"\n"

    def record(self, line: bytes) -> Record | None:
        """What a line says."""
        stripped = line.strip()
        if not stripped:
            return None
        fields = loads_record(stripped)
        error = fields.get("error")
        if error is not None:
            return Record("error", line, fields, error=str(error))
        own = self._own(fields)
        raw = dumps(own) + b"\n" if own is not fields else line if line.endswith(b"\n") else line + b"\n"
        fields = own
        record = Record("part", raw, fields)
        self._read(record)
        if fields.get("done") is True:
            record.kind = "terminal"
            record.closing = record.finished = True
            record.tokens = count_of(fields, "eval_count")
            record.timings = Timings(
                number_of(fields, "load_duration") * NANOSECONDS,
                number_of(fields, "prompt_eval_duration") * NANOSECONDS,
                number_of(fields, "eval_duration") * NANOSECONDS,
                number_of(fields, "total_duration") * NANOSECONDS,
                count_of(fields, "prompt_eval_count"),
            )
        return record

    def identity(self, _record: Record) -> JsonObject:
        """Records of this dialect carry none."""
        return {}

    def error_body(self, _status: int, message: str) -> bytes:
        """`{"error": ...}`."""
        return dumps({"error": message})

    def error_line(self, message: str) -> bytes:
        """`{"error": ...}` on a line, as Ollama ends a stream that broke."""
        return dumps({"error": message}) + b"\n"

    def _prompt_characters(self, fields: JsonObject) -> int:
        raise NotImplementedError

    def _generates(self, fields: JsonObject) -> bool:
        raise NotImplementedError

    def _continued(self, fields: JsonObject, text: str, thinking: str) -> tuple[str, JsonObject] | None:
        raise NotImplementedError

    def _own(self, fields: JsonObject) -> JsonObject:
        return fields

    def _read(self, record: Record) -> None:
        raise NotImplementedError


class Generate(_Native):
    """`/api/generate`."""

    path = "/api/generate"
    quick = quick_line(rb'\{"model":%(s)b,"created_at":%(s)b,"response":%(text)b,"done":false\}\n')

    def rewritten(self, record: Record, _so_far: SoFar) -> bytes:
        """The record with what is left of its text."""
        fields = {**record.fields, "response": record.text}
        _put(fields, "thinking", record.thinking)
        _put(fields, "tool_calls", record.tool_calls)
        return dumps(fields) + b"\n"

    def aggregate(self) -> Aggregate:
        """A new aggregate."""
        return _GenerateAggregate()

    def _prompt_characters(self, fields: JsonObject) -> int:
        return sum(characters(fields.get(name)) for name in ("prompt", "system", "suffix"))

    def _generates(self, fields: JsonObject) -> bool:
        return bool(fields.get("prompt"))

    def _continued(self, fields: JsonObject, text: str, thinking: str) -> tuple[str, JsonObject] | None:
        # Only a raw prompt ends where the answer begins. Any other is put into the model's template, as if it were the
        # only message of a chat: so the chat can be asked to go on. It knows no other template, suffix or context.
        prompt = fields.get("prompt")
        if not isinstance(prompt, str) or any(fields.get(name) for name in ("template", "suffix", "context")):
            return None
        if fields.get("raw") is True:
            return None if thinking else (self.path, {**fields, "prompt": prompt + text})
        said: JsonObject = {"role": "assistant", **_thought(thinking), "content": text}
        messages: list[JsonObject] = [{"role": "user", "content": prompt}, said]
        if images := fields.get("images"):
            messages[0]["images"] = images
        if system := fields.get("system"):
            messages.insert(0, {"role": "system", "content": system})
        kept = {name: value for name, value in fields.items() if name not in _ONLY_OF_GENERATE}
        return CHAT_PATH, {**kept, "messages": messages}

    def _own(self, fields: JsonObject) -> JsonObject:
        """What a chat says that goes on for us, as a record of ours."""
        message = fields.get("message")
        if not isinstance(message, dict):
            return fields
        said = {name: value for name, value in message.items() if name not in ("role", "content")}
        rest = {name: value for name, value in fields.items() if name != "message"}
        return {**rest, **said, "response": message.get("content", "")}

    def _read(self, record: Record) -> None:
        record.text = text_of(record.fields, "response")
        record.thinking = text_of(record.fields, "thinking")
        record.tool_calls = objects_of(record.fields, "tool_calls")


class Chat(_Native):
    """`/api/chat`."""

    path = CHAT_PATH
    quick = quick_line(
        rb'\{"model":%(s)b,"created_at":%(s)b,"message":\{"role":%(s)b,"content":%(text)b\},"done":false\}\n'
    )

    def rewritten(self, record: Record, _so_far: SoFar) -> bytes:
        """The record with what is left of its text."""
        message = {**record.fields.get("message", {}), "content": record.text}
        _put(message, "thinking", record.thinking)
        _put(message, "tool_calls", record.tool_calls)
        return dumps({**record.fields, "message": message}) + b"\n"

    def aggregate(self) -> Aggregate:
        """A new aggregate."""
        return _ChatAggregate()

    def _prompt_characters(self, fields: JsonObject) -> int:
        messages = fields.get("messages")
        if not isinstance(messages, list):
            return 0
        return sum(characters(message.get("content")) for message in messages if isinstance(message, dict))

    def _generates(self, fields: JsonObject) -> bool:
        return bool(fields.get("messages"))

    def _continued(self, fields: JsonObject, text: str, thinking: str) -> tuple[str, JsonObject] | None:
        messages = continued_messages(fields, text, _thought(thinking))
        return None if messages is None or fields.get("tools") else (self.path, {**fields, "messages": messages})

    def _read(self, record: Record) -> None:
        message = record.fields.get("message")
        if isinstance(message, dict):
            record.text = text_of(message, "content")
            record.thinking = text_of(message, "thinking")
            record.tool_calls = objects_of(message, "tool_calls")


class _NativeAggregate:
    """Joins text, thinking, tool calls and log probabilities; all else is as the last record says."""

    def __init__(self) -> None:
        self._last: JsonObject = {}
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[JsonObject] = []
        self._logprobs: list[Any] = []

    def add(self, record: Record) -> None:
        """Take in the next record."""
        self._last = record.fields
        self._text.append(record.text)
        self._thinking.append(record.thinking)
        self._tool_calls += record.tool_calls
        logprobs = record.fields.get("logprobs")
        if isinstance(logprobs, list):
            self._logprobs += logprobs

    def _join(self, text_key: str, fields: JsonObject) -> None:
        fields[text_key] = "".join(self._text)
        _put(fields, "thinking", "".join(self._thinking))
        _put(fields, "tool_calls", self._tool_calls)


class _GenerateAggregate(_NativeAggregate):
    def whole(self) -> bytes:
        """One object of `/api/generate`."""
        fields = dict(self._last)
        self._join("response", fields)
        _put(fields, "logprobs", self._logprobs)
        return dumps(fields)


class _ChatAggregate(_NativeAggregate):
    def whole(self) -> bytes:
        """One object of `/api/chat`."""
        message = self._last.get("message")
        message = {"role": "assistant", **(message if isinstance(message, dict) else {})}
        self._join("content", message)
        fields = {**self._last, "message": message}
        _put(fields, "logprobs", self._logprobs)
        return dumps(fields)


def with_context(request: ParsedRequest) -> bytes:
    """The request as it is, but for `num_ctx`. Raises `BadRequest`."""
    if request.send_context_tokens in (None, request.context_tokens):
        return request.body
    options = {name: value for name, value in (request.fields.get("options") or {}).items() if name != "num_ctx"}
    if request.send_context_tokens:
        options["num_ctx"] = request.send_context_tokens
    return dumps_request({**request.fields, "options": options})


def embedding_request(model: str, fields: JsonObject, body: bytes) -> ParsedRequest:
    """A request of `/api/embed` or `/api/embeddings`, as far as its context goes."""
    options = fields.get("options")
    return ParsedRequest(
        model=model,
        stream=False,
        prompt_tokens=0,
        context_tokens=_asked_context(options) if isinstance(options, dict) else 0,
        generates=False,
        tokens_visible=False,
        seeded=True,
        fields=fields,
        body=body,
        takes_context=options is None or isinstance(options, dict),
    )


def _asked_context(options: JsonObject) -> int:
    """The `num_ctx` in options, 0: none. Ollama takes one that is written with a point, too."""
    tokens = options.get("num_ctx")
    if type(tokens) is float and 0.0 < tokens <= TOKENS_MAX:
        tokens = int(tokens)
    return tokens if type(tokens) is int and tokens > 0 else 0


def _thought(thinking: str) -> JsonObject:
    """The field of an assistant's message that says what it thought."""
    return {"thinking": thinking} if thinking else {}


def _put(fields: JsonObject, name: str, value: str | list[Any]) -> None:
    """Set a field that is left out where it is empty."""
    if value:
        fields[name] = value
    else:
        fields.pop(name, None)
