"""What OpenAI's responses and Anthropic's messages share: server-sent events, each with a type that is also its name.

Ollama makes both of a chat, and neither can say a seed. So another node does not say the same again, unless the
temperature is 0: a stream that breaks is gone on with after its text at once.

Where a client does not stream, the node's own whole answer is passed on; see `plain_endpoints`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from live.gateway.dialect import (
    Asked,
    JsonObject,
    ParsedRequest,
    Record,
    dumps,
    error_text,
    loads_record,
    parse_model,
    parse_object,
    parse_switch,
    tokens_left,
    tokens_of,
)
from live.gateway.plain_endpoints import PlainEndpoint


class TypedEvents:
    """One of them. A dialect, see `live.gateway.dialect.Dialect`."""

    stream_type = "text/event-stream"
    record_ending = b"\n"
    record_beginning: bytes
    path: str
    endpoint: PlainEndpoint
    _limit_field: str
    quick: re.Pattern[bytes]

    def parse(self, body: bytes) -> ParsedRequest:
        """Understand a request. Raises `BadRequest`."""
        fields = parse_object(body)
        return ParsedRequest(
            model=parse_model(fields),
            stream=parse_switch(fields, "stream", False),
            prompt_tokens=tokens_of(self.endpoint.prompt_characters(fields)),
            context_tokens=0,
            generates=True,
            tokens_visible=not fields.get("tools"),
            seeded=False,
            fields=fields,
            body=body,
            repeatable=fields.get("temperature") == 0,
        )

    def asked(self, request: ParsedRequest, _seed: int | None) -> Asked:
        """As it came."""
        return Asked(self.path, request.body)

    def continuation(
        self, request: ParsedRequest, _seed: int | None, text: str, tokens: int, thinking: str = ""
    ) -> Asked | None:
        """The request with the text as the beginning of its answer; neither tools nor a grammar can begin there."""
        continued = None if request.fields.get("tools") else self._continued(request.fields, text, thinking)
        if continued is None:
            return None
        left = tokens_left(request.fields.get(self._limit_field), tokens)
        if left is not None:
            continued[self._limit_field] = left
        return Asked(self.path, dumps(replace(request, fields=continued).fields))

    def record(self, line: bytes) -> Record | None:
        """What a line says: the event's name says nothing that its data does not."""
        stripped = line.strip()
        if not stripped.startswith(b"data:"):
            if stripped.startswith(b"{"):  # an error that came outside of the event stream
                fields = loads_record(stripped)
                return Record("error", line, fields, error=error_text(fields))
            return None
        fields = loads_record(stripped[5:])
        kind = fields.get("type")
        record = Record("part", b"", fields)
        if isinstance(kind, str):
            self._read(kind, fields, record)
        record.raw = event(fields, stripped)
        return record

    def aggregate(self) -> None:
        """None: only streams are asked of nodes as streams."""

    def error_body(self, status: int, message: str) -> bytes:
        """An error as a whole answer."""
        return self.endpoint.errors.error_body(status, message)

    def error_line(self, message: str) -> bytes:
        """An error within a stream."""
        return self.endpoint.errors.error_line(message)

    def _continued(self, fields: JsonObject, text: str, thinking: str) -> JsonObject | None:
        raise NotImplementedError

    def _read(self, kind: str, fields: JsonObject, record: Record) -> None:
        raise NotImplementedError


def event(fields: JsonObject, data_line: bytes = b"") -> bytes:
    """An event as bytes, with the data as they came where they are given."""
    name = str(fields.get("type", "")).encode(errors="replace")
    return b"event: " + name + b"\n" + (data_line or b"data: " + dumps(fields)) + b"\n\n"
