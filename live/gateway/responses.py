"""The streams of OpenAI's `/v1/responses`, as Ollama speaks them.

Events are numbered, name the item that they are about, and at the end say the whole text again, four times; what was
thought before is an item of its own, and said again, too. So what
another node says is told in the first one's numbers and names, and with the text that the client really has.
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
from live.gateway.plain_endpoints import RESPONSES
from live.gateway.typed_events import TypedEvents, event

_HELD = (
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.reasoning_summary_text.done",
)
_RESPONSE = "response"
_THOUGHT: JsonObject = {"type": "reasoning", "summary": [{"type": "summary_text", "text": ""}]}
"""An item of thinking, as another node that goes on after it does not know it."""


class Responses(TypedEvents):
    """The streams of `/v1/responses`."""

    path = "/v1/responses"
    endpoint = RESPONSES
    record_beginning = b"event: response.output_text.delta\n"
    _limit_field = "max_output_tokens"
    quick = quick_line(  # its fields come in the order of the alphabet
        rb'data: \{"content_index":%(n)b,"delta":%(text)b,"item_id":%(s)b,"logprobs":\[\],"output_index":%(n)b,'
        rb'"sequence_number":%(n)b,"type":"response\.output_text\.delta"\}\n'
    )

    def count_in(self, record: Record, before: Before) -> None:
        """The last event has the usage and all items, those that concern an item its number."""
        response, index = record.fields.get("response"), record.fields.get("output_index")
        usage = response.get("usage") if isinstance(response, dict) else None
        if isinstance(response, dict) and isinstance(usage, dict):
            given = max(0, count_of(usage, "input_tokens") - before.in_prompt)
            answer = count_of(usage, "output_tokens") + before.tokens
            counts = {"input_tokens": given, "output_tokens": answer, "total_tokens": given + answer}
            output = response.get("output")
            items = [_THOUGHT] * before.parts + (output if isinstance(output, list) else [])
            record.fields = {
                **record.fields,
                "response": {**response, "output": items, "usage": {**usage, **counts}},
            }
        elif before.parts and type(index) is int:
            record.fields = {**record.fields, "output_index": index + before.parts}
            if record.frame is not None:
                record.frame = (f"{record.fields.get('type')} {index + before.parts}", record.frame[1])

    def identity(self, record: Record) -> JsonObject:
        """The ids of the response and of its items."""
        fields = record.fields
        response, item = fields.get("response"), fields.get("item")
        if isinstance(response, dict) and "id" in response:
            return {_RESPONSE: response["id"]}
        if isinstance(item, dict) and "id" in item:
            return {_item(fields): item["id"]}
        return {}

    def rewritten(self, record: Record, so_far: SoFar) -> bytes:
        """The event with what is left of its text, in the client's numbers and names."""
        fields, known = {**record.fields, "sequence_number": so_far.records}, so_far.identity
        item_id = known.get(_item(fields))
        if "delta" in fields:
            fields["delta"] = record.text or record.thinking or fields["delta"]
        if "item_id" in fields and item_id is not None:
            fields["item_id"] = item_id
        if fields.get("type") == "response.output_text.done":
            fields["text"] = so_far.text
        if fields.get("type") == "response.reasoning_summary_text.done":
            fields["text"] = so_far.thinking
        if isinstance(part := fields.get("part"), dict):
            fields["part"] = _with_text(part, so_far.text)
        if isinstance(item := fields.get("item"), dict):
            fields["item"] = _item_rewritten(item, item_id, so_far)
        if isinstance(response := fields.get("response"), dict):
            output = response.get("output")
            items = [
                _item_rewritten(each, known.get(_item({"output_index": index})), so_far)
                for index, each in enumerate(output if isinstance(output, list) else [])
                if isinstance(each, dict)
            ]
            fields["response"] = {**response, "id": known.get(_RESPONSE, response.get("id")), "output": items}
        return event(fields)

    def _continued(self, fields: JsonObject, text: str, thinking: str) -> JsonObject | None:
        form = fields.get("text")
        if isinstance(form, dict) and form.get("format") not in (None, {"type": "text"}):
            return None
        given = fields.get("input")
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        continued = continued_messages({"messages": messages}, text)
        if continued is None:
            return None
        thought = [{"type": "reasoning", "summary": [], "encrypted_content": thinking}] if thinking else []
        return {**fields, "input": [*continued[:-1], *thought, continued[-1]]}

    def _read(self, kind: str, fields: JsonObject, record: Record) -> None:
        response = fields.get("response")
        response = response if isinstance(response, dict) else {}
        item = fields.get("item")
        if not kind.endswith(".delta"):
            what = str(item.get("type")) if isinstance(item, dict) else ""
            record.frame = (f"{kind} {fields.get('output_index')}", what)
        if kind == "response.output_text.delta":
            record.text = text_of(fields, "delta")
        elif kind == "response.reasoning_summary_text.delta":
            record.thinking = text_of(fields, "delta")
        elif kind == "response.function_call_arguments.delta":
            record.tool_calls = [{"arguments": fields.get("delta")}]
        elif kind == "response.output_item.added" and isinstance(item, dict) and item.get("type") == "function_call":
            record.tool_calls = [{"name": item.get("name")}]
        elif kind in _HELD:
            record.kind = "held"
        elif kind in ("response.completed", "response.incomplete"):
            record.kind = "terminal"
            record.closing = record.finished = True
            usage = response.get("usage")
            if isinstance(usage, dict):
                record.tokens = count_of(usage, "output_tokens")
        elif kind in ("error", "response.failed"):
            record.kind = "error"
            record.error = error_text(response if response.get("error") else fields)


def _item(fields: JsonObject) -> str:
    return f"item {fields.get('output_index')}"


def _with_text(part: JsonObject, text: str) -> JsonObject:
    """A part of a message's content. One that is only begun has no text, as is right: that is sent once, at first."""
    return {**part, "text": text} if part.get("type") == "output_text" else part


def _item_rewritten(item: JsonObject, item_id: object, so_far: SoFar) -> JsonObject:
    named = {**item, "id": item_id} if item_id is not None else item
    content, text = item.get("content"), so_far.text
    if item.get("type") == "reasoning" and item.get("summary"):  # one that is only begun has none
        thinking = so_far.thinking
        summary = [{"type": "summary_text", "text": thinking}]
        return {**named, "summary": summary, "encrypted_content": thinking}
    if item.get("type") != "message" or not isinstance(content, list):
        return named
    return {**named, "content": [_with_text(part, text) if isinstance(part, dict) else part for part in content]}
