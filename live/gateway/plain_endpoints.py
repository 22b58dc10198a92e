"""Endpoints whose whole answers are passed on as they are, and how they say an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from live.gateway.dialect import JsonObject, characters, dumps
from live.gateway.openai import ChatCompletions

_OPENAI = ChatCompletions()
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ErrorForms(Protocol):
    """How a dialect says an error."""

    def error_body(self, status: int, message: str) -> bytes:
        """As a whole answer."""

    def error_line(self, message: str) -> bytes:
        """Within a stream."""


class MessagesErrors:
    """Anthropic's."""

    def error_body(self, status: int, message: str) -> bytes:
        """As a whole answer."""
        kind = _ANTHROPIC_TYPES.get(status, "api_error")
        return dumps({"type": "error", "error": {"type": kind, "message": message}})

    def error_line(self, message: str) -> bytes:
        """Within a stream."""
        return b"event: error\ndata: " + self.error_body(500, message) + b"\n\n"


class ResponsesErrors:
    """Those of OpenAI's responses: whole as everywhere on `/v1`, in a stream an event of its own."""

    def error_body(self, status: int, message: str) -> bytes:
        """As a whole answer."""
        return _OPENAI.error_body(status, message)

    def error_line(self, message: str) -> bytes:
        """Within a stream."""
        said = {"type": "error", "code": "server_error", "message": message, "param": None}
        return b"event: error\ndata: " + dumps(said) + b"\n\n"


@dataclass(frozen=True, slots=True)
class PlainEndpoint:
    """One endpoint."""

    path: str
    errors: ErrorForms
    prompt_fields: tuple[str, ...]

    def prompt_characters(self, fields: JsonObject) -> int:
        """Length of the text in the fields that make the prompt."""
        return sum(_characters(fields.get(name)) for name in self.prompt_fields)


def _characters(value: object) -> int:
    if isinstance(value, list):
        return sum(_characters(each) for each in value)
    if isinstance(value, dict):
        return characters(value.get("content")) or characters(value.get("text"))
    return characters(value)


RESPONSES: Final = PlainEndpoint("/v1/responses", ResponsesErrors(), ("input", "instructions"))
MESSAGES: Final = PlainEndpoint("/v1/messages", MessagesErrors(), ("messages", "system"))
