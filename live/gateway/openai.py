"""OpenAI's dialect as Ollama speaks it: `/v1/chat/completions` and `/v1/completions`, server-sent events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from live.gateway import chat_as_native
from live.gateway.dialect import (
    Aggregate,
    Asked,
    BadRequest,
    Before,
    JsonObject,
    ParsedRequest,
    Record,
    SoFar,
    characters,
    continued_messages,
    count_of,
    dumps,
    error_text,
    loads_record,
    objects_of,
    parse_model,
    parse_object,
    parse_switch,
    quick_line,
    text_of,
    tokens_left,
    tokens_of,
)

CHAT_PATH: Final = "/v1/chat/completions"
_DONE = b"[DONE]"
_USAGE = b'"usage":'
_NO_USAGE_YET = b',"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}\n'
RANDOM_SEED = -1
"""Ollama takes this seed for none."""
_ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error", 415: "invalid_request_error"}


class ChatCompletions:
    """`/v1/chat/completions`.

    Ollama (up to 0.33) ends a stream that broke with an empty delta and no `[DONE]`. So an empty delta is held until
    something follows it, and so are the record with the finish reason and the usage, until `[DONE]` is there.

    The node is always asked for the usage: it has the only true token counts. Who did not ask for it does not get it.
    """

    path = CHAT_PATH
    stream_type = "text/event-stream"
    record_beginning = b""
    record_ending = b"\n"
    quick = quick_line(
        rb'data: \{"id":%(s)b,"object":%(s)b,"created":%(n)b,"model":%(s)b,"system_fingerprint":%(s)b,"choices":'
        rb'\[\{"index":%(n)b,"delta":\{"role":%(s)b,"content":%(text)b\},"finish_reason":null\}\]\}\n'
    )
    _prompt_field = "messages"

    def parse(self, body: bytes) -> ParsedRequest:
        """Understand a request. Raises `BadRequest`."""
        fields = parse_object(body)
        stream_options = fields.get("stream_options")
        if stream_options is not None and not isinstance(stream_options, dict):
            raise BadRequest("stream_options takes an object")
        return ParsedRequest(
            model=parse_model(fields),
            stream=parse_switch(fields, "stream", False),
            prompt_tokens=tokens_of(self._prompt_characters(fields)),
            context_tokens=0,
            generates=bool(fields.get(self._prompt_field)) and not fields.get("_debug_render_only"),
            tokens_visible=not fields.get("tools"),
            seeded=fields.get("seed") not in (RANDOM_SEED, None),
            fields=fields,
            body=body,
            takes_context=chat_as_native.is_plain(fields),
        )

    def asked(self, request: ParsedRequest, seed: int | None) -> Asked:
        """The request as a stream, with its usage and a seed; natively where a context is to be said."""
        if request.send_context_tokens:
            return Asked(chat_as_native.PATH, chat_as_native.body(request, seed), chat_as_native.Chunks().lines)
        return Asked(CHAT_PATH if "messages" in request.fields else self.path, self._body(request, seed))

    def _body(self, request: ParsedRequest, seed: int | None) -> bytes:
        add_seed = seed is not None and not request.seeded
        if request.stream and wants_usage(request) and not add_seed:
            return request.body
        options = {**(request.fields.get("stream_options") or {}), "include_usage": True}
        fields = {**request.fields, "stream": True, "stream_options": options}
        if add_seed:
            fields["seed"] = seed
        return dumps(fields)

    def continuation(
        self, request: ParsedRequest, seed: int | None, text: str, tokens: int, thinking: str = ""
    ) -> Asked | None:
        """The request with the text as the beginning of its answer."""
        fields = self._continued(request.fields, text, {"reasoning": thinking} if thinking else {})
        if fields is None:
            return None
        left = tokens_left(fields.get("max_tokens"), tokens)
        if left is not None:
            fields["max_tokens"] = left
        return self.asked(replace(request, fields=fields, body=dumps(fields)), seed)

    def count_in(self, record: Record, before: Before) -> None:
        """The usage has the counts."""
        usage = record.fields.get("usage")
        if isinstance(usage, dict):
            prompt = max(0, count_of(usage, "prompt_tokens") - before.in_prompt)
            answer = count_of(usage, "completion_tokens") + before.tokens
            counts = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
            record.fields = {**record.fields, "usage": {**usage, **counts}}
            record.raw = b"data: " + dumps(record.fields) + b"\n\n"

    def record(self, line: bytes) -> Record | None:
        """What a line says; comments, blank lines and other fields of the event stream say nothing."""
        stripped = line.strip()
        if not stripped.startswith(b"data:"):
            if stripped.startswith(b"{"):  # an error that came outside of the event stream
                fields = loads_record(stripped)
                return Record("error", line, fields, error=error_text(fields))
            return None
        data = stripped[5:].strip()
        raw = stripped + b"\n\n"
        if data == _DONE:
            return Record("terminal", raw, closing=True)
        fields = loads_record(data)
        if fields.get("error") is not None:
            return Record("error", raw, fields, error=error_text(fields))
        record = Record("part", raw, fields)
        choices = objects_of(fields, "choices")
        for choice in choices:
            self._read(choice, record)
            record.finished |= choice.get("finish_reason") is not None
        record.closing = record.finished
        usage = fields.get("usage")
        if isinstance(usage, dict):
            record.tokens = count_of(usage, "completion_tokens")
            if not choices:
                record.for_us = record.closing = True
        if record.closing or record.empty:
            record.kind = "held"
        return record

    def identity(self, record: Record) -> JsonObject:
        """All chunks of a stream have one id, and say that they are of one kind."""
        return {name: record.fields[name] for name in ("id", "object") if name in record.fields}

    def rewritten(self, record: Record, so_far: SoFar) -> bytes:
        """The record with what is left of its text, and the id that the client knows."""
        if not record.fields:
            return record.raw
        fields = {**record.fields, **so_far.identity}
        choices = objects_of(fields, "choices")
        if choices:
            fields["choices"] = [self._written(choices[0], record)]
        return b"data: " + dumps(fields) + b"\n\n"

    def aggregate(self) -> Aggregate:
        """A new aggregate."""
        return _CompletionAggregate()

    def error_body(self, status: int, message: str) -> bytes:
        """As Ollama words errors on `/v1`."""
        return dumps(_error(status, message))

    def error_line(self, message: str) -> bytes:
        """An event with the error; OpenAI's clients raise it."""
        return b"data: " + dumps(_error(500, message)) + b"\n\n"

    def _continued(self, fields: JsonObject, text: str, thought: JsonObject) -> JsonObject | None:
        messages = continued_messages(fields, text, thought)
        if messages is None or fields.get("tools") or fields.get("response_format"):
            return None
        return {**fields, "messages": messages}

    def _prompt_characters(self, fields: JsonObject) -> int:
        messages = fields.get("messages")
        return (
            sum(characters(m.get("content")) for m in messages if isinstance(m, dict))
            if isinstance(messages, list)
            else 0
        )

    def _read(self, choice: JsonObject, record: Record) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            record.text += text_of(delta, "content")
            record.thinking += text_of(delta, "reasoning")
            record.tool_calls += objects_of(delta, "tool_calls")

    def _written(self, choice: JsonObject, record: Record) -> JsonObject:
        delta = {**(choice.get("delta") or {}), "content": record.text}
        for name, value in (("reasoning", record.thinking), ("tool_calls", record.tool_calls)):
            if value:
                delta[name] = value
            else:
                delta.pop(name, None)
        return {**choice, "delta": delta}


class Completions(ChatCompletions):
    """`/v1/completions`: the same, with text in place of messages.

    Where the usage is asked for, Ollama says one in every chunk, of zeros before the last: who did not ask gets none of it.
    """

    path = "/v1/completions"
    quick = quick_line(
        rb'data: \{"id":%(s)b,"object":%(s)b,"created":%(n)b,"choices":\[\{"text":%(text)b,"index":%(n)b,'
        rb'"finish_reason":null\}\],"model":%(s)b,"system_fingerprint":%(s)b'
        rb'(?:,"usage":\{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0\})?+\}\n'
    )
    _prompt_field = "prompt"

    def asked(self, request: ParsedRequest, seed: int | None) -> Asked:
        """The request as a stream, with its usage, and a seed."""
        asked = super().asked(request, seed)
        if asked.told is None and not wants_usage(request):
            asked.told = _without_usage
        return asked

    def aggregate(self) -> Aggregate:
        """A new aggregate."""
        return _TextCompletionAggregate()

    def _prompt_characters(self, fields: JsonObject) -> int:
        return sum(characters(fields.get(name)) for name in ("prompt", "suffix"))

    def _continued(self, fields: JsonObject, text: str, thought: JsonObject) -> JsonObject | None:
        # Ollama puts the prompt into the model's template, as if it were the only message of a chat.
        prompt = fields.get("prompt")
        if not isinstance(prompt, str) or fields.get("suffix") or fields.get("logprobs"):
            return None
        kept = {name: value for name, value in fields.items() if name != "prompt"}
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", **thought, "content": text}]
        return {"frequency_penalty": 0, "presence_penalty": 0, **kept, "messages": messages}

    def _read(self, choice: JsonObject, record: Record) -> None:
        if "delta" in choice:  # of a chat that goes on for us
            super()._read(choice, record)
        else:
            record.text += text_of(choice, "text")

    def _written(self, choice: JsonObject, record: Record) -> JsonObject:
        rest = {name: value for name, value in choice.items() if name != "delta"}
        return {**rest, "text": record.text}


def wants_usage(request: ParsedRequest) -> bool:
    """Whether the client itself asked for the usage of a stream."""
    return (request.fields.get("stream_options") or {}).get("include_usage") is True


def _without_usage(line: bytes) -> list[bytes]:
    """The line without the usage of a chunk that has a choice, too."""
    if _USAGE not in line or not line.startswith(b"data:"):
        return [line]
    if line.endswith(_NO_USAGE_YET):
        return [line[: -len(_NO_USAGE_YET)] + b"}\n"]
    fields = loads_record(line[5:])
    if not fields.get("choices"):
        return [line]
    fields.pop("usage", None)
    return [b"data: " + dumps(fields) + b"\n"]


class _CompletionAggregate:
    """Builds the `chat.completion` from its chunks."""

    def __init__(self) -> None:
        self._first: JsonObject = {}
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[JsonObject] = []
        self._logprobs: list[Any] = []
        self._finish_reason: str | None = None
        self._usage: JsonObject = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

    def add(self, record: Record) -> None:
        """Take in the next chunk."""
        if not record.fields:
            return
        self._first = self._first or record.fields
        self._text.append(record.text)
        self._thinking.append(record.thinking)
        self._tool_calls += record.tool_calls
        if isinstance(record.fields.get("usage"), dict):
            self._usage = record.fields["usage"]
        for choice in objects_of(record.fields, "choices"):
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
                self._logprobs += logprobs["content"]

    def whole(self) -> bytes:
        """The `chat.completion`."""
        message: JsonObject = {"role": "assistant", "content": "".join(self._text)}
        if thinking := "".join(self._thinking):
            message["reasoning"] = thinking
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        return self._whole("chat.completion", {"message": message})

    def _whole(self, kind: str, answer: JsonObject) -> bytes:
        choice: JsonObject = {"index": 0, **answer, "finish_reason": self._finish_reason}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return dumps(
            {
                "id": self._first.get("id"),
                "object": kind,
                "created": self._first.get("created"),
                "model": self._first.get("model"),
                "system_fingerprint": self._first.get("system_fingerprint"),
                "choices": [choice],
                "usage": self._usage,
            }
        )


class _TextCompletionAggregate(_CompletionAggregate):
    """Builds the `text_completion`."""

    def whole(self) -> bytes:
        """The `text_completion`."""
        return self._whole("text_completion", {"text": "".join(self._text)})


def _error(status: int, message: str) -> JsonObject:
    kind = _ERROR_TYPES.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
