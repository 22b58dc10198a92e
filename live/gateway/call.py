"""What the relay carries: a client's request, and how the bytes of a node's answer become those for the client."""

from __future__ import annotations

import random
from typing import Final, Protocol

from live.gateway.dialect import (
    NO_TIMINGS,
    NOTHING_BEFORE,
    Aggregate,
    Asked,
    BadRecord,
    BadRequest,
    Before,
    Dialect,
    ParsedRequest,
    Record,
    Timings,
    error_text,
    loads_record,
    one_line,
    quick_text,
)
from live.gateway.lines import LineSplitter, LineTooLong
from live.gateway.openai import ChatCompletions, wants_usage
from live.gateway.plain_endpoints import ErrorForms
from live.gateway.transcript import Diverged, Transcript
from live.gateway.upstream import AttemptFailed
from twin.policy.vocabulary import CANNOT_SAY

JSON_TYPE: Final = "application/json"
PARSED_MAX_BYTES = 64 << 10
"""A longer answer that is passed on whole is looked at from its two ends alone: to parse it would hold everybody up."""
WHOLE_TYPE = "application/json; charset=utf-8"
SEED_BITS = 31


class Call(Protocol):
    """One client's request, over all its attempts. The relay feeds it the bytes of each attempt's answer."""

    path: str
    body: bytes
    """What the node is asked."""
    model: str
    prompt_tokens: int
    context_tokens: int
    client_streams: bool
    limits_first_token: bool
    """Whether a silence before the first record means that the node makes no progress."""
    limits_silence: bool
    """The same of a silence after it."""
    resumable: bool
    """Whether another node can go on after the client has been sent something."""
    content_type: str
    """Of the answer to the client."""
    request_type: str
    """Content type of the body."""
    is_unload: bool
    """Whether it asks for nothing but that the model be let go."""
    notes: dict[str, str]
    """Headers of the answer that say what was noticed."""
    records: int
    """Records of this attempt so far."""
    tokens: int
    tokens_before: int
    """That the client had before this attempt, where it goes on after them."""
    timings: Timings
    complete: bool
    """The terminal record was seen: the attempt has succeeded."""
    failure: AttemptFailed | None
    """Why the attempt has failed, once it has; what `feed` returned before it is still to be sent."""

    @property
    def sent_context_tokens(self) -> int:
        """The `num_ctx` that a node is told where `ask_with` says nothing else; 0: none; or `CANNOT_SAY`."""

    def ask_with(self, context_tokens: int) -> None:
        """Put it as a node wants it that has the model loaded with that `num_ctx`; 0: with its own. What the client asks for
        goes before that."""

    def begin(self) -> None:
        """A new attempt's answer is about to come."""

    def headers(self, content_type: str) -> None:
        """Its headers have come, with status 200."""

    def feed(self, data: bytes) -> bytes:
        """What is to be sent to the client after this data."""

    def end(self) -> bytes:
        """The same after the end of the answer: then the attempt is complete, or has failed."""

    def refusal(self, status: int, body: bytes) -> bytes:
        """A node's own words for its error, as those of the request's dialect."""

    def error_body(self, status: int, message: str) -> bytes:
        """An error as a whole answer."""

    def error_line(self, message: str) -> bytes:
        """An error within a stream."""


class GenerationCall:
    """A generation: always asked of the node as a stream, and relayed or made whole, as the client wants it."""

    resumable = True
    tokens_before = 0
    request_type = JSON_TYPE
    is_unload = False

    def __init__(
        self,
        dialect: Dialect,
        request: ParsedRequest,
        *,
        line_limit_bytes: int,
        answer_limit_bytes: int,
        may_continue: bool = True,
    ) -> None:
        self.model = request.model
        self.notes: dict[str, str] = {}
        self.prompt_tokens = request.prompt_tokens
        self.context_tokens = request.context_tokens
        self.client_streams = request.stream
        self.limits_first_token = self.limits_silence = request.tokens_visible
        self.content_type = dialect.stream_type if request.stream else WHOLE_TYPE
        # Only a stream of which the client has a part must be the same on another node.
        seed = random.getrandbits(SEED_BITS) if request.stream else None
        try:
            self._ask(dialect.asked(request, seed))
        except ValueError as error:
            raise BadRequest(f"the request holds a number that JSON cannot say: {error}") from error
        self._dialect = dialect
        self._request = request
        self._own_send_context = request.send_context_tokens
        self._seed = seed
        self._may_continue = may_continue
        self._continuing = False  # what nodes say comes after what the client has, and is no more compared with it
        self._before = NOTHING_BEFORE
        self._usage_is_ours = isinstance(dialect, ChatCompletions) and not wants_usage(request)
        self._line_limit_bytes = line_limit_bytes
        self._answer_limit_bytes = answer_limit_bytes
        self._transcript = Transcript(dialect)

    @property
    def sent_context_tokens(self) -> int:
        """The `num_ctx` that a node is told where `ask_with` says nothing else; 0: none; or `CANNOT_SAY`."""
        return self._request.told_context_tokens if self._request.takes_context else CANNOT_SAY

    def ask_with(self, context_tokens: int) -> None:
        """Put it as a node wants it that has the model loaded with that context, where that is not its own (0): another
        `num_ctx` would have it load the model anew. A dialect that has no `num_ctx` cannot say so."""
        asked = self.context_tokens if self._request.takes_context else 1
        wanted = context_tokens if context_tokens and not asked else self._own_send_context
        if wanted == self._request.send_context_tokens:
            return
        self._request.send_context_tokens = wanted
        put = self._continuation() if self._continuing else self._dialect.asked(self._request, self._seed)
        if put is not None:
            self._ask(put)

    def begin(self) -> None:
        """A new attempt."""
        self.records = 0
        self.tokens = 0
        self.timings = NO_TIMINGS
        self.complete = False
        self.failure: AttemptFailed | None = None
        self._received_bytes = 0
        self._finished = False
        self._quick = False
        self._held: list[Record] = []
        self._lines = LineSplitter(self._line_limit_bytes)
        self._aggregate: Aggregate | None = None if self.client_streams else self._dialect.aggregate()
        transcript = self._transcript
        if not self._request.repeatable and not self._continuing:
            self._go_on_after_what_was_said()
        if self._continuing:
            tokens = self.tokens_before = transcript.tokens
            after_text = bool(transcript.text)
            self._before = Before(tokens, tokens if after_text else 0, int(after_text and bool(transcript.thinking)))
            continuation = self._continuation()
            if continuation is not None:
                self._ask(continuation)
        transcript.restart()

    def headers(self, content_type: str) -> None:
        """Its type does not matter: every line must make sense by itself."""

    def feed(self, data: bytes) -> bytes:
        """Relay the lines that are whole with this data."""
        self._received_bytes += len(data)
        if self._received_bytes > self._answer_limit_bytes:
            self.failure = AttemptFailed("error_record", f"an answer of more than {self._answer_limit_bytes} bytes")
            return b""
        try:
            lines = self._lines.feed(data)
        except LineTooLong as error:
            self.failure = AttemptFailed("error_record", str(error))
            return b""
        return self._relay(lines)

    def _ask(self, asked: Asked) -> None:
        self.path, self.body, self._told = asked.path, asked.body, asked.told

    def end(self) -> bytes:
        """The end of the stream, which must have come after its terminal record."""
        rest = self._lines.rest()
        self._quick = False  # it lacks its newline
        sent = self._relay([rest]) if rest.strip() else b""
        if not self.complete and self.failure is None:
            self.failure = AttemptFailed("no_terminal_record", "the stream ended without its terminal record")
        return sent

    def refusal(self, status: int, body: bytes) -> bytes:
        """Said in another dialect where another endpoint was asked."""
        if self.path == self._dialect.path:
            return body
        try:
            said = error_text(loads_record(body))
        except BadRecord:
            said = body.decode(errors="replace")
        return self.error_body(status, one_line(said))

    def error_body(self, status: int, message: str) -> bytes:
        """An error in the request's dialect."""
        return self._dialect.error_body(status, message)

    def error_line(self, message: str) -> bytes:
        """The same within a stream."""
        return self._dialect.error_line(message)

    def _relay(self, lines: list[bytes]) -> bytes:
        if self._told is not None:
            try:
                lines = [told for line in lines for told in self._told(line)]
            except ValueError as error:
                self.failure = AttemptFailed("error_record", one_line(str(error)))
                return b""
        sent: list[bytes] = []
        quick, beginning, ending = self._dialect.quick, self._dialect.record_beginning, self._dialect.record_ending
        for line in lines:
            if self._quick and not self._held:
                if line == b"\n":
                    continue
                text = quick_text(quick, line)
                if text:
                    self._transcript.passed_on(text)
                    sent.append(beginning + line + ending if ending else line)
                    self.records += 1
                    self.tokens += 1
                    continue
            try:
                record = self._dialect.record(line)
                if record is not None:
                    self._take(record, sent)
            except Diverged as diverged:
                self.failure = self._diverged(diverged)
            except ValueError as error:  # a record that says nonsense, or a number that JSON cannot say
                self.failure = AttemptFailed("error_record", one_line(str(error)))
            if self.complete or self.failure is not None:
                break  # nothing after it counts
        return sent[0] if len(sent) == 1 else b"".join(sent)

    def _continuation(self) -> Asked | None:
        """What to ask of a node so that what it says can come after what the client has.

        Of thinking alone that is the whole request: no field of a request makes every model go on with a thought, and
        nothing of the answer has been said yet that another could contradict.
        """
        transcript = self._transcript
        if not transcript.text:
            return self._dialect.asked(self._request, self._seed)
        return self._dialect.continuation(
            self._request, self._seed, transcript.text, transcript.tokens, transcript.thinking
        )

    def _diverged(self, error: Diverged) -> AttemptFailed:
        """This node says something else: it is broken off, and one is asked to go on if that can be asked."""
        if not self._continuing and self._go_on_after_what_was_said():
            return AttemptFailed("aborted", f"{error}; a node is asked to go on after what was said so far")
        return AttemptFailed("diverged", f"the stream was to go on here, but {error}")

    def _go_on_after_what_was_said(self) -> bool:
        """From the next attempt on have a node go on after what the client has, where that is possible."""
        if not (self._may_continue and self._transcript.is_open and self._continuation() is not None):
            return False
        self._continuing = True
        self._transcript.go_on_after()
        return True

    def _take(self, record: Record, sent: list[bytes]) -> None:
        if record.kind == "error":
            self.failure = AttemptFailed("error_record", one_line(record.error))
            return
        if self._continuing:
            self._dialect.count_in(record, self._before)
        self.records += 1
        self.tokens = record.tokens or self.tokens + (not record.empty)
        self.timings = record.timings or self.timings
        self._finished |= record.finished
        if record.kind == "terminal" and not self._finished:
            self.failure = AttemptFailed("no_terminal_record", "the stream ended without a finish reason")
            return
        if self._aggregate is not None:
            self._aggregate.add(record)
            if record.kind == "terminal":
                sent.append(self._aggregate.whole())
        elif record.kind == "held":
            self._held.append(record)
        else:
            held, self._held = self._held, []
            for each in (*held, record):
                if not (each.for_us and self._usage_is_ours):
                    sent.append(self._transcript.take(each))
        self.complete = record.kind == "terminal"
        # From here on, what plainly is a piece of text needs no closer look.
        self._quick = self.client_streams and self._transcript.is_undisturbed


def is_json(body: bytearray) -> bool:
    """Whether this can be the object that every whole answer of Ollama's is."""
    if len(body) > PARSED_MAX_BYTES:
        return body[:9].lstrip()[:1] == b"{" and body[-9:].rstrip()[-1:] == b"}"
    try:
        loads_record(bytes(body))
    except BadRecord:
        return False
    return True


class PlainCall:
    """A request whose answer is passed on as it is, whole: another node can be asked until the answer is there."""

    resumable = False
    client_streams = False
    limits_silence = False
    tokens_before = 0

    def __init__(
        self,
        path: str,
        body: bytes,
        model: str,
        *,
        prompt_tokens: int,
        limits_first_token: bool,
        errors: ErrorForms,
        answer_limit_bytes: int,
        sent_context_tokens: int = 0,
    ) -> None:
        self.path = path
        self.body = body
        self.model = model
        self.request_type = JSON_TYPE
        self.is_unload = False
        self.notes: dict[str, str] = {}
        self.prompt_tokens = prompt_tokens
        self.context_tokens = sent_context_tokens
        self.sent_context_tokens = sent_context_tokens or CANNOT_SAY
        self.limits_first_token = limits_first_token
        self._errors = errors
        self._answer_limit_bytes = answer_limit_bytes

    def ask_with(self, _context_tokens: int) -> None:
        """Its body stays as it is."""

    def begin(self) -> None:
        """A new attempt."""
        self.content_type = WHOLE_TYPE
        self.records = 0
        self.tokens = 0
        self.timings = NO_TIMINGS
        self.complete = False
        self.failure: AttemptFailed | None = None
        self._whole = bytearray()

    def headers(self, content_type: str) -> None:
        """The answer keeps its type."""
        self.content_type = content_type or WHOLE_TYPE

    def feed(self, data: bytes) -> bytes:
        """Collect it."""
        self.records += 1
        self._whole += data
        if len(self._whole) > self._answer_limit_bytes:
            self.failure = AttemptFailed("error_record", f"an answer of more than {self._answer_limit_bytes} bytes")
        return b""

    def end(self) -> bytes:
        """The answer is whole, and is one."""
        if self.failure is None and self.content_type.startswith(JSON_TYPE) and not is_json(self._whole):
            self.failure = AttemptFailed("error_record", "an answer that is not JSON, though it says so")
        self.complete = self.failure is None
        return bytes(self._whole) if self.complete else b""

    def refusal(self, _status: int, body: bytes) -> bytes:
        """As it is."""
        return body

    def error_body(self, status: int, message: str) -> bytes:
        """An error in the request's dialect."""
        return self._errors.error_body(status, message)

    def error_line(self, message: str) -> bytes:
        """The same within a stream."""
        return self._errors.error_line(message)
