"""A stream that breaks goes on: the same text anew where the other node says the same, else a continuation of it."""

import json
from typing import Any

import pytest

from live.gateway.dialect import Before, Dialect
from live.gateway.native import Chat, Generate
from live.gateway.openai import ChatCompletions, Completions
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import (
    chat_chunk,
    chat_lines,
    completion_events,
    event,
    generate_end,
    generate_lines,
    line,
    streams,
    to,
)
from twin.policy.vocabulary import AttemptEnded

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
OTHER = ["XX", " YY", " ZZ"]


def objects(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(each) for each in body.splitlines()]


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(part[6:]) for part in body.decode().split("\n\n") if part.startswith("data: {")]


def text_chunk(text: str, *, finish: str | None = None, identity: str = "cmpl-1") -> bytes:
    return event(
        id=identity,
        object="text_completion",
        created=1,
        choices=[{"text": text, "index": 0, "finish_reason": finish}],
        model="m",
        system_fingerprint="fp_ollama",
    )


def text_events(words: list[str], identity: str = "cmpl-1") -> list[bytes]:
    counts = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
    usage = event(id=identity, object="text_completion", created=1, choices=[], model="m", usage=counts)
    chunks = [text_chunk(word, identity=identity) for word in words]
    return [*chunks, text_chunk("", finish="stop", identity=identity), usage, b"data: [DONE]\n\n"]


WORDS = ["ba", " da", " ga", " ka"]
TEXT = ["ba", " da", " ga", " ka", " ma", " na"]
"""Of `completion_events`."""


async def test_completions_go_on_elsewhere_as_one_stream(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams([*text_events(WORDS)[:2], text_chunk("")]))  # how Ollama ends a broken stream there
    house.b.will(streams(text_events(WORDS, identity="cmpl-2")))
    body = {"model": "m", "prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    _, answer, _ = await house.post("/v1/completions", body)
    parts = events(answer)
    assert "".join(part["choices"][0]["text"] for part in parts if part["choices"]) == "".join(WORDS)
    assert {part["id"] for part in parts} == {"cmpl-1"}
    assert parts[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert answer.endswith(b"data: [DONE]\n\n")
    assert house.a.bodies[0]["seed"] == house.b.bodies[0]["seed"]


async def test_a_client_of_completions_that_does_not_stream_sees_no_break(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(text_events(WORDS)[:2], then="break"))
    house.b.will(streams(text_events(WORDS)))
    _, answer, _ = await house.post("/v1/completions", {"model": "m", "prompt": "x"})
    whole = json.loads(answer)
    assert (whole["object"], whole["choices"]) == (
        "text_completion",
        [{"index": 0, "text": "".join(WORDS), "finish_reason": "stop"}],
    )
    assert whole["usage"]["completion_tokens"] == 4


async def test_completions_that_differ_end_with_a_truthful_error(house: House) -> None:
    house.routes(to("a"), to("b"), to("a"))
    house.a.will(streams(text_events(WORDS)[:2], then="break"))
    house.b.will(streams(text_events(OTHER)))
    body = {"model": "m", "prompt": "x", "stream": True, "suffix": "s"}
    _, answer, _ = await house.post("/v1/completions", body)
    assert "was to go on here" in events(answer)[-1]["error"]["message"]
    assert b"[DONE]" not in answer


async def test_completions_that_differ_are_continued_as_the_chat_that_they_are(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams(text_events(WORDS)[:2], then="break"))
    house.b.will(streams(text_events(OTHER)), streams(completion_events([" x"], identity="chatcmpl-3")))
    body = {"model": "m", "prompt": "p", "stream": True, "stream_options": {"include_usage": True}}
    _, answer, _ = await house.post("/v1/completions", body)
    parts = events(answer)
    assert {(part["id"], part["object"]) for part in parts} == {("cmpl-1", "text_completion")}
    assert "".join(part["choices"][0]["text"] for part in parts if part["choices"]) == "ba da x"
    assert not any("delta" in choice for part in parts for choice in part["choices"])
    assert parts[-1]["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    assert answer.endswith(b"data: [DONE]\n\n")
    asked = house.b.bodies[1]
    assert asked["messages"] == [{"role": "user", "content": "p"}, {"role": "assistant", "content": "ba da"}]
    assert "prompt" not in asked


async def test_a_chat_that_differs_elsewhere_is_continued_after_the_text_that_the_client_has(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams(chat_lines(WORDS)[:2], then="break"))
    rest = chat_lines([" on", " and", " on"])
    house.b.will(streams(chat_lines(OTHER)), streams(rest))
    _, answer, _ = await house.post("/api/chat", {**CHAT, "options": {"num_predict": 10}})
    parts = objects(answer)
    assert "".join(part["message"]["content"] for part in parts) == "ba da on and on"
    # 3 prompt tokens of which 2 were the client's text: what the node says counts both.
    assert (parts[-1]["done"], parts[-1]["eval_count"], parts[-1]["prompt_eval_count"]) == (True, 5, 1)
    asked = house.b.bodies[1]
    assert asked["messages"] == [*CHAT["messages"], {"role": "assistant", "content": "ba da"}]  # type: ignore[misc]
    assert asked["options"]["num_predict"] == 8
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["reset", "aborted", ""]
    assert (house.logs[0].outcome, house.logs[0].tokens_received) == ("succeeded", 5)


async def test_a_continuation_that_breaks_is_continued_again(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"), to("a"))
    house.a.will(streams(chat_lines(WORDS)[:1], then="break"), streams(chat_lines([" end"])))
    house.b.will(streams(chat_lines(OTHER)), streams(chat_lines([" on"])[:1], then="break"))
    _, answer, _ = await house.post("/api/chat", CHAT)
    parts = objects(answer)
    assert "".join(part["message"]["content"] for part in parts) == "ba on end"
    assert parts[-1]["eval_count"] == 3
    assert house.a.bodies[1]["messages"][-1] == {"role": "assistant", "content": "ba on"}


async def test_openai_chats_are_continued_with_their_id_and_the_usage_of_the_whole(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams([*completion_events()[:3], chat_chunk("")]))
    rest = completion_events([" x"], identity="chatcmpl-3")
    house.b.will(streams(completion_events(OTHER, identity="chatcmpl-2")), streams(rest))
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2}
    _, answer, _ = await house.post("/v1/chat/completions", body)
    parts = events(answer)
    assert {part["id"] for part in parts} == {"chatcmpl-1"}
    assert "".join(part["choices"][0]["delta"]["content"] for part in parts if part["choices"]) == "ba da ga x"
    assert parts[-1]["usage"] == {"prompt_tokens": 0, "completion_tokens": 4, "total_tokens": 4}
    assert answer.endswith(b"data: [DONE]\n\n")
    assert house.b.bodies[1]["max_tokens"] == 1  # never none: that would be no limit


async def test_a_prompt_for_the_models_template_is_continued_as_the_chat_that_it_is(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams(generate_lines(WORDS)[:2], then="break"))
    house.b.will(streams(generate_lines(OTHER)), streams(chat_lines([" x", " y"])))
    body = {"model": "m", "prompt": "p", "system": "be kind", "images": ["QQ=="], "options": {"num_predict": 9}}
    _, answer, _ = await house.post("/api/generate", body)
    parts = objects(answer)
    assert "".join(part["response"] for part in parts) == "ba da x y"
    assert not any("message" in part for part in parts)
    assert (parts[-1]["done"], parts[-1]["eval_count"], parts[-1]["prompt_eval_count"]) == (True, 4, 1)
    asked = house.b.bodies[1]
    assert asked["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "p", "images": ["QQ=="]},
        {"role": "assistant", "content": "ba da"},
    ]
    assert (asked["options"]["num_predict"], set(asked) & {"prompt", "system", "images"}) == (7, set())


async def test_a_raw_prompt_is_continued_as_it_is(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams(generate_lines(WORDS)[:2], then="break"))
    house.b.will(streams(generate_lines(OTHER)), streams(generate_lines([" x"])))
    _, answer, _ = await house.post("/api/generate", {"model": "m", "prompt": "p: ", "raw": True})
    assert "".join(part["response"] for part in objects(answer)) == "ba da x"
    assert house.b.bodies[1]["prompt"] == "p: ba da"


async def test_who_does_not_want_continuations_gets_an_error(make_house) -> None:  # type: ignore[no-untyped-def]
    house = await make_house(continue_text=False)
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams(chat_lines(WORDS)[:2], then="break"))
    house.b.will(streams(chat_lines(OTHER)))
    _, answer, _ = await house.post("/api/chat", CHAT)
    assert "was to go on here" in objects(answer)[-1]["error"]


def chat_thoughts(*thoughts: str) -> list[bytes]:
    messages = [{"role": "assistant", "content": "", "thinking": thought} for thought in thoughts]
    return [line(model="m", created_at="t", message=message, done=False) for message in messages]


def thinking_of(body: bytes) -> str:
    return "".join(part["message"].get("thinking", "") for part in objects(body))


async def test_a_thought_that_another_node_words_otherwise_begins_anew_after_it(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams(chat_thoughts("I ", "th"), then="break"))
    house.b.will(streams(chat_thoughts("Hm")), streams([*chat_thoughts("Hm", " so"), *chat_lines(WORDS)]))
    body = {**CHAT, "think": True, "format": "json", "options": {"num_predict": 10}}
    _, answer, _ = await house.post("/api/chat", body)
    parts = objects(answer)
    assert thinking_of(answer) == "I th\n\nHm so"
    assert "".join(part["message"]["content"] for part in parts) == "".join(WORDS)
    # What the node said and the thought of the first, and the prompt as it was.
    assert (parts[-1]["done"], parts[-1]["eval_count"], parts[-1]["prompt_eval_count"]) == (True, 4 + 2, 3)
    assert (
        house.b.bodies[1] == house.b.bodies[0]
    )  # the answer itself is made as a whole: grammars and tools can be kept


async def test_a_chat_that_was_thought_about_goes_on_after_its_text(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams([*chat_thoughts("I ", "think"), *chat_lines(WORDS)[:2]], then="break"))
    house.b.will(streams(chat_thoughts("Hm")), streams(chat_lines([" x", " y"])))
    _, answer, _ = await house.post("/api/chat", {**CHAT, "think": True, "options": {"num_predict": 10}})
    parts = objects(answer)
    assert (thinking_of(answer), "".join(part["message"]["content"] for part in parts)) == ("I think", "ba da x y")
    assert (parts[-1]["eval_count"], parts[-1]["prompt_eval_count"]) == (2 + 4, 0)
    asked = house.b.bodies[1]
    assert asked["messages"][-1] == {"role": "assistant", "thinking": "I think", "content": "ba da"}
    assert (asked["think"], asked["options"]["num_predict"]) == (True, 6)


async def test_a_node_that_thinks_anew_in_the_middle_of_a_text_does_not_go_on_with_it(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams([*chat_thoughts("I "), *chat_lines(WORDS)[:2]], then="break"))
    house.b.will(streams(chat_thoughts("Hm")), streams([*chat_thoughts("Hm"), *chat_lines(WORDS)]))
    _, answer, _ = await house.post("/api/chat", {**CHAT, "think": True})
    assert "it thinks anew instead of going on with its text" in objects(answer)[-1]["error"]


async def test_openai_chats_that_were_thought_about_go_on_after_their_text(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams([chat_chunk("", reasoning="I "), chat_chunk("", reasoning="think"), *completion_events()[:1]]))
    house.b.will(
        streams([chat_chunk("", reasoning="Hm", identity="chatcmpl-2")]),
        streams(completion_events([" x"], identity="chatcmpl-3")),
    )
    _, answer, _ = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
    deltas = [part["choices"][0]["delta"] for part in events(answer)]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "I think"
    assert "".join(delta["content"] for delta in deltas) == "ba x"
    assert house.b.bodies[1]["messages"][-1] == {"role": "assistant", "reasoning": "I think", "content": "ba"}


async def test_openai_chats_that_broke_in_their_thinking_are_thought_about_anew(house: House) -> None:
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams([chat_chunk("", reasoning="I "), chat_chunk("", reasoning="think"), chat_chunk("")]))
    rest = [chat_chunk("", reasoning="Hm", identity="chatcmpl-2"), *completion_events(identity="chatcmpl-2")]
    house.b.will(streams(rest))
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    _, answer, _ = await house.post("/v1/chat/completions", body)
    parts = events(answer)
    deltas = [part["choices"][0]["delta"] for part in parts if part["choices"]]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "I think\n\nHm"
    assert "".join(delta["content"] for delta in deltas) == "".join(TEXT)
    assert {part["id"] for part in parts} == {"chatcmpl-1"}
    assert parts[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": len(TEXT) + 2, "total_tokens": 5 + len(TEXT)}


async def test_a_prompt_that_was_thought_about_goes_on_as_the_chat_that_it_is(house: House) -> None:
    def thought(thinking: str) -> bytes:
        return line(model="m", created_at="t", response="", thinking=thinking, done=False)

    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams([thought("I "), thought("think"), *generate_lines(WORDS)[:2]], then="break"))
    house.b.will(streams([thought("Hm")]), streams(chat_lines([" x"])))
    _, answer, _ = await house.post("/api/generate", {"model": "m", "prompt": "p", "think": True})
    parts = objects(answer)
    assert "".join(part["response"] for part in parts) == "ba da x"
    assert parts[-1]["eval_count"] == 5
    asked = house.b.bodies[1]
    assert asked["messages"][-1] == {"role": "assistant", "thinking": "I think", "content": "ba da"}
    assert asked["think"] is True


async def test_without_continuations_another_thought_is_an_error(make_house) -> None:  # type: ignore[no-untyped-def]
    house = await make_house(continue_text=False)
    house.routes(to("a"), to("b"), to("b"))
    house.a.will(streams(chat_thoughts("I ", "th"), then="break"))
    house.b.will(streams(chat_thoughts("Hm")))
    _, answer, _ = await house.post("/api/chat", CHAT)
    assert "its thinking differs" in objects(answer)[-1]["error"]


@pytest.mark.parametrize(
    ("dialect", "fields", "possible"),
    [
        (Chat(), {}, True),
        (Chat(), {"format": "json"}, False),
        (Chat(), {"think": True}, True),
        (Chat(), {"tools": [{}]}, False),
        (ChatCompletions(), {}, True),
        (ChatCompletions(), {"response_format": {"type": "json_object"}}, False),
        (Generate(), {"prompt": "p", "raw": True}, True),
        (Generate(), {"prompt": "p", "raw": True, "suffix": "s"}, False),
        (Generate(), {"prompt": "p"}, True),
        (Generate(), {"prompt": "p", "suffix": "s"}, False),
        (Generate(), {"prompt": "p", "template": "{{ .Prompt }}"}, False),
        (Generate(), {"prompt": "p", "context": [1]}, False),
        (Completions(), {"prompt": "p"}, True),
        (Completions(), {"prompt": "p", "suffix": "s"}, False),
    ],
)
def test_only_what_can_begin_in_the_middle_is_continued(
    dialect: Dialect, fields: dict[str, Any], possible: bool
) -> None:
    request = dialect.parse(json.dumps({**CHAT, **fields}).encode())
    assert (dialect.continuation(request, 1, "so far", 2) is not None) is possible


def test_an_answer_that_the_client_itself_began_is_continued_in_its_message() -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": "I say: "}]  # type: ignore[misc]
    request = Chat().parse(json.dumps({"model": "m", "messages": messages}).encode())
    continuation = Chat().continuation(request, 1, "so far", 2)
    assert continuation is not None
    asked = json.loads(continuation.body)
    assert asked["messages"][1:] == [{"role": "assistant", "content": "I say: so far"}]


def test_the_counts_of_a_continuation_are_those_of_the_whole() -> None:
    record = Generate().record(generate_end(4))
    assert record is not None
    Generate().count_in(record, Before(2, 2))
    said = json.loads(record.raw)
    assert (said["eval_count"], said["prompt_eval_count"]) == (6, 1)
