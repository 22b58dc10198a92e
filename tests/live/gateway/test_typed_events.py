"""Streams of `/v1/messages` and `/v1/responses` that break go on elsewhere as one stream."""

import json
from typing import Any

import pytest

from live.gateway.messages import Messages
from live.gateway.responses import Responses
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import streams, to
from tests.live.gateway.event_doubles import message_events, response_events, told, typed
from twin.policy.vocabulary import AttemptEnded

MESSAGES: dict[str, Any] = {
    "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}], "stream": True,
}  # fmt: skip
RESPONSES: dict[str, Any] = {"model": "m", "input": "hello", "stream": True, "max_output_tokens": 9}
WORDS = ["ba", " da", " ga", " ka"]


async def test_what_does_not_break_is_passed_on_as_it_came(house: House) -> None:
    house.routes(to("a"), to("a"))
    house.a.will(streams(message_events(WORDS)), streams(response_events(WORDS)))
    assert (await house.post("/v1/messages", MESSAGES))[1] == b"".join(message_events(WORDS))
    assert (await house.post("/v1/responses", RESPONSES))[1] == b"".join(response_events(WORDS))
    assert [(log.outcome, log.tokens_received) for log in house.logs] == [("succeeded", 4), ("succeeded", 4)]


@pytest.mark.parametrize("so_many", [4, 5, 7])
async def test_a_message_goes_on_after_its_text_on_another_node(house: House, so_many: int) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(message_events(WORDS)[:so_many], then="break"))
    house.b.will(streams(message_events([" x", " y"], "msg_2", prompt=10)))
    _, answer, _ = await house.post("/v1/messages", MESSAGES)
    had = "".join(WORDS[: so_many - 2])
    known = len(WORDS[: so_many - 2])
    events = told(answer)
    assert [each["type"] for each in events] == [
        "message_start", "content_block_start", *["content_block_delta"] * (known + 2), "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert "".join(each["delta"]["text"] for each in events if each["type"] == "content_block_delta") == f"{had} x y"
    assert events[-2]["usage"] == {"input_tokens": 10 - known, "output_tokens": known + 2}
    asked = house.b.bodies[0]
    assert asked["messages"] == [*MESSAGES["messages"], {"role": "assistant", "content": had}]
    assert asked["max_tokens"] == 9 - known
    # Without a seed the other node would say something else: nobody is asked to say it all again.
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["reset", ""]
    assert house.logs[0].tokens_received == known + 2


@pytest.mark.parametrize("so_many", [5, 6, 9, 10])
async def test_a_response_goes_on_in_the_numbers_and_names_of_the_first_node(house: House, so_many: int) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(response_events(WORDS)[:so_many], then="break"))
    house.b.will(streams(response_events([" x", " y"], 2, prompt=10)))
    _, answer, _ = await house.post("/v1/responses", RESPONSES)
    known = len(WORDS[: so_many - 4])
    text = "".join(WORDS[:known]) + " x y"
    expected = told(b"".join(response_events([*WORDS[:known], " x", " y"], prompt=10 - known)))
    assert told(answer) == expected
    assert expected[-1]["response"]["output"][0]["content"][0]["text"] == text
    asked = house.b.bodies[0]
    assert asked["input"] == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": text[:-4]}]
    assert asked["max_output_tokens"] == 9 - known


async def test_what_broke_before_its_text_is_begun_again_within_the_frame_that_the_client_has(house: House) -> None:
    house.routes(to("a"), to("b"), to("a"), to("b"))
    house.a.will(streams(message_events(WORDS)[:2], then="break"), streams(response_events(WORDS)[:3], then="break"))
    house.b.will(streams(message_events(WORDS, "msg_2")), streams(response_events(WORDS, 2)))
    events = told((await house.post("/v1/messages", MESSAGES))[1])
    assert events == told(b"".join(message_events(WORDS)))
    assert told((await house.post("/v1/responses", RESPONSES))[1]) == told(b"".join(response_events(WORDS)))


async def test_what_is_the_same_everywhere_is_said_again_and_skipped(house: House) -> None:
    house.routes(to("a"), to("b"), to("a"), to("b"))
    house.a.will(streams(message_events(WORDS)[:4], then="break"), streams(response_events(WORDS)[:6], then="break"))
    house.b.will(streams(message_events(WORDS, "msg_2")), streams(response_events(WORDS, 2)))
    cold = {"temperature": 0}
    assert told((await house.post("/v1/messages", {**MESSAGES, **cold}))[1]) == told(b"".join(message_events(WORDS)))
    events = told((await house.post("/v1/responses", {**RESPONSES, **cold}))[1])
    assert events == told(b"".join(response_events(WORDS)))
    assert [len(body.get("messages", [1])) for body in house.b.bodies] == [1, 1]  # none was asked to continue


def thought(words: list[str], tool: str = "f") -> list[bytes]:
    [start, *_, delta, stop] = message_events(words)
    block = {"type": "tool_use", "id": "call_1", "name": tool, "input": {}}
    return [
        start,
        typed("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        *(typed("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": w}) for w in words),
        typed("content_block_stop", index=0),
        typed("content_block_start", index=1, content_block=block),
        typed("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{}"}),
        typed("content_block_stop", index=1),
        delta,
        stop,
    ]


@pytest.mark.parametrize("so_many", range(1, 10))
async def test_thinking_and_tools_are_skipped_as_far_as_the_client_has_them(house: House, so_many: int) -> None:
    whole = thought(WORDS[:2])
    house.routes(to("a"), to("b"))
    house.a.will(streams(whole[:so_many], then="break"))
    house.b.will(streams([each.replace(b"call_1", b"call_2") for each in whole]))
    body = {**MESSAGES, "temperature": 0, "tools": [{"name": "f"}]}
    answer = (await house.post("/v1/messages", body))[1].replace(b"call_2", b"call_1")
    assert told(answer) == told(b"".join(whole))


async def test_thinking_that_another_node_words_otherwise_ends_with_a_truthful_error(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(thought(WORDS[:2])[:4], then="break"))
    house.b.will(streams(message_events(WORDS)))
    events = told((await house.post("/v1/messages", {**MESSAGES, "thinking": {"type": "enabled"}}))[1])
    assert events[-1]["type"] == "error"
    assert "made of other parts" in events[-1]["error"]["message"]


THOUGHTS = ["hm", " so"]


@pytest.mark.parametrize("so_many", [6, 7, 8])
async def test_a_message_that_was_thought_about_goes_on_in_its_text(house: House, so_many: int) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(message_events(WORDS, thoughts=THOUGHTS)[: so_many + 1], then="break"))
    house.b.will(streams(message_events([" x", " y"], "msg_2", prompt=10)))
    known = so_many - 5
    _, answer, _ = await house.post("/v1/messages", {**MESSAGES, "thinking": {"type": "enabled"}})
    assert told(answer) == told(
        b"".join(message_events([*WORDS[:known], " x", " y"], prompt=10 - known - 2, thoughts=THOUGHTS))
    )
    asked = house.b.bodies[0]
    assert asked["messages"][-1]["content"] == [
        {"type": "thinking", "thinking": "hm so"},
        {"type": "text", "text": "".join(WORDS[:known])},
    ]
    assert (asked["max_tokens"], asked["thinking"]) == (9 - known - 2, {"type": "enabled"})


async def test_a_message_that_broke_in_its_thinking_is_thought_about_anew(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(message_events(WORDS, thoughts=THOUGHTS)[:4], then="break"))
    house.b.will(streams(message_events(["x", " y"], "msg_2", thoughts=["well"])))
    _, answer, _ = await house.post("/v1/messages", MESSAGES)
    assert told(answer) == told(b"".join(message_events(["x", " y"], thoughts=[*THOUGHTS, "\n\nwell"])))
    assert house.b.bodies[0] == house.a.bodies[0]  # nothing of the answer has been said: it is made as a whole


async def test_a_message_whose_thinking_had_ended_without_a_text_cannot_think_again(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(message_events(WORDS, thoughts=THOUGHTS)[:6], then="break"))
    house.b.will(streams(message_events(["x", " y"], "msg_2", thoughts=["well"])))
    events = told((await house.post("/v1/messages", MESSAGES))[1])
    assert "its thinking differs" in events[-1]["error"]["message"]


@pytest.mark.parametrize("so_many", [9, 10, 11])
async def test_a_response_that_was_thought_about_goes_on_in_its_text(house: House, so_many: int) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(response_events(WORDS, thoughts=THOUGHTS)[: so_many + 1], then="break"))
    house.b.will(streams(response_events([" x", " y"], 2, prompt=10)))
    known = so_many - 8
    _, answer, _ = await house.post("/v1/responses", {**RESPONSES, "reasoning": {"effort": "high"}})
    expected = response_events([*WORDS[:known], " x", " y"], prompt=10 - known - 2, thoughts=THOUGHTS)
    assert told(answer) == told(b"".join(expected))
    assert house.b.bodies[0]["input"][1:] == [
        {"type": "reasoning", "summary": [], "encrypted_content": "hm so"},
        {"role": "assistant", "content": "".join(WORDS[:known])},
    ]


async def test_a_response_that_broke_in_its_thinking_is_thought_about_anew(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(response_events(WORDS, thoughts=THOUGHTS)[:5], then="break"))
    house.b.will(streams(response_events(["x", " y"], 2, thoughts=["well"])))
    _, answer, _ = await house.post("/v1/responses", RESPONSES)
    answer = answer.replace(b"msg_2", b"msg_1")  # the client has seen no other name of it
    assert told(answer) == told(b"".join(response_events(["x", " y"], thoughts=[*THOUGHTS, "\n\nwell"])))


@pytest.mark.parametrize(
    ("fields", "possible"),
    [
        ({}, True),
        ({"tools": [{}]}, False),
        ({"thinking": {"type": "enabled"}}, True),
        ({"output_config": {"format": {"type": "json_schema"}}}, False),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "I"}]}]}, False),
    ],
)
def test_only_messages_that_can_begin_in_the_middle_are_continued(fields: dict[str, Any], possible: bool) -> None:
    request = Messages().parse(json.dumps({**MESSAGES, **fields}).encode())
    assert (Messages().continuation(request, 1, "so far", 2) is not None) is possible


@pytest.mark.parametrize(
    ("fields", "possible"),
    [
        ({}, True),
        ({"input": [{"role": "user", "content": "x"}]}, True),
        ({"tools": [{}]}, False),
        ({"reasoning": {"effort": "high"}}, True),
        ({"text": {"format": {"type": "text"}}}, True),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, False),
    ],
)
def test_only_responses_that_can_begin_in_the_middle_are_continued(fields: dict[str, Any], possible: bool) -> None:
    request = Responses().parse(json.dumps({**RESPONSES, **fields}).encode())
    assert (Responses().continuation(request, 1, "so far", 2) is not None) is possible
