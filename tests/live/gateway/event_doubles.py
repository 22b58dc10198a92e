"""What Ollama says on `/v1/messages` and `/v1/responses`, event by event."""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any


def typed(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def message_events(words: Sequence[str], identity: str = "msg_1", prompt: int = 3) -> list[bytes]:
    begin = {"id": identity, "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {"input_tokens": prompt, "output_tokens": len(words)}
    return [
        typed("message_start", message={**begin, "usage": {"input_tokens": 1, "output_tokens": 0}}),
        typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(typed("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
        typed("content_block_stop", index=0),
        typed("message_delta", delta={"stop_reason": "end_turn"}, usage=usage),
        typed("message_stop"),
    ]


def response_events(words: Sequence[str], number: int = 1, prompt: int = 3) -> list[bytes]:
    return list(_response_events(words, f"resp_{number}", f"msg_{number}", prompt))


def _response_events(words: Sequence[str], response: str, item: str, prompt: int) -> Iterator[bytes]:
    numbers, text = count(), "".join(words)

    def event(kind: str, **fields: Any) -> bytes:
        return typed(f"response.{kind}", sequence_number=next(numbers), **fields)

    def part(said: str) -> dict[str, Any]:
        return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}

    begun = {"id": response, "object": "response", "status": "in_progress", "output": [], "usage": None}
    message = {"id": item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    whole = {**message, "status": "completed", "content": [part(text)]}
    usage = {"input_tokens": prompt, "output_tokens": len(words), "total_tokens": prompt + len(words)}
    place = {"item_id": item, "output_index": 0, "content_index": 0}
    yield event("created", response=begun)
    yield event("in_progress", response=begun)
    yield event("output_item.added", output_index=0, item=message)
    yield event("content_part.added", **place, part=part(""))
    for word in words:
        yield event("output_text.delta", **place, delta=word, logprobs=[])
    yield event("output_text.done", **place, text=text, logprobs=[])
    yield event("content_part.done", **place, part=part(text))
    yield event("output_item.done", output_index=0, item=whole)
    yield event("completed", response={**begun, "status": "completed", "output": [whole], "usage": usage})


def told(body: bytes) -> list[dict[str, Any]]:
    """The events of an answer; each has the name that its data say."""
    parts = [part for part in body.decode().split("\n\n") if part]
    found = []
    for part in parts:
        name, data = part.split("\n")
        fields: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {fields['type']}"
        found.append(fields)
    return found
