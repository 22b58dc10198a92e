"""The dialects of a generation, as Ollama 0.24 speaks them: `/api/generate`, `/api/chat`, `/v1/chat/completions`."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from live.emulator.calls import Call, JsonObject, Refused, integer_option, keep_alive_s, text_field
from live.emulator.generation import Timings
from live.emulator.text import count_tokens

BROKEN = "an error was encountered while running the model: unexpected EOF"
"""What clients read when a runner dies in the middle of a generation."""
_ERROR_KINDS = {400: "invalid_request_error", 404: "not_found_error"}


class Dialect(Protocol):
    """How one endpoint is asked, and how it answers."""

    path: str
    go_type: str  # of its request, for messages
    capability: str  # that a model must have
    stream_type: str

    def parse(self, fields: JsonObject) -> Call:
        """Understand a request. Raises Refused."""

    def parts(self, call: Call, stream_id: str, texts: Sequence[str], *, thought: bool = False) -> bytes:
        """A record for each token, of the answer or of what is thought before it."""

    def last(self, call: Call, stream_id: str, reason: str, tokens: int, timings: Timings) -> bytes:
        """The end of a stream that ended well."""

    def broken(self, stream_id: str) -> bytes:
        """The end of a stream that did not."""

    def whole(self, call: Call, text: str, reason: str, tokens: int, timings: Timings, thinking: str = "") -> bytes:
        """The answer to a request that does not stream."""

    def error(self, status: int, message: str) -> bytes:
        """An error instead of an answer."""


class _Native:
    """What `/api/generate` and `/api/chat` share: a JSON object a line, the last with `done` and the timings."""

    path = ""
    go_type = ""
    capability = ""
    stream_type = "application/x-ndjson"

    def _text(self, text: str, thinking: str = "") -> JsonObject:
        raise NotImplementedError

    def parts(self, call: Call, _stream_id: str, texts: Sequence[str], *, thought: bool = False) -> bytes:
        """A line for each token."""
        # Put together as text, because this is done for every token; the words need no escapes.
        said = self._text("", "\0") if thought else self._text("\0")
        head, tail = _dumps({"model": call.model, "created_at": _now(), **said}).split("\\u0000")
        return "".join([f'{head}{text}{tail[:-1]},"done":false}}\n' for text in texts]).encode()

    def last(self, call: Call, _stream_id: str, reason: str, tokens: int, timings: Timings) -> bytes:
        """The line with `done`."""
        return self.whole(call, "", reason, tokens, timings) + b"\n"

    def broken(self, _stream_id: str) -> bytes:
        """A line with the error."""
        return self.error(200, BROKEN) + b"\n"

    def whole(self, call: Call, text: str, reason: str, tokens: int, timings: Timings, thinking: str = "") -> bytes:
        """One object with the text and all else."""
        record: JsonObject = {"model": call.model, "created_at": _now(), **self._text(text, thinking)}
        record |= {"done": True, "done_reason": reason}
        account = {
            "total_duration": _ns(timings.total_s),
            "load_duration": _ns(timings.load_s),
            "prompt_eval_count": call.prompt_tokens,
            "prompt_eval_duration": _ns(timings.prompt_eval_s),
            "eval_count": tokens,
            "eval_duration": _ns(timings.eval_s),
        }
        if reason not in ("load", "unload"):
            record |= {name: value for name, value in account.items() if value}  # Ollama leaves out what is zero
        return _dumps(record).encode()

    def error(self, _status: int, message: str) -> bytes:
        """An object with nothing but the message."""
        return _dumps({"error": message}).encode()


class Generate(_Native):
    """`/api/generate`."""

    path = "/api/generate"
    go_type = "api.GenerateRequest"
    capability = "generate"

    def _text(self, text: str, thinking: str = "") -> JsonObject:
        return {"response": text} | ({"thinking": thinking} if thinking else {})

    def parse(self, fields: JsonObject) -> Call:
        """Understand a request. Raises Refused."""
        prompt = text_field(fields, "prompt", self.go_type)
        system = text_field(fields, "system", self.go_type)
        if prompt and system:
            prompt = f"{system}\n{prompt}"
        return _native_call(fields, self.go_type, prompt, count_tokens(prompt), 0)


class Chat(_Native):
    """`/api/chat`."""

    path = "/api/chat"
    go_type = "api.ChatRequest"
    capability = "chat"

    def _text(self, text: str, thinking: str = "") -> JsonObject:
        said = {"role": "assistant", "content": text} | ({"thinking": thinking} if thinking else {})
        return {"message": said}

    def parse(self, fields: JsonObject) -> Call:
        """Understand a request. Raises Refused."""
        return _native_call(fields, self.go_type, *_conversation(fields))


class ChatCompletions:
    """`/v1/chat/completions`: server-sent events. A stream that breaks says so only by what it lacks."""

    path = "/v1/chat/completions"
    go_type = "openai.ChatCompletionRequest"
    capability = "chat"
    stream_type = "text/event-stream"

    def parse(self, fields: JsonObject) -> Call:
        """Understand a request. Raises Refused."""
        prompt, prompt_tokens, said_tokens = _conversation(fields)
        if not prompt:
            raise Refused(400, "[] is too short - 'messages'")
        stream_options = fields.get("stream_options")
        return Call(
            text_field(fields, "model", self.go_type),
            prompt,
            prompt_tokens,
            said_tokens,
            fields.get("stream") is True,
            _seed(fields),
            _limit(integer_option(fields, "max_tokens")),
            0,
            None,
            isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
            fields.get("reasoning_effort") not in (None, "none"),
        )

    def parts(self, call: Call, stream_id: str, texts: Sequence[str], *, thought: bool = False) -> bytes:
        """An event for each token."""
        said = _event(stream_id, call.model, "", None, "\0") if thought else _event(stream_id, call.model, "\0", None)
        head, tail = said.decode().split("\\u0000")
        return "".join([f"{head}{text}{tail}" for text in texts]).encode()

    def last(self, call: Call, stream_id: str, reason: str, tokens: int, _timings: Timings) -> bytes:
        """The finish reason, the usage where it was asked for, and `[DONE]`."""
        events = [_event(stream_id, call.model, "", reason)]
        if call.wants_usage:
            chunk = {**_chunk(stream_id, call.model), "choices": [], "usage": _usage(call, tokens)}
            events.append(b"data: " + _dumps(chunk).encode() + b"\n\n")
        return b"".join([*events, b"data: [DONE]\n\n"])

    def broken(self, stream_id: str) -> bytes:
        """An event that adds nothing: Ollama reads the runner's error as one more piece of text, without any."""
        return _event(stream_id, "", "", None)

    def whole(self, call: Call, text: str, reason: str, tokens: int, _timings: Timings, thinking: str = "") -> bytes:
        """A `chat.completion`."""
        choice = {"index": 0, "message": _said(text, thinking), "finish_reason": reason}
        completion = {**_chunk(new_stream_id(), call.model), "object": "chat.completion", "choices": [choice]}
        return _dumps({**completion, "usage": _usage(call, tokens)}).encode()

    def error(self, status: int, message: str) -> bytes:
        """As OpenAI words errors."""
        kind = _ERROR_KINDS.get(status, "api_error")
        return _dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()


def new_stream_id() -> str:
    """An id for the chunks of a stream; only `/v1` shows it."""
    return f"chatcmpl-{random.randrange(1000)}"


def _native_call(fields: JsonObject, go_type: str, prompt: str, prompt_tokens: int, said_tokens: int) -> Call:
    options = fields.get("options")
    options = options if isinstance(options, dict) else {}
    return Call(
        text_field(fields, "model", go_type),
        prompt,
        prompt_tokens,
        said_tokens,
        fields.get("stream") is not False,
        _seed(options),
        _limit(integer_option(options, "num_predict")),
        max(0, integer_option(options, "num_ctx") or 0),
        keep_alive_s(fields.get("keep_alive")),
        thinks=bool(fields.get("think")),
    )


def _seed(options: JsonObject) -> int | None:
    """None where the client leaves it to chance; at temperature 0 there is none."""
    if options.get("temperature") == 0:
        return 0
    seed = integer_option(options, "seed")
    return None if seed == -1 else seed


def _limit(tokens: int | None) -> int | None:
    """Ollama takes 0 and negative numbers for no limit."""
    return tokens if tokens is not None and tokens > 0 else None


def _conversation(fields: JsonObject) -> tuple[str, int, int]:
    """The messages as a prompt, its tokens, and those of an assistant's message at the end, to be gone on from."""
    messages = fields.get("messages")
    said = 0
    lines = []
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, dict):
            raise Refused(400, "json: cannot unmarshal a message that is no object")
        content = message.get("content")
        thought = message.get("thinking") or message.get("reasoning") or ""
        text = content if isinstance(content, str) else _dumps(content)
        lines.append((str(message.get("role", "user")), text, str(thought)))
    tokens = sum(count_tokens(text) + count_tokens(thought) for _, text, thought in lines)
    if lines and lines[-1][0] == "assistant":
        _, text, thought = lines.pop()
        said = count_tokens(text) + count_tokens(thought)
    prompt = "\n".join(f"{role}: {text}" for role, text, _ in lines)
    return prompt or "\n" * bool(messages), tokens, said


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _usage(call: Call, tokens: int) -> JsonObject:
    total = call.prompt_tokens + tokens
    return {"prompt_tokens": call.prompt_tokens, "completion_tokens": tokens, "total_tokens": total}


def _chunk(stream_id: str, model: str) -> JsonObject:
    return {
        "id": stream_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": "fp_ollama",
    }


def _said(text: str, reasoning: str) -> JsonObject:
    return {"role": "assistant", "content": text} | ({"reasoning": reasoning} if reasoning else {})


def _event(stream_id: str, model: str, text: str, reason: str | None, reasoning: str = "") -> bytes:
    choice = {"index": 0, "delta": _said(text, reasoning), "finish_reason": reason}
    return b"data: " + _dumps({**_chunk(stream_id, model), "choices": [choice]}).encode() + b"\n\n"
