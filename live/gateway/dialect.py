"""What an answer is made of, in whichever of the dialects that Ollama speaks. Sans-IO.

A dialect knows one endpoint: how a request asks for a stream, what a line of the answer says, how parts of an answer
become the one object that a client without streaming expects, and what an error looks like.

Every generation is asked of the node as a stream, also for clients that do not stream: a silence is then noticed while
it lasts, and a broken answer is known from its missing terminal record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import orjson

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb; the node's own count comes only with the answer."""

NUMBER_MAX: Final = 10**18
"""No count or duration of a node's is larger: 30 years in nanoseconds."""
TOKENS_MAX: Final = 2**31 - 1

RecordKind: TypeAlias = Literal[
    "part",  # of the answer
    "held",  # to be passed on only when something after it shows that the answer goes on or has ended well
    "terminal",  # the answer is complete
    "error",  # the node gave up
]

JsonObject: TypeAlias = dict[str, Any]


class BadRequest(ValueError):
    """The client's request cannot be understood; the message is for the client."""


class BadRecord(ValueError):
    """The node's line cannot be understood."""


# What is made for every request or record spells out its `__init__`: compiled, it is a native call; a generated one is not.


@dataclass(slots=True, init=False)
class Timings:
    """Ollama's own account of a generation, in seconds; 0 where it gave none."""

    load_duration_s: float
    prompt_eval_duration_s: float
    eval_duration_s: float
    total_duration_s: float
    prompt_eval_count: int

    def __init__(
        self,
        load_duration_s: float = 0.0,
        prompt_eval_duration_s: float = 0.0,
        eval_duration_s: float = 0.0,
        total_duration_s: float = 0.0,
        prompt_eval_count: int = 0,
    ) -> None:
        self.load_duration_s = load_duration_s
        self.prompt_eval_duration_s = prompt_eval_duration_s
        self.eval_duration_s = eval_duration_s
        self.total_duration_s = total_duration_s
        self.prompt_eval_count = prompt_eval_count


NO_TIMINGS = Timings()


@dataclass(slots=True, init=False)
class Record:
    """One record of an answer."""

    kind: RecordKind
    raw: bytes  # as the client gets it where nothing must be changed
    fields: JsonObject
    text: str
    thinking: str
    tool_calls: list[JsonObject]
    closing: bool  # comes when the text is whole, and adds none or its last piece
    finished: bool  # says why the generation ended; without it a terminal record proves nothing
    for_us: bool  # was asked for by the gateway, not by the client
    frame: tuple[str, str] | None  # a place in the stream's frame and what stands there: said once in a stream
    error: str
    tokens: int  # the node's count of what it generated, 0 where it gave none
    timings: Timings | None

    def __init__(
        self,
        kind: RecordKind,
        raw: bytes,
        fields: JsonObject | None = None,
        text: str = "",
        thinking: str = "",
        tool_calls: list[JsonObject] | None = None,
        closing: bool = False,
        finished: bool = False,
        for_us: bool = False,
        frame: tuple[str, str] | None = None,
        error: str = "",
        tokens: int = 0,
        timings: Timings | None = None,
    ) -> None:
        self.kind = kind
        self.raw = raw
        self.fields = {} if fields is None else fields
        self.text = text
        self.thinking = thinking
        self.tool_calls = [] if tool_calls is None else tool_calls
        self.closing = closing
        self.finished = finished
        self.for_us = for_us
        self.frame = frame
        self.error = error
        self.tokens = tokens
        self.timings = timings

    @property
    def empty(self) -> bool:
        """Whether it adds nothing to the answer."""
        return not (self.text or self.thinking or self.tool_calls)


@dataclass(slots=True, init=False)
class ParsedRequest:
    """A client's request, as far as the gateway must understand it."""

    model: str
    stream: bool
    prompt_tokens: int
    context_tokens: int  # num_ctx, 0: the model's own
    generates: bool  # else one object is the whole answer: a load, an unload, a rendered prompt
    tokens_visible: bool  # else the node is silent for a part of the generation, as while it writes a tool call
    seeded: bool
    fields: JsonObject
    body: bytes
    takes_context: bool  # whether a request of this dialect can say num_ctx
    send_context_tokens: int | None  # num_ctx to send, 0: none; None: as the client has it
    repeatable: bool  # whether another node says the same where it is asked with the same seed

    def __init__(
        self,
        model: str,
        stream: bool,
        prompt_tokens: int,
        context_tokens: int,
        generates: bool,
        tokens_visible: bool,
        seeded: bool,
        fields: JsonObject,
        body: bytes,
        takes_context: bool = False,
        send_context_tokens: int | None = None,
        repeatable: bool = True,
    ) -> None:
        self.model = model
        self.stream = stream
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
        self.generates = generates
        self.tokens_visible = tokens_visible
        self.seeded = seeded
        self.fields = fields
        self.body = body
        self.takes_context = takes_context
        self.send_context_tokens = send_context_tokens
        self.repeatable = repeatable

    @property
    def told_context_tokens(self) -> int:
        """The `num_ctx` that the node is told, 0: none."""
        sent = self.send_context_tokens
        return self.context_tokens if sent is None else sent


class Asked:
    """What to ask of a node."""

    __slots__ = ("body", "path", "told")

    def __init__(self, path: str, body: bytes, told: Callable[[bytes], list[bytes]] | None = None) -> None:
        """`path`: perhaps another endpoint's than the client's. `told`: the lines of the dialect for a line of that
        endpoint's; None where the dialect understands them as they are."""
        self.path = path
        self.body = body
        self.told = told


class Before(NamedTuple):
    """What the client had before an answer that goes on after it."""

    tokens: int
    in_prompt: int  # of these tokens, those that the node was given as the beginning of its answer
    parts: int = 0  # of the answer that had ended: the node numbers its own from 0


NOTHING_BEFORE = Before(0, 0)


class SoFar(Protocol):
    """What a streaming client has, over all attempts."""

    @property
    def text(self) -> str:
        """Its text."""

    @property
    def thinking(self) -> str:
        """What the model thought before its text."""

    @property
    def records(self) -> int:
        """How many records that is."""

    @property
    def identity(self) -> JsonObject:
        """The fields that the client knows the answer and its parts by."""


class Aggregate(Protocol):
    """Makes one object of the parts of a stream, as Ollama itself would have."""

    def add(self, record: Record) -> None:
        """Take in the next record."""

    def whole(self) -> bytes:
        """The object, once the terminal record has been added."""


class Dialect(Protocol):
    """One endpoint's language."""

    path: str
    stream_type: str
    """Content type of a stream."""
    record_beginning: bytes
    """What precedes the line of a record that only adds text: the line that names an event."""
    record_ending: bytes
    """What follows the line of a record: the blank line of an event stream."""
    quick: re.Pattern[bytes]
    """A line that plainly adds text, its first group, and nothing else (`quick_line`)."""

    def parse(self, body: bytes) -> ParsedRequest:
        """Understand a request. Raises `BadRequest`."""

    def asked(self, request: ParsedRequest, seed: int | None) -> Asked:
        """What to ask of a node: the same as a stream, with a seed where the client gave none and `seed` is one."""

    def continuation(
        self, request: ParsedRequest, seed: int | None, text: str, tokens: int, thinking: str = ""
    ) -> Asked | None:
        """What to ask of a node so that it goes on after `text` and the `thinking` before it, of so many tokens together;
        None where that cannot be asked."""

    def count_in(self, record: Record, before: Before) -> None:
        """Make the counts and places in the record of an answer that goes on those of the whole."""

    def record(self, line: bytes) -> Record | None:
        """What a line says; None for a line that says nothing. Raises `BadRecord`."""

    def identity(self, record: Record) -> JsonObject:
        """Fields that must be the same in all records that a client sees; the first of each name counts."""

    def rewritten(self, record: Record, so_far: SoFar) -> bytes:
        """The record as its `text`, `thinking` and `tool_calls` are now, as the next one for a client that has so much."""

    def aggregate(self) -> Aggregate | None:
        """A new aggregate; None where only streams are asked of nodes as streams."""

    def error_body(self, status: int, message: str) -> bytes:
        """An error as a whole answer."""

    def error_line(self, message: str) -> bytes:
        """An error within a stream."""


def _loads(data: bytes) -> Any:
    """JSON, fast. What the fast parser refuses (halves of surrogate pairs, nan) may still be to Python's taste."""
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)


VALUES_MAX: Final = 1_000_000
"""Openings of objects and lists, commas and strings of a request. More of them hold everybody up, and fill memory many
times as large as their text; long texts and images are no more than a few."""
_MANY_VALUES = re.compile(rb'(?:[^"\[{,]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{,])){%d}+' % (VALUES_MAX + 1), re.DOTALL)


def has_many_values(body: bytes) -> bool:
    """Whether JSON is not to be parsed, as it would be more than is fit to be held."""
    if len(body) <= VALUES_MAX or sum(body.count(mark) for mark in (b",", b"{", b"[", b'"')) <= VALUES_MAX:
        return False  # not even with what stands in texts
    return _MANY_VALUES.match(body) is not None


def parse_object(body: bytes) -> JsonObject:
    """A request's body. Raises `BadRequest`."""
    if not body.strip():
        raise BadRequest("missing request body")
    if has_many_values(body):
        raise BadRequest(f"the request has more than {VALUES_MAX} values")
    try:
        fields = _loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request's body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadRequest("the request's body is not a JSON object")
    return fields


def parse_model(fields: JsonObject) -> str:
    """The model that a request names. Raises `BadRequest`."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("model is required")
    return model


def parse_switch(fields: JsonObject, name: str, default: bool) -> bool:
    """A field that is true, false or absent. Raises `BadRequest`."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{name} takes true or false")
    return value


def loads_record(line: bytes) -> JsonObject:
    """A node's line as an object. Raises `BadRecord`."""
    try:
        fields = _loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"the node sent what is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadRecord("the node sent JSON that is not an object")
    return fields


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def dumps(value: object) -> bytes:
    """Compact JSON. Escaped where it is not ASCII: half a surrogate pair, which JSON permits, has no UTF-8."""
    return _ENCODER.encode(value).encode()


def dumps_request(fields: JsonObject) -> bytes:
    """A client's request in words of ours. Raises `BadRequest`: a number that is too large is none in JSON."""
    try:
        return dumps(fields)
    except ValueError as error:
        raise BadRequest(f"the request holds a number that JSON cannot say: {error}") from error


def error_text(fields: JsonObject) -> str:
    """What a record, or an answer, says of an error, in whichever dialect."""
    error = fields.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error or fields.get("message") or fields)


def characters(value: object) -> int:
    """Length of the text in a message's content: a string, or a list of parts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(characters(part.get("text")) for part in value if isinstance(part, dict))
    return 0


def continued_messages(fields: JsonObject, text: str, thought: JsonObject | None = None) -> list[Any] | None:
    """The messages of a chat with the answer so far as the assistant's last one, which the node is to go on with.
    `thought`: the field of that message that says what was thought before."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    last, thought = messages[-1], thought or {}
    if last.get("role") != "assistant":
        return [*messages, {"role": "assistant", **thought, "content": text}]
    begun = last.get("content")  # by the client itself
    return [*messages[:-1], {**last, **thought, "content": begun + text}] if isinstance(begun, str) else None


def tokens_left(limit: object, tokens: int) -> int | None:
    """What is left of a limit on tokens, at least one; None where there is no limit."""
    return max(1, limit - tokens) if isinstance(limit, int) and limit > 0 else None


def tokens_of(count: int) -> int:
    """An estimate of the tokens of so many characters."""
    return -(-count // CHARACTERS_PER_TOKEN)


def text_of(fields: JsonObject, name: str) -> str:
    """A field that is text where it is there. Raises `BadRecord`."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecord(f"the node sent a {name} that is no text")
    return value


def objects_of(fields: JsonObject, name: str) -> list[JsonObject]:
    """A field that is a list of objects where it is there. Raises `BadRecord`."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BadRecord(f"the node sent a {name} that is no list of objects")
    return value


def number_of(fields: JsonObject, name: str) -> float:
    """A field that is a number where it is there, else 0. Raises `BadRecord`."""
    value = fields.get(name, 0)
    if type(value) is int:
        count: int = value
        if 0 <= count <= NUMBER_MAX:
            return float(count)
    elif type(value) is float:
        number: float = value
        if 0.0 <= number <= NUMBER_MAX:
            return number
    raise BadRecord(f"the node sent a {name} that is no count")


def count_of(fields: JsonObject, name: str) -> int:
    """A field that is a count of tokens where it is there, else 0. Raises `BadRecord`."""
    count = int(number_of(fields, name))
    return count if count < TOKENS_MAX else TOKENS_MAX


_LINE_BREAKS = re.compile(r"\s+")


def one_line(text: str, limit: int = 500) -> str:
    """Text from outside, fit for a message of ours."""
    text = _LINE_BREAKS.sub(" ", text).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


QUICK_MAX_BYTES = 4096
_QUICK_PARTS: Final = {
    b"s": rb'"[ !#-\[\]-~]*+"',  # a name or time
    b"n": rb"\d++",
    b"text": rb'"([^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+)"',
}


def quick_line(form: bytes) -> re.Pattern[bytes]:
    """The lines of this form, in the order in which Ollama writes the fields: `%(s)b` stands for a string without escapes,
    `%(n)b` for a number and `%(text)b` for the text. Other lines get a closer look, and say the same for more work."""
    return re.compile(form % _QUICK_PARTS)


def quick_text(quick: re.Pattern[bytes], line: bytes) -> str:
    """The text of a line that plainly adds text and nothing else, to be relayed as it is; else empty."""
    found = quick.fullmatch(line) if len(line) <= QUICK_MAX_BYTES else None
    if found is None:
        return ""
    raw = found[1]
    try:
        text: str = orjson.loads(b'"' + raw + b'"') if b"\\" in raw else raw.decode()
    except ValueError:
        return ""
    return text
