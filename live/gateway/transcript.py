"""What a streaming client has been sent, and how its stream goes on with another node's answer.

The other node generates the whole answer anew, from the same request with the same seed. As long as it says what the
client has already, nothing is passed on; from there on everything is. Where it says something else, `Diverged` says so;
then a node may be asked to go on after what the client has (`go_on_after`), and all that it says is new: the rest of the
text, or, where the client has nothing but thinking, the whole answer with its own thinking after that.
"""

from __future__ import annotations

import json
from dataclasses import replace

from live.gateway.dialect import Dialect, JsonObject, Record

SEAM = "\n\n"
"""Between a thought that broke off and that of another node, which begins anew."""


class Diverged(Exception):
    """Another node's answer to the same request is not the same."""


class _Channel:
    """The text of one kind (content or thinking) that the client has."""

    __slots__ = ("_pieces", "_sent", "_skipped", "tokens")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._sent = ""  # what is being skipped in the answer of another node
        self._skipped = 0
        self.tokens = 0  # Ollama sends a record for each, but for characters of several

    def restart(self, *, anew: bool) -> None:
        self._pieces = ["".join(self._pieces)]
        self._sent = self._pieces[0] if anew else ""
        self._skipped = 0

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def owing(self) -> int:
        """Characters that the client has and the present answer has not yet said."""
        return len(self._sent) - self._skipped

    def known(self, text: str, name: str) -> int:
        """How many characters of `text`, the next piece of the present answer, the client has already."""
        known = min(self.owing, len(text))
        if known and not self._sent.startswith(text[:known], self._skipped):
            raise Diverged(f"its {name} differs within {known} characters after the first {self._skipped}")
        return known

    def advance(self, text: str, known: int) -> None:
        """The client has all of `text` now."""
        self._skipped += known
        if known < len(text):
            self._pieces.append(text[known:])
            self.tokens += 1


class Transcript:
    """The stream of one client, over all attempts."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._text = _Channel()
        self._thinking = _Channel()
        self._tool_calls: list[str] = []
        self._tool_calls_said = 0
        self._identity: JsonObject = {}
        self._frame: dict[str, str] = {}  # the places of the stream's frame that the client has, and what stands there
        self._records = 0
        self._begun = False  # the client has something
        self._taking_over = False  # the present answer is not the first
        self._anew = True  # a further answer is compared with what the client has
        self._seam = ""  # before the first thought of an answer that comes after another's
        self._in_text = False  # the present answer goes on in the middle of the text
        self._thought = False  # the thinking is over, and was said to be

    @property
    def text(self) -> str:
        """What the client has."""
        return self._text.text

    @property
    def thinking(self) -> str:
        """What the client was told of the model's thinking."""
        return self._thinking.text

    @property
    def records(self) -> int:
        """How many records that is."""
        return self._records

    @property
    def identity(self) -> JsonObject:
        """The fields that the client knows the answer and its parts by."""
        return self._identity

    @property
    def tokens(self) -> int:
        """How many tokens that is, with those of the thinking."""
        return self._text.tokens + self._thinking.tokens

    @property
    def is_open(self) -> bool:
        """Whether more can follow: the client has text, or thinking that has not ended, and no tool calls."""
        open_thought = bool(self._thinking.tokens) and not self._thought
        return (bool(self._text.tokens) or open_thought) and not self._tool_calls

    def go_on_after(self) -> None:
        """From the next restart on, all that an answer says comes after what the client has."""
        self._anew = False

    def restart(self) -> None:
        """The next record is the first of another answer."""
        self._taking_over = self._begun
        self._text.restart(anew=self._anew)
        self._thinking.restart(anew=self._anew)
        self._tool_calls_said = 0
        self._in_text = not self._anew and bool(self._text.tokens)
        self._seam = "" if self._anew or self._in_text else SEAM

    @property
    def is_undisturbed(self) -> bool:
        """Whether the client has the beginning of an answer that has not moved."""
        return self._begun and not self._taking_over

    def passed_on(self, text: str) -> None:
        """In an undisturbed stream, a record was passed on that adds this text and nothing else."""
        self._text.advance(text, 0)
        self._records += 1

    def take(self, record: Record) -> bytes:
        """What the client is to be sent for a record; empty where it has all of it. Raises `Diverged`."""
        if record.thinking and self._in_text:
            raise Diverged("it thinks anew instead of going on with its text")
        seam = self._seam if record.thinking else ""
        if seam:
            self._seam = ""
            record = replace(record, thinking=seam + record.thinking)
        known_text = self._text.known(record.text, "text")
        known_thinking = self._thinking.known(record.thinking, "thinking")
        known_calls = self._known_tool_calls(record)
        data = record.raw
        if self._taking_over:
            data = self._data(record, known_text, known_thinking, known_calls, changed=bool(seam))
        # Nothing can fail from here on, so what is noted as sent is sent.
        for name, value in self._dialect.identity(record).items():
            self._identity.setdefault(name, value)
        if record.frame is not None:
            self._thought |= bool(self._thinking.tokens) and record.frame[0] not in self._frame
            self._frame[record.frame[0]] = record.frame[1]
        self._begun = True
        self._records += bool(data)
        self._text.advance(record.text, known_text)
        self._thinking.advance(record.thinking, known_thinking)
        self._tool_calls += [_without_id(call) for call in record.tool_calls[known_calls:]]
        self._tool_calls_said += len(record.tool_calls)
        return data

    def _data(self, record: Record, known_text: int, known_thinking: int, known_calls: int, *, changed: bool) -> bytes:
        """What of a record of another node's answer is new to the client; `changed`: its fields no longer say it."""
        if record.frame is not None:
            place, what = record.frame
            if self._frame.get(place, what) != what:
                raise Diverged("it is made of other parts")
            if place in self._frame:
                return b""
        known = known_text + known_thinking + known_calls
        owing = self._text.owing + self._thinking.owing + len(self._tool_calls) - self._tool_calls_said
        if record.closing and owing > known:
            raise Diverged("it ends earlier")
        new = replace(
            record,
            text=record.text[known_text:],
            thinking=record.thinking[known_thinking:],
            tool_calls=record.tool_calls[known_calls:],
        )
        if new.empty and owing > known and not record.closing:
            if record.frame is not None:
                raise Diverged("it is made of other parts")
            return b""
        if known and new.empty and not record.closing:
            return b""
        if not new.empty and known and _has_logprobs(record):
            raise Diverged("its log probabilities cannot be divided where the first answer broke off")
        return self._dialect.rewritten(new, self) if known or changed or self._identity else record.raw

    def _known_tool_calls(self, record: Record) -> int:
        if not record.tool_calls:
            return 0
        known = self._tool_calls[self._tool_calls_said :][: len(record.tool_calls)]
        if known != [_without_id(call) for call in record.tool_calls[: len(known)]]:
            raise Diverged("it calls a tool otherwise")
        return len(known)


def _without_id(call: JsonObject) -> str:
    """A tool call without the random id that Ollama gives it."""
    return json.dumps({name: value for name, value in call.items() if name != "id"}, sort_keys=True)


def _has_logprobs(record: Record) -> bool:
    choices = record.fields.get("choices")
    parts = [record.fields, *(choices if isinstance(choices, list) else [])]
    return any(isinstance(part, dict) and part.get("logprobs") for part in parts)
