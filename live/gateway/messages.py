"""Anthropic's dialect as Ollama speaks it: the streams of `/v1/messages`.

A message is made of blocks, each begun and ended by an event. Ollama (up to 0.33) says nothing of a node's error in the
middle: the stream ends without `message_stop`. That a block has ended is held until something follows it, so that a
stream which breaks there can go on in that block.
"""

from __future__ import annotations

from live.gateway.dialect import (
    Before,
    JsonObject,
    Record,
    SoFar,
    continued_messages,
    count_of,
    error_text,
    quick_line,
    text_of,
)
from live.gateway.plain_endpoints import MESSAGES
from live.gateway.typed_events import TypedEvents, event

_TEXT_OF = {"text_delta": "text", "thinking_delta": "thinking"}


class Messages(TypedEvents):
    """The streams of `/v1/messages`."""

    path = "/v1/messages"
    endpoint = MESSAGES
    record_beginning = b"event: content_block_delta\n"
    _limit_field = "max_tokens"
    quick = quick_line(
        rb'data: \{"type":"content_block_delta","index":%(n)b,"delta":\{"type":"text_delta","text":%(text)b\}\}\n'
    )

    def count_in(self, record: Record, before: Before) -> None:
        """The last but one event has the usage, all that concern a block its number."""
        fields = record.fields
        usage, index = fields.get("usage"), fields.get("index")
        if fields.get("type") == "message_delta" and isinstance(usage, dict):
            counts = {
                "input_tokens": max(0, count_of(usage, "input_tokens") - before.in_prompt),
                "output_tokens": count_of(usage, "output_tokens") + before.tokens,
            }
            record.fields = {**fields, "usage": {**usage, **counts}}
            record.raw = event(record.fields)
        elif before.parts and type(index) is int:
            record.fields = {**fields, "index": index + before.parts}
            record.raw = event(record.fields)
            if record.frame is not None:
                record.frame = (f"{record.frame[0].partition(' ')[0]} {index + before.parts}", record.frame[1])

    def identity(self, _record: Record) -> JsonObject:
        """It is said in the first event alone, which comes once."""
        return {}

    def rewritten(self, record: Record, _so_far: SoFar) -> bytes:
        """The event with what is left of its text."""
        fields = record.fields
        delta = fields.get("delta")
        if isinstance(delta, dict) and (name := _TEXT_OF.get(str(delta.get("type")))):
            fields = {**fields, "delta": {**delta, name: record.text or record.thinking}}
        return event(fields)

    def _continued(self, fields: JsonObject, text: str, thinking: str) -> JsonObject | None:
        messages = None if fields.get("output_config") else continued_messages(fields, text)
        if messages is None:
            return None
        if thinking:
            blocks = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": messages[-1]["content"]}]
            messages[-1] = {**messages[-1], "content": blocks}
        return {**fields, "messages": messages}

    def _read(self, kind: str, fields: JsonObject, record: Record) -> None:
        index = fields.get("index")
        if kind == "content_block_delta":
            self._read_delta(fields, record)
        elif kind == "content_block_start":
            block = fields.get("content_block")
            block = block if isinstance(block, dict) else {}
            record.frame = (f"begin {index}", str(block.get("type")))
            if block.get("type") not in ("text", "thinking"):
                record.tool_calls = [block]
        elif kind == "content_block_stop":
            record.kind = "held"
            record.frame = (f"end {index}", "")
        elif kind == "message_delta":
            record.kind = "held"
            record.closing = True
            delta, usage = fields.get("delta"), fields.get("usage")
            record.finished = isinstance(delta, dict) and delta.get("stop_reason") is not None
            if isinstance(usage, dict):
                record.tokens = count_of(usage, "output_tokens")
        elif kind == "message_stop":
            record.kind = "terminal"
            record.closing = True
        elif kind == "error":
            record.kind = "error"
            record.error = error_text(fields)
        else:  # the message's beginning, and what a later version may have
            record.frame = (kind, "")

    def _read_delta(self, fields: JsonObject, record: Record) -> None:
        delta = fields.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        kind = delta.get("type")
        if kind == "text_delta":
            record.text = text_of(delta, "text")
        elif kind == "thinking_delta":
            record.thinking = text_of(delta, "thinking")
        else:
            record.tool_calls = [delta]
