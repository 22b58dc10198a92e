"""What Ollama says on `/v1/messages` and `/v1/responses`, event by event."""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from tests.live.gateway.doubles import dumps


def typed(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dumps({"type": kind, **fields}) + b"\n\n"


def message_events(
    words: Sequence[str], identity: str = "msg_1", prompt: int = 3, thoughts: Sequence[str] = ()
) -> list[bytes]:
    begin = {"id": identity, "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {"input_tokens": prompt, "output_tokens": len(words) + len(thoughts)}
    blocks = [("thinking", thoughts)] if thoughts else []
    return [
        typed("message_start", message={**begin, "usage": {"input_tokens": 1, "output_tokens": 0}}),
        *(event for index, block in enumerate([*blocks, ("text", words)]) for event in _block(index, *block)),
        typed("message_delta", delta={"stop_reason": "end_turn"}, usage=usage),
        typed("message_stop"),
    ]


def _block(index: int, kind: str, words: Sequence[str]) -> Iterator[bytes]:
    yield typed("content_block_start", index=index, content_block={"type": kind, kind: ""})
    for word in words:
        yield typed("content_block_delta", index=index, delta={"type": f"{kind}_delta", kind: word})
    yield typed("content_block_stop", index=index)


def response_events(
    words: Sequence[str], number: int = 1, prompt: int = 3, thoughts: Sequence[str] = ()
) -> list[bytes]:
    return list(_response_events(words, number, prompt, thoughts))


def _response_events(words: Sequence[str], number: int, prompt: int, thoughts: Sequence[str]) -> Iterator[bytes]:
    response, item, thought = f"resp_{number}", f"msg_{number}", f"rs_{number}"
    numbers, text, thinking = count(), "".join(words), "".join(thoughts)

    def event(kind: str, **fields: Any) -> bytes:
        data = {"type": f"response.{kind}", "sequence_number": next(numbers), **fields}
        return f"event: response.{kind}\ndata: ".encode() + dumps(dict(sorted(data.items()))) + b"\n\n"

    def part(said: str) -> dict[str, Any]:
        return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}

    begun = {"id": response, "object": "response", "status": "in_progress", "output": [], "usage": None}
    message = {"id": item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    whole = {**message, "status": "completed", "content": [part(text)]}
    reasoning = {"id": thought, "type": "reasoning", "summary": [{"type": "summary_text", "text": thinking}]}
    reasoning["encrypted_content"] = thinking
    answer = len(words) + len(thoughts)
    usage = {"input_tokens": prompt, "output_tokens": answer, "total_tokens": prompt + answer}
    index = 1 if thoughts else 0
    place = {"item_id": item, "output_index": index, "content_index": 0}
    yield event("created", response=begun)
    yield event("in_progress", response=begun)
    if thoughts:
        summary = {"item_id": thought, "output_index": 0, "summary_index": 0}
        yield event("output_item.added", output_index=0, item={"id": thought, "type": "reasoning", "summary": []})
        for word in thoughts:
            yield event("reasoning_summary_text.delta", **summary, delta=word)
        yield event("reasoning_summary_text.done", **summary, text=thinking)
        yield event("output_item.done", output_index=0, item=reasoning)
    yield event("output_item.added", output_index=index, item=message)
    yield event("content_part.added", **place, part=part(""))
    for word in words:
        yield event("output_text.delta", **place, delta=word, logprobs=[])
    yield event("output_text.done", **place, text=text, logprobs=[])
    yield event("content_part.done", **place, part=part(text))
    yield event("output_item.done", output_index=index, item=whole)
    output = [reasoning, whole] if thoughts else [whole]
    yield event("completed", response={**begun, "status": "completed", "output": output, "usage": usage})


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
