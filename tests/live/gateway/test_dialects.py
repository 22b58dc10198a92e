"""The sans-IO parts: however bytes are cut and wherever a stream breaks, the client gets the same text."""

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from live.gateway.call import GenerationCall
from live.gateway.dialect import QUICK_MAX_BYTES, BadRequest, Dialect, parse_object, quick_text
from live.gateway.lines import LineSplitter
from live.gateway.messages import Messages
from live.gateway.native import Chat, Generate, embedding_request
from live.gateway.openai import ChatCompletions, Completions
from live.gateway.responses import Responses
from tests.live.gateway.doubles import chat_chunk, chat_lines, completion_events, generate_lines, line
from tests.live.gateway.event_doubles import message_events, response_events
from tests.live.gateway.test_continuation import text_events

WORDS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8)


def call(dialect: Dialect, body: dict[str, object], *, stream: bool = True) -> GenerationCall:
    parsed = dialect.parse(json.dumps({"model": "m", "stream": stream, **body}).encode())
    made = GenerationCall(dialect, parsed, line_limit_bytes=10_000, answer_limit_bytes=100_000)
    made.begin()
    return made


@given(st.binary(), st.lists(st.integers(0, 200)))
def test_lines_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter(1000)
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    lines = [line for start, end in pairwise(places) for line in splitter.feed(data[start:end])]
    assert b"".join(lines) + splitter.rest() == data
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


@given(WORDS, st.data())
def test_a_native_stream_is_the_same_wherever_it_breaks(words: list[str], data: st.DataObject) -> None:
    generate = call(Generate(), {"prompt": "p"})
    text = "".join(words)
    sent = b""
    for _ in range(data.draw(st.integers(0, 3))):  # broken attempts, each cut otherwise
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=5)))
        pieces = [text[a:b] for a, b in pairwise([0, *(cut for cut in cuts if cut < len(text)), len(text)])]
        stream = b"".join(generate_lines(pieces)[:-1])
        generate.begin()
        sent += generate.feed(stream[: data.draw(st.integers(0, len(stream)))])
    generate.begin()
    sent += generate.feed(b"".join(generate_lines(words)))
    assert generate.complete
    records = [json.loads(line) for line in sent.splitlines()]
    assert "".join(record["response"] for record in records) == text
    assert [record["done"] for record in records] == [False] * (len(records) - 1) + [True]
    assert records[-1]["eval_count"] == len(words)


@pytest.mark.parametrize("each", [b"{}", b"[]", b'"a"', b"1", b'{"\\"{":"}"}'])
def test_a_request_of_more_values_than_can_be_held_is_refused_unread(each: bytes) -> None:
    with pytest.raises(BadRequest, match="more than 1000000 values"):
        parse_object(b'{"x":[' + b",".join([each] * 1_000_010) + b"]}")
    few = 100_000
    assert len(parse_object(b'{"x":[' + b",".join([each] * few) + b"]}")["x"]) == few


@pytest.mark.parametrize("text", ['[{,"\n' * 700_000, '\\"' * 700_000, "x" * 5_000_000])
def test_a_long_text_is_one_value_whatever_stands_in_it(text: str) -> None:
    assert parse_object(json.dumps({"model": "m", "prompt": text}).encode())["prompt"] == text


ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize("zeros", [ZEROS, dict(reversed(ZEROS.items()))])
def test_who_did_not_ask_for_the_usage_of_completions_gets_none(zeros: dict[str, int]) -> None:
    """Ollama says one of zeros in every chunk where it is asked for."""
    plain = [each for each in text_events(["ba", ' "usage": ', "da"]) if b'"choices":[]' not in each]
    said = text_events(["ba", ' "usage": ', "da"])
    with_zeros = [
        each[:-3] + b',"usage":' + json.dumps(zeros, separators=(",", ":")).encode() + b"}\n\n"
        if b'"choices":[{' in each
        else each
        for each in said
    ]
    for more, expected in (({}, plain), ({"stream_options": {"include_usage": True}}, with_zeros)):
        completions = call(Completions(), {"prompt": "x", **more})
        assert completions.feed(b"".join(with_zeros)) == b"".join(expected)
        assert (completions.complete, completions.tokens) == (True, 3)


@given(WORDS, st.data())
def test_an_openai_stream_is_the_same_wherever_it_breaks(words: list[str], data: st.DataObject) -> None:
    chat = call(ChatCompletions(), {"messages": [{"role": "user", "content": "x"}]})
    sent = b""
    for identity in "abc"[: data.draw(st.integers(0, 3))]:
        stream = b"".join(completion_events(words, identity=identity))
        chat.begin()
        sent += chat.feed(stream[: data.draw(st.integers(0, len(stream) - 20))])
        assert not chat.complete
    chat.begin()
    sent += chat.feed(b"".join(completion_events(words, identity="z")))
    assert chat.complete
    events = sent.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "".join(words)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks].count("stop") == 1


@given(WORDS)
def test_a_whole_answer_has_what_the_stream_had(words: list[str]) -> None:
    chat = call(Chat(), {"messages": [{"role": "user", "content": "x"}]}, stream=False)
    lines = chat_lines(words)
    assert chat.feed(b"".join(lines[:-1])) == b""
    whole = json.loads(chat.feed(lines[-1]))
    assert whole == {**json.loads(lines[-1]), "message": {"role": "assistant", "content": "".join(words)}}


def test_a_last_line_without_its_newline_counts() -> None:
    generate = call(Generate(), {"prompt": "p"})
    stream = b"".join(generate_lines())
    sent = generate.feed(stream[:-1])
    assert not generate.complete
    assert sent + generate.end() == stream
    assert generate.complete


def test_what_comes_after_the_terminal_record_is_not_for_the_client() -> None:
    generate = call(Generate(), {"prompt": "p"})
    stream = b"".join(generate_lines())
    assert generate.feed(stream + b'{"error":"late"}\n') == stream
    assert generate.failure is None


def test_log_probabilities_that_cannot_be_divided_are_a_divergence() -> None:
    def part(text: str) -> bytes:
        return json.dumps({"response": text, "done": False, "logprobs": [{"token": text}]}).encode() + b"\n"

    generate = call(Generate(), {"prompt": "p", "suffix": "s"})
    generate.feed(part("ab"))
    generate.begin()
    assert generate.feed(part("abc")) == b""
    assert generate.failure is not None
    assert generate.failure.error == "diverged"


def test_a_seed_that_ollama_takes_for_none_is_none() -> None:
    parse = Generate().parse
    assert parse(b'{"model":"m","prompt":"p","options":{"seed":0}}').seeded
    assert not parse(b'{"model":"m","prompt":"p","options":{"seed":-1}}').seeded
    assert not ChatCompletions().parse(b'{"model":"m","messages":[{}],"seed":null}').seeded


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [("2048", 2048), ("2048.0", 2048), ("true", 0), ("-1", 0), ('"8"', 0), ("1e300", 0), ("null", 0)],
)
def test_a_context_is_a_number_with_or_without_a_point(asked: str, tokens: int) -> None:
    body = f'{{"model":"m","prompt":"p","options":{{"num_ctx":{asked}}}}}'.encode()
    assert Generate().parse(body).context_tokens == tokens
    assert embedding_request("m", json.loads(body), body).context_tokens == tokens


def test_context_and_prompt_are_known_on_arrival() -> None:
    parsed = Chat().parse(b'{"model":"m","messages":[{"content":"12345"}],"options":{"num_ctx":2048}}')
    assert (parsed.context_tokens, parsed.prompt_tokens, parsed.stream, parsed.generates) == (2048, 2, True, True)
    parts = b'{"model":"m","messages":[{"content":[{"type":"text","text":"1234"},{"type":"image_url"}]}]}'
    assert ChatCompletions().parse(parts).prompt_tokens == 1
    assert not Chat().parse(b'{"model":"m","messages":[]}').generates


ALL: list[tuple[Dialect, Callable[[list[str]], list[bytes]]]] = [
    (Generate(), generate_lines),
    (Chat(), chat_lines),
    (ChatCompletions(), completion_events),
    (Completions(), text_events),
    (Messages(), message_events),
    (Responses(), response_events),
]


@pytest.mark.parametrize(("dialect", "answer"), ALL)
@given(words=WORDS)
def test_what_is_read_quickly_says_the_same_as_with_a_closer_look(
    dialect: Dialect, answer: Callable[[list[str]], list[bytes]], words: list[str]
) -> None:
    for each in b"".join(answer(words)).splitlines(keepends=True):
        quick = quick_text(dialect.quick, each)
        if quick:
            record = dialect.record(each)
            assert record is not None
            assert (record.text, record.thinking, record.tool_calls, record.kind) == (quick, "", [], "part")


@pytest.mark.parametrize(("dialect", "answer"), ALL)
def test_plain_pieces_of_text_are_read_quickly(dialect: Dialect, answer: Callable[[list[str]], list[bytes]]) -> None:
    words = ["ba", ' d"a\n', " \\", " é", " 🦙", "<b>"]
    lines = b"".join(answer(words)).splitlines(keepends=True)
    assert [text for each in lines if (text := quick_text(dialect.quick, each))] == words


@pytest.mark.parametrize(
    ("dialect", "whole"),
    [
        (Generate(), line(model="m", created_at="t", response="x", thinking="y", done=False)),
        (Generate(), line(model="m", created_at="t", response="x", done=False, logprobs=[])),
        (Generate(), line(model="m", created_at="t", response="x", done=True)),
        (Generate(), line(model="m", created_at="t", response="x", done=False)[:-1]),
        (Generate(), line(model="m", created_at="t", response="x" * QUICK_MAX_BYTES, done=False)),
        (Generate(), line(model="m", created_at="t", response="x", done=False).replace(b"x", b"\xff")),
        (Generate(), line(model="m", created_at="t", response="x", done=False).replace(b"x", b"\x01")),
        (Generate(), line(model="m", created_at="t", response="x", done=False).replace(b"x", b"\\ud800")),
        (Chat(), line(model="m", created_at="t", message={"role": "a", "content": "x", "thinking": "y"}, done=False)),
        (Chat(), line(model="m", created_at="t", message={"role": "a", "content": "x", "tool_calls": []}, done=False)),
        (ChatCompletions(), chat_chunk("x", reasoning="y")[:-1]),
        (ChatCompletions(), chat_chunk("x", finish="stop")[:-1]),
    ],
)
def test_what_says_more_gets_a_closer_look(dialect: Dialect, whole: bytes) -> None:
    assert quick_text(dialect.quick, whole) == ""
