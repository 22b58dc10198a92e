"""The life of a request between a client that notices nothing and nodes that fail."""

import asyncio
import io
import json
import math
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from live.gateway.upstream import NodeExchange, Upstream
from tests.live.gateway.conftest import House
from tests.live.gateway.doubles import (
    SHED,
    WAIT,
    WORDS,
    Behaviour,
    StubNode,
    answers,
    chat_chunk,
    chat_lines,
    completion_events,
    event,
    generate_end,
    generate_lines,
    line,
    streams,
    to,
    until,
)
from twin.policy.vocabulary import AttemptEnded, RequestWithdrawn

GENERATE = {"model": "m", "prompt": "twelve chars"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TEXT = "".join(WORDS)


def objects(body: bytes) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(each) for each in body.splitlines()]


def events(body: bytes) -> list[dict]:  # type: ignore[type-arg]
    parts = body.decode().split("\n\n")
    assert parts[-1] == ""
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1] if part != "data: [DONE]"]


async def test_a_stream_is_relayed_byte_for_byte(house: House) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    status, body, headers = await house.post("/api/generate", {**GENERATE, "options": {"seed": 7}})
    assert (status, body) == (200, b"".join(generate_lines()))
    assert headers["Content-Type"] == "application/x-ndjson"
    assert (headers["X-OllamaMax-Node"], headers["X-OllamaMax-Attempts"]) == ("a", "1")
    assert house.a.bodies == [{**GENERATE, "options": {"seed": 7}}]
    assert house.a.hosts == [house.a.address.removeprefix("http://")]


async def test_a_success_is_told_to_the_policy_with_ollamas_timings(house: House) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()))
    await house.post("/api/generate", GENERATE, headers={"X-Request-Id": "mine"})
    [ended] = house.policy.observed
    assert isinstance(ended, AttemptEnded)
    assert (ended.node, ended.outcome, ended.error, ended.tokens) == ("a", "succeeded", "", len(WORDS))
    assert (ended.load_duration_s, ended.total_duration_s) == pytest.approx((0.001, 0.009))
    [log] = house.logs
    assert (log.header_id, log.outcome, log.admitted, log.node, log.attempts) == ("mine", "succeeded", True, "a", 1)
    assert log.arrival_s <= log.dispatched_s <= log.first_token_s <= log.end_s
    [(spec, attempt)] = house.policy.asked
    assert (spec.model, spec.prompt_tokens, spec.stream, attempt) == ("m", 3, True, 0)


async def test_a_stream_without_a_seed_gets_one_that_stays_the_same_on_every_node(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(answers(500, b'{"error": "no"}'))
    house.b.will(streams(generate_lines()))
    await house.post("/api/generate", {**GENERATE, "options": {"num_predict": 6}})
    assert house.a.bodies[0]["options"]["seed"] == house.b.bodies[0]["options"]["seed"] >= 0
    assert house.a.bodies[0]["options"]["num_predict"] == 6


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (answers(500, b'{"error": "llama runner process has terminated"}'), "server_error"),
        (answers(503, b'{"error": "server busy"}'), "overloaded"),
        (streams([], then="break"), "reset"),
        (streams([line(error="unexpected EOF")]), "error_record"),
        (streams([b"<html>garbage</html>\n"]), "error_record"),
        (streams([b"[1, 2]\n"]), "error_record"),
        (streams([b'{"response": 7}\n']), "error_record"),
        (streams([b'{"done": true, "eval_count": 1e999}\n']), "error_record"),
        (streams([b'{"response": "' + b"x" * 5000]), "error_record"),
        (streams([b"[" * 3000 + b"\n"]), "error_record"),
        (streams([b"\n"]), "no_terminal_record"),
        (streams([], then="hang"), "first_token_timeout"),
        (streams([b'{"resp'], then="hang"), "first_token_timeout"),
    ],
)
async def test_what_fails_before_the_first_token_is_tried_elsewhere(make_house, behaviour, error) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(line_limit_bytes=4000)
    house.routes(to("a", first_token_s=0.05 if "timeout" in error else math.inf), to("b"))
    house.a.will(behaviour)
    house.b.will(streams(generate_lines()))
    status, body, headers = await house.post("/api/generate", {**GENERATE, "options": {"seed": 7}})
    assert (status, body) == (200, b"".join(generate_lines()))
    assert (headers["X-OllamaMax-Node"], headers["X-OllamaMax-Attempts"]) == ("b", "2")
    assert [each.error for each in house.policy.of(AttemptEnded)] == [error, ""]
    [log] = house.logs
    assert (log.outcome, log.nodes, [each.error for each in log.failed_attempts]) == ("succeeded", ["a", "b"], [error])


async def test_a_refused_connection_is_told_from_an_answer(house: House) -> None:
    house.routes(to("a"), to("b"))
    await house.a.stop()
    house.b.will(streams(generate_lines()))
    status, _, _ = await house.post("/api/generate", GENERATE)
    assert status == 200
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["refused", ""]


@pytest.mark.parametrize("ending", ["break", "end", "error", "stall"])
async def test_a_broken_stream_goes_on_on_another_node_as_one(house: House, ending: str) -> None:
    house.routes(to("a", stall_s=0.05 if ending == "stall" else math.inf), to("b"))
    first = generate_lines()[:3]
    if ending == "error":
        first.append(line(error="an error was encountered while running the model: unexpected EOF"))
    house.a.will(streams(first, then={"stall": "hang", "error": "end"}.get(ending, ending)))
    house.b.will(streams(generate_lines()))
    status, body, headers = await house.post("/api/generate", GENERATE)
    assert status == 200
    assert body == b"".join(generate_lines())
    assert headers["X-OllamaMax-Node"] == "a"
    errors = {"break": "reset", "end": "no_terminal_record", "error": "error_record", "stall": "stall_timeout"}
    assert [each.error for each in house.policy.of(AttemptEnded)] == [errors[ending], ""]
    assert house.policy.of(AttemptEnded)[0].tokens == 3
    assert not math.isnan(house.policy.of(AttemptEnded)[0].first_token_s)


@pytest.mark.parametrize("nothing", [b"\n", b" "])
async def test_what_says_nothing_is_no_sign_of_life(house: House, nothing: bytes) -> None:
    house.routes(to("a", stall_s=0.1), to("b"))
    house.a.will(streams([generate_lines()[0], *[nothing] * 30], pause_s=0.02))
    house.b.will(streams(generate_lines()))
    _, body, _ = await house.post("/api/generate", GENERATE)
    assert body == b"".join(generate_lines())
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["stall_timeout", ""]


async def test_a_line_that_was_cut_in_the_middle_never_reaches_the_client(house: House) -> None:
    house.routes(to("a"), to("b"))
    lines = generate_lines()
    house.a.will(streams([lines[0], lines[1][:20]], then="break"))
    house.b.will(streams(lines))
    _, body, _ = await house.post("/api/generate", GENERATE)
    assert body == b"".join(lines)


async def test_the_other_node_may_cut_its_text_otherwise(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(generate_lines()[:3], then="break"))
    house.b.will(streams(generate_lines(["ba da", " ga ka", " ma na"])))
    _, body, _ = await house.post("/api/generate", GENERATE)
    records = objects(body)
    assert "".join(record["response"] for record in records) == TEXT
    assert records[-1]["done"] is True
    assert [record["done"] for record in records].count(True) == 1


async def test_thinking_is_continued_like_text(house: House) -> None:
    def thought(thinking: str, content: str = "", **more: object) -> bytes:
        message = {"role": "assistant", "content": content}
        if thinking:
            message["thinking"] = thinking
        return line(model="m", message=message, done=False, **more)

    house.routes(to("a"), to("b"))
    end = chat_lines()[-1]
    whole = [thought("I "), thought("think"), thought("", "so"), thought("", " it is"), end]
    house.a.will(streams(whole[:2], then="break"))
    house.b.will(streams([thought("I think"), *whole[2:]]))
    _, body, _ = await house.post("/api/chat", CHAT)
    assert body == b"".join(whole)


async def test_a_tool_call_is_recognised_without_its_random_id(house: House) -> None:
    def call(identity: str, name: str) -> bytes:
        tool = {"id": identity, "function": {"index": 0, "name": name, "arguments": {"x": 1}}}
        return line(model="m", message={"role": "assistant", "content": "", "tool_calls": [tool]}, done=False)

    house.routes(to("a"), to("b"))
    end = chat_lines()[-1]
    house.a.will(streams([call("call_1", "look")], then="break"))
    house.b.will(streams([call("call_2", "look"), call("call_3", "find"), end]))
    _, body, _ = await house.post("/api/chat", {**CHAT, "tools": [{"type": "function"}]})
    calls = [record["message"].get("tool_calls", [{}])[0].get("id") for record in objects(body)]
    assert calls == ["call_1", "call_3", None]


@pytest.mark.parametrize(
    "other",
    [
        generate_lines(["ba", " da", " XX", " ka"]),
        generate_lines(["ba"]),
    ],
    ids=["says something else", "ends earlier"],
)
async def test_another_text_is_no_continuation_and_is_said_so(house: House, other: list[bytes]) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(generate_lines()[:3], then="break"))
    house.b.will(streams(other))
    status, body, _ = await house.post("/api/generate", {**GENERATE, "template": "{{ .Prompt }}"})
    assert status == 200
    assert body.startswith(b"".join(generate_lines()[:3]))
    [error] = objects(body)[3:]
    assert "was to go on here" in error["error"]
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["reset", "diverged"]
    assert house.logs[0].outcome == "failed"


async def test_a_stream_may_move_twice(house: House) -> None:
    house.routes(to("a"), to("b"), to("a"))
    house.a.will(streams(generate_lines()[:2], then="break"), streams(generate_lines()))
    house.b.will(streams(generate_lines()[:4], then="break"))
    _, body, _ = await house.post("/api/generate", GENERATE)
    assert body == b"".join(generate_lines())


async def test_when_nobody_can_go_on_the_stream_ends_with_an_error_line(house: House) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()[:2], then="break"))
    status, body, _ = await house.post("/api/generate", GENERATE)
    assert status == 200
    assert "after 1 attempts: a: reset" in objects(body)[-1]["error"]


async def test_openai_streams_go_on_with_the_id_that_the_client_knows(house: House) -> None:
    house.routes(to("a"), to("b"))
    # As Ollama ends a broken stream there: an empty delta, no [DONE].
    house.a.will(streams([*completion_events()[:3], chat_chunk("")]))
    house.b.will(streams(completion_events(identity="chatcmpl-2")))
    status, body, headers = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert body.endswith(b"data: [DONE]\n\n")
    chunks = events(body)
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-1"}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * len(WORDS) + ["stop"]
    assert house.policy.of(AttemptEnded)[0].error == "no_terminal_record"
    assert house.a.bodies[0]["stream_options"] == {"include_usage": True}
    assert house.a.bodies[0]["seed"] == house.b.bodies[0]["seed"]


async def test_openai_usage_is_for_who_asked_for_it(house: House) -> None:
    house.routes(to("a"), to("a"))
    house.a.will(streams(completion_events()))
    _, without, _ = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert without == b"".join(completion_events(usage=False))
    wanted = {**CHAT, "stream": True, "seed": 1, "stream_options": {"include_usage": True}}
    _, with_usage, _ = await house.post("/v1/chat/completions", wanted)
    assert with_usage == b"".join(completion_events())
    assert house.a.bodies[1] == wanted
    assert [each.tokens for each in house.policy.of(AttemptEnded)] == [len(WORDS)] * 2


@pytest.mark.parametrize(
    "parts",
    [
        completion_events()[:-1],
        [*completion_events()[:3], b"data: [DONE]\n\n"],
        [*completion_events()[:3], event(error={"message": "broke", "type": "api_error"})],
    ],
    ids=["no [DONE]", "no finish reason", "error event"],
)
async def test_openai_streams_need_finish_reason_and_done(house: House, parts: list[bytes]) -> None:
    house.routes(to("a"))
    house.a.will(streams(parts))
    _, body, _ = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert b"[DONE]" not in body
    assert b'"finish_reason": "stop"' not in body
    assert events(body)[-1]["error"]["type"] == "api_error"


async def test_a_client_without_streaming_gets_one_object(house: House) -> None:
    house.routes(*[to("a")] * 3)
    house.a.will(streams(generate_lines()), streams(chat_lines()), streams(completion_events()))
    status, body, headers = await house.post("/api/generate", {**GENERATE, "stream": False})
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert json.loads(body) == {**json.loads(generate_end(len(WORDS))), "response": TEXT}
    _, body, _ = await house.post("/api/chat", {**CHAT, "stream": False})
    assert json.loads(body)["message"] == {"role": "assistant", "content": TEXT}
    assert json.loads(body)["done"] is True
    _, body, _ = await house.post("/v1/chat/completions", CHAT)
    whole = json.loads(body)
    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    ]
    assert whole["usage"]["completion_tokens"] == len(WORDS)
    assert all(body["stream"] is True for body in house.a.bodies)
    assert not any("seed" in body or "seed" in body.get("options", {}) for body in house.a.bodies)


async def test_thinking_tools_and_log_probabilities_are_merged(house: House) -> None:
    tool = {"id": "call_1", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chunks = [
        chat_chunk("", reasoning="hm"),
        chat_chunk("", reasoning="m"),
        chat_chunk("x"),
        chat_chunk("", tool_calls=[tool]),
        chat_chunk("", finish="tool_calls"),
        b"data: [DONE]\n\n",
    ]
    native = [
        line(message={"role": "assistant", "content": "", "thinking": "hm"}, logprobs=[{"token": "h"}], done=False),
        line(message={"role": "assistant", "content": "", "tool_calls": [tool]}, done=False),
        line(message={"role": "assistant", "content": "x"}, logprobs=[{"token": "x"}], done=True, done_reason="stop"),
    ]
    house.routes(to("a"), to("a"))
    house.a.will(streams(chunks), streams(native))
    _, body, _ = await house.post("/v1/chat/completions", CHAT)
    [choice] = json.loads(body)["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "x", "reasoning": "hmm", "tool_calls": [tool]},
        "finish_reason": "tool_calls",
    }
    _, body, _ = await house.post("/api/chat", {**CHAT, "stream": False})
    whole = json.loads(body)
    assert whole["message"] == {"role": "assistant", "content": "x", "thinking": "hm", "tool_calls": [tool]}
    assert whole["logprobs"] == [{"token": "h"}, {"token": "x"}]


async def test_a_client_without_streaming_does_not_see_a_break(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(generate_lines()[:3], then="break"))
    house.b.will(streams(generate_lines(["quite", " another"])))
    status, body, headers = await house.post("/api/generate", {**GENERATE, "stream": False})
    assert status == 200
    assert json.loads(body)["response"] == "quite another"
    assert headers["X-OllamaMax-Node"] == "b"


async def test_the_nodes_own_refusal_is_relayed_as_it_is(house: House) -> None:
    house.routes(to("a"))
    refusal = b'{"error":"\\"m\\" does not support thinking"}'
    house.a.will(answers(400, refusal))
    status, body, _ = await house.post("/api/generate", GENERATE)
    assert (status, body) == (400, refusal)
    assert house.policy.of(AttemptEnded)[0].error == "client_error"
    assert house.logs[0].outcome == "failed"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('option "temperature" must be of type float32', "client_error"),
        ('option "num_gpu" must be of type integer', "client_error"),
        ("invalid JSON schema in format", "client_error"),
        ("template: :1: unclosed action", "client_error"),
        ("something that nobody has seen yet", "client_error"),
        ("llama runner process has terminated: exit status 2", "server_error"),
        ("unable to load model: /models/blobs/sha256-1", "server_error"),
        ("cudaMalloc failed: out of memory", "server_error"),
        ("unexpected EOF", "server_error"),
    ],
)
async def test_a_clients_mistake_that_ollama_answers_with_500_is_told_as_it_is_and_held_against_nobody(
    house: House, said: str, error: str
) -> None:
    house.routes(to("a"))
    refusal = json.dumps({"error": said}).encode()
    house.a.will(answers(500, refusal))
    status, body, _ = await house.post("/api/generate", GENERATE)
    assert (status, body == refusal) == ((500, True) if error == "client_error" else (502, False))
    assert house.policy.of(AttemptEnded)[0].error == error


@pytest.mark.parametrize("body", [b"", b"<html>Internal Server Error</html>", b'{"no": 1}', b"[1]"])
async def test_a_500_that_does_not_say_what_is_wrong_is_the_nodes(house: House, body: bytes) -> None:
    house.routes(to("a"))
    house.a.will(answers(500, body))
    status, _, _ = await house.post("/api/generate", GENERATE)
    assert (status, house.policy.of(AttemptEnded)[0].error) == (502, "server_error")


async def test_a_refusal_may_be_tried_elsewhere_if_the_policy_wants(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(answers(400, b'{"error":"\\"m\\" does not support generate"}'))
    house.b.will(streams(generate_lines()))
    status, _, _ = await house.post("/api/generate", GENERATE)
    assert status == 200


async def test_shed_before_admission_says_when_to_come_again(house: House) -> None:
    house.routes(SHED, SHED)
    status, body, headers = await house.post("/api/generate", GENERATE)
    assert (status, headers["Retry-After"]) == (503, "2")
    assert "nobody is left" in json.loads(body)["error"]
    status, body, _ = await house.post("/v1/chat/completions", CHAT)
    assert (status, json.loads(body)["error"]["type"]) == (503, "api_error")
    assert [(log.admitted, log.outcome, log.error) for log in house.logs] == [(False, "rejected", SHED.reason)] * 2


@pytest.mark.parametrize(
    ("behaviour", "route", "status"),
    [
        (answers(500, b'{"error": "llama runner process has terminated"}'), to("a"), 502),
        (answers(503, b'{"error": "busy"}'), to("a"), 503),
        (streams([], then="hang"), to("a", first_token_s=0.03), 504),
    ],
)
async def test_a_final_failure_has_an_honest_status(house: House, behaviour, route, status) -> None:  # type: ignore[no-untyped-def]
    house.routes(route)
    house.a.will(behaviour)
    got, body, _ = await house.post("/api/generate", GENERATE)
    assert got == status
    assert "after 1 attempts: a:" in json.loads(body)["error"]


async def test_the_requests_own_deadline_holds_over_all(house: House) -> None:
    house.routes(to("a"), to("a"))
    house.a.will(streams([], then="hang"), streams(generate_lines()[:1], then="hang"))
    status, body, _ = await house.post("/api/generate", GENERATE, headers={"X-Request-Timeout": "0.05"})
    assert (status, "deadline" in json.loads(body)["error"]) == (504, True)
    status, body, _ = await house.post("/api/generate", GENERATE, headers={"X-Request-Timeout": "0.05"})
    assert (status, "deadline" in objects(body)[-1]["error"]) == (200, True)
    assert [each.error for each in house.policy.of(AttemptEnded)] == ["deadline", "deadline"]
    assert len(house.policy.of(RequestWithdrawn)) == 2
    assert [log.outcome for log in house.logs] == ["deadline", "deadline"]


async def test_a_deadline_that_passes_while_waiting_withdraws_the_request(house: House) -> None:
    house.routes(WAIT)
    status, _, _ = await house.post("/api/generate", GENERATE, headers={"X-Request-Timeout": "0.03"})
    assert status == 504
    assert house.policy.observed == [RequestWithdrawn(house.policy.asked[0][0].request_id)]
    assert (house.logs[0].admitted, house.logs[0].outcome) == (True, "deadline")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "1e9"])
async def test_a_timeout_that_makes_no_sense_is_refused(house: House, value: str) -> None:
    status, body, _ = await house.post("/api/generate", GENERATE, headers={"X-Request-Timeout": value})
    assert (status, "X-Request-Timeout" in json.loads(body)["error"]) == (400, True)


@pytest.mark.parametrize("sent", [0, 2])
async def test_a_client_that_goes_away_cancels_the_node(house: House, sent: int) -> None:
    house.routes(to("a"))
    house.a.will(streams(generate_lines()[:sent], then="hang"))
    posting = asyncio.create_task(house.post("/api/generate", GENERATE))
    await house.a.hanging.wait()
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    await until(lambda: house.logs and house.a.cancelled)
    [ended] = house.policy.observed
    assert (ended.outcome, ended.error) == ("cancelled", "")
    assert house.logs[0].outcome == "cancelled"


async def test_an_abort_moves_the_requests_of_a_node(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(streams(generate_lines()[:2], then="hang"))
    house.b.will(streams(generate_lines()))
    posting = asyncio.create_task(house.post("/api/generate", GENERATE))
    await house.a.hanging.wait()
    assert house.gateway.abort("a") == 1
    _, body, _ = await posting
    assert body == b"".join(generate_lines())
    assert house.policy.of(AttemptEnded)[0].error == "aborted"
    assert house.gateway.abort("a") == 0


async def test_silence_is_no_sign_while_a_tool_call_may_be_written(house: House) -> None:
    house.routes(to("a", first_token_s=0.02, stall_s=0.02))
    house.a.will(streams(chat_lines(), pause_s=0.05))
    status, body, _ = await house.post("/api/chat", {**CHAT, "tools": [{"type": "function"}]})
    assert (status, body) == (200, b"".join(chat_lines()))


async def test_a_slow_reader_is_not_taken_for_a_slow_node(house: House) -> None:
    house.routes(to("a", stall_s=0.1))
    words = ["x" * 200_000] * 40
    house.a.will(streams(generate_lines(words)))
    async with house.http.post(house.url + "/api/generate", json=GENERATE) as response:
        await asyncio.sleep(0.3)
        body = await response.read()
    assert body == b"".join(generate_lines(words))


async def test_a_client_that_does_not_read_holds_its_node_until_its_deadline_only(house: House) -> None:
    house.routes(to("a", stall_s=0.05))
    house.a.will(streams(generate_lines(["x" * 200_000] * 100)))
    headers = {"X-Request-Timeout": "0.2"}
    async with house.http.post(house.url + "/api/generate", json=GENERATE, headers=headers) as response:
        await until(lambda: house.policy.observed)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()  # the connection is closed: there is no room for a word
    await until(lambda: house.logs)
    assert house.logs[0].outcome == "deadline"
    assert house.policy.of(AttemptEnded)[0].error == "deadline"


async def test_large_requests_and_answers_go_through(house: House) -> None:
    house.routes(to("a"), to("b"))
    house.a.will(answers(500, b"{}"))
    large = json.dumps({"model": "m", "input": "x" * 5_000_000}).encode()
    house.b.will(streams([large]))
    async with house.http.post(house.url + "/api/embed", data=io.BytesIO(large)) as response:
        assert (response.status, await response.read()) == (200, large)
    assert house.b.bodies[0] == json.loads(large)


async def test_the_policy_keeps_a_request_until_its_turn(house: House) -> None:
    house.routes(WAIT, to("b"))
    house.a.will(streams(generate_lines()))
    house.b.will(streams(generate_lines()))
    first = asyncio.create_task(house.post("/api/generate", GENERATE))
    await until(lambda: house.policy.asked)
    house.policy.turns.append((house.policy.asked[0][0].request_id, to("a")))
    await house.post("/api/generate", GENERATE)  # its end gives the other its turn
    status, _, headers = await first
    assert (status, headers["X-OllamaMax-Node"]) == (200, "a")


async def test_a_client_that_goes_while_it_waits_gives_its_turn_up(house: House) -> None:
    house.routes(WAIT)
    posting = asyncio.create_task(house.post("/api/generate", GENERATE))
    await until(lambda: house.policy.asked)
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    await until(lambda: house.logs)
    assert house.policy.observed == [RequestWithdrawn(house.policy.asked[0][0].request_id)]
    assert (house.logs[0].admitted, house.logs[0].outcome) == (True, "cancelled")


async def test_an_error_of_ours_costs_its_request_and_no_other(house: House) -> None:
    class Broken:
        def send(self, *_arguments: object) -> NodeExchange:
            raise RuntimeError("a bug")

    house.routes(to("a"), to("a"), to("a"))
    house.a.will(streams(generate_lines()))
    upstream, house.gateway._relay.upstream = house.gateway._relay.upstream, cast(Upstream, Broken())
    status, body, _ = await house.post("/api/generate", GENERATE)
    assert (status, body) == (500, b'{"error":"an error of the gateway"}')
    status, body, _ = await house.post("/v1/chat/completions", CHAT)
    assert (status, json.loads(body)["error"]["message"]) == (500, "an error of the gateway")
    house.gateway._relay.upstream = upstream
    assert (await house.post("/api/generate", GENERATE))[0] == 200
    assert [(log.outcome, log.error) for log in house.logs] == [("failed", "internal_error")] * 2 + [("succeeded", "")]
    assert [ended.outcome for ended in house.policy.observed] == ["cancelled", "cancelled", "succeeded"]


async def test_loads_go_through_as_they_are(house: House) -> None:
    house.routes(to("a"), to("a"))
    loaded = b'{"model":"m","response":"","done":true,"done_reason":"load"}'
    house.a.will(answers(200, loaded))
    for order in ({"model": "m"}, {"model": "m:latest", "prompt": "", "keep_alive": 60}):
        status, body, headers = await house.post("/api/generate", order)
        assert (status, body, headers["Content-Type"]) == (200, loaded, "application/json")
    assert house.a.bodies == [{"model": "m"}, {"model": "m:latest", "prompt": "", "keep_alive": 60}]
    assert [spec.model for spec, _ in house.policy.asked] == ["m", "m"]


def loaded_or(told: bytes, *names: str, status: int = 200) -> Behaviour:
    """A node that has these models loaded, and says this to an unload."""

    async def behave(_node: StubNode, request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        if request.path == "/api/ps":
            return web.json_response({"models": [{"name": name} for name in names]})
        if request.path == "/api/tags":
            return web.json_response({"models": [{"name": "m:latest"}]})
        return web.Response(status=status, body=told, content_type="application/json")

    return behave


UNLOADED = b'{"model":"m","response":"","done":true,"done_reason":"unload"}'


@pytest.mark.parametrize("kept", [0, 0.0, "0", "0s", "-0m", "0h0.0s"])
async def test_an_unload_goes_to_every_node_that_has_the_model_loaded(make_house: Any, kept: object) -> None:
    house: House = await make_house(names=("a", "b", "c"))
    for node, names in ((house.a, ["m:latest"]), (house.b, ["other"]), (house.nodes["c"], ["other", "m:latest"])):
        node.will(loaded_or(UNLOADED, *names))
    order = {"model": "M", "prompt": "", "keep_alive": kept}
    status, body, headers = await house.post("/api/generate", order, headers={"X-Request-Id": "7"})
    assert (status, body) == (200, UNLOADED)
    assert (headers["X-OllamaMax-Nodes"], headers["X-Request-Id"]) == ("a,c", "7")
    assert [[each for each in node.bodies if each] for node in house.nodes.values()] == [[order], [], [order]]
    assert not house.policy.asked


async def test_an_unload_that_fails_somewhere_is_not_called_done(house: House) -> None:
    house.a.will(loaded_or(UNLOADED, "m:latest"))
    house.b.will(loaded_or(b'{"error":"it does not"}', "m:latest", status=500))
    status, body, _ = await house.post("/api/chat", {"model": "m", "messages": [], "keep_alive": 0})
    assert (status, json.loads(body)["error"]) == (500, "done on 1 of 2 nodes; b: it does not")


@pytest.mark.parametrize("kept", [-1, 1, "5m", "-1s", "", "0x", None, False, "1s0s"])
async def test_what_is_to_be_kept_is_not_let_go(house: House, kept: object) -> None:
    house.routes(to("a"))
    for node in (house.a, house.b):
        node.will(loaded_or(b'{"done_reason":"load"}', "m:latest"))
    assert (await house.post("/api/generate", {"model": "m", "keep_alive": kept}))[0] == 200
    assert len([each for node in (house.a, house.b) for each in node.bodies if each]) == 1
    assert len(house.policy.asked) == 1


async def test_a_gateway_that_stops_lets_streams_end(make_house) -> None:  # type: ignore[no-untyped-def]
    house: House = await make_house(shutdown_grace_s=5.0)
    house.routes(to("a"))
    house.a.will(streams(generate_lines(), pause_s=0.01))
    posting = asyncio.create_task(house.post("/api/generate", GENERATE))
    await until(lambda: house.a.bodies)
    await house.gateway.stop()
    _, body, _ = await posting
    assert body == b"".join(generate_lines())
    with pytest.raises(aiohttp.ClientConnectorError):
        await house.post("/api/generate", GENERATE)
