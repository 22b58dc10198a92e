"""Reading traces: the Azure CSV, the Mooncake JSON lines, and a user's own CSV.

- Azure: `TIMESTAMP,ContextTokens,GeneratedTokens`, as published with Splitwise (ISCA 2024).
- Mooncake: an object a line with `timestamp` (ms), `input_length`, `output_length`, `hash_ids`: each id stands for a block
  of 512 prompt tokens together with all blocks before it, so equal ids are equal prefixes (Mooncake, FAST 2025).
- Own CSV: a header with `arrival_s,prompt_tokens,output_tokens` and any of `model`, `stream` (true or false), `session` (any
  text; empty: none) and `num_ctx` (empty: none), in any order.

Times must not go back. A line that cannot be understood is refused with file, line, and what to do.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from twin.errors import OperatorError

BLOCK_TOKENS = 512
"""Prompt tokens that one of Mooncake's `hash_ids` stands for."""

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
OWN = ("arrival_s", "prompt_tokens", "output_tokens")
OWN_OPTIONAL = ("model", "stream", "session", "num_ctx")
FORMATS = (
    f"a CSV that begins with {','.join(AZURE)} (Azure) or has the columns {', '.join(OWN)}, "
    "or JSON lines with timestamp, input_length, output_length (Mooncake)"
)


class TraceError(OperatorError):
    """A trace that cannot be read. The operator's to mend."""


class TraceMissing(TraceError):
    """The trace's file is not there."""


@dataclass(frozen=True)
class Trace:
    """A trace's requests in order, as columns. Times count from the first request."""

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    session: NDArray[np.int64]  # 0: none
    shared_tokens: NDArray[np.int64]  # of the prompt: those that repeat what the session had before
    model: tuple[str, ...] | None = None  # None: the trace does not say
    stream: NDArray[np.bool_] | None = None
    context_tokens: NDArray[np.int64] | None = None  # 0: the request asks for none


@dataclass(slots=True)
class _Row:
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    model: str = ""
    stream: bool = False
    session: int = 0
    shared_tokens: int = 0
    context_tokens: int = 0


def digest(file: str, source: str = "", key: str = "workload.arrivals") -> str:
    """sha256 (hex) of the file. Raises `TraceMissing` where it is not there; `source` says where to get it."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        origin = f"get it from {source}" if source else "put it there"
        raise TraceMissing(f"{file}: no such trace; {origin}, and say where it is: --set {key}.file=PATH") from error
    except OSError as error:
        raise TraceError(f"{file}: {error.strerror}; name a trace that can be read") from error


def read_trace(file: str, sha256: str | None = None) -> Trace:
    """The trace in a file. Raises `TraceError`; also where its sha256 is known and is another."""
    found = digest(file)
    if sha256 is not None and found != sha256:
        raise TraceError(
            f"{file}: not the trace that the scenario was loaded with (sha256 {found[:16]}, not {sha256[:16]}); "
            "put that one back, or load the scenario again"
        )
    return _read(file, found)


@functools.lru_cache(maxsize=4)
def _read(file: str, _sha256: str) -> Trace:
    try:
        with _open(file) as lines:
            rows = list(_rows(file, lines))
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{file}: {getattr(error, 'strerror', None) or error}; give a whole file") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{file}: it is not UTF-8 text; give {FORMATS}") from error
    if not rows:
        raise TraceError(f"{file}: no request in it; give {FORMATS}")
    first_s = rows[0][1].arrival_s
    last_s = first_s
    for number, row in rows:
        if row.arrival_s < last_s:
            raise TraceError(
                f"{file}:{number}: it arrives {last_s - row.arrival_s:g} s before the line above; sort the file by time"
            )
        last_s = row.arrival_s
    columns = [row for _, row in rows]

    def whole(name: str) -> NDArray[np.int64]:
        return np.array([getattr(row, name) for row in columns], dtype=np.int64)

    header = _header(file)
    return Trace(
        np.array([row.arrival_s for row in columns]) - first_s,
        whole("prompt_tokens"),
        whole("output_tokens"),
        whole("session"),
        whole("shared_tokens"),
        tuple(row.model for row in columns) if "model" in header else None,
        np.array([row.stream for row in columns]) if "stream" in header else None,
        whole("context_tokens") if "num_ctx" in header else None,
    )


def _open(file: str) -> TextIO:
    if file.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8", newline="")
    return open(file, encoding="utf-8", newline="")


def _header(file: str) -> list[str]:
    with _open(file) as lines:
        return next(csv.reader(lines), [])


def _rows(file: str, lines: TextIO) -> Iterator[tuple[int, _Row]]:
    """Line numbers and requests."""
    first = lines.readline().removeprefix("\ufeff").strip()
    lines.seek(0)
    if first.startswith("{"):
        yield from _mooncake(file, lines)
        return
    columns = first.split(",")
    if tuple(columns[:3]) == AZURE:
        yield from _azure(file, lines)
    elif set(OWN) <= set(columns):
        yield from _own(file, lines)
    else:
        raise TraceError(f"{file}:1: no known format; give {FORMATS}")


def _tokens(value: Any) -> int:
    """A count of tokens; an answer of 0 tokens is one of 1, since some token ended it."""
    count = _whole(value, "a number of tokens")
    if count < 0:
        raise ValueError(f"{count} tokens")
    return max(1, count)


def _object(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise ValueError("no valid JSON") from error
    if not isinstance(said, dict):
        raise ValueError("no JSON object")
    return said


def _whole(value: Any, what: str) -> int:
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{value!r} is not {what}") from error


def _number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{value!r} is not {what}") from error


def _azure(file: str, lines: TextIO) -> Iterator[tuple[int, _Row]]:
    reader = csv.reader(lines)
    next(reader)
    for values in reader:
        try:
            if len(values) != len(AZURE):
                raise ValueError(f"{len(values)} columns instead of {len(AZURE)}")
            time, prompt, output = values
            yield reader.line_num, _Row(_seconds(time), _tokens(prompt), _tokens(output))
        except (ValueError, TypeError) as error:
            raise _broken(file, reader.line_num, error, "2023-11-16 18:15:46.6805900,374,44") from error


def _seconds(text: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time") from error
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()


def _mooncake(file: str, lines: TextIO) -> Iterator[tuple[int, _Row]]:
    sessions = 0
    last_block: dict[int, int] = {}  # last full block of a session's latest request, to the session
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            said = _object(line)
            blocks = [_whole(block, "a block of hash_ids") for block in said.get("hash_ids", ())]
            prompt = _tokens(said["input_length"])
            row = _Row(
                _number(said["timestamp"], "a timestamp in milliseconds") / 1000.0,
                prompt,
                _tokens(said["output_length"]),
            )
            if not math.isfinite(row.arrival_s):
                raise ValueError(f"timestamp {said['timestamp']}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            example = '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}'
            raise _broken(file, number, error, example) from error
        # It goes on with the session whose latest request it contains, up to that one's last full block. The first
        # block (the system prompt, which many have in common) makes no session.
        known = next((place for place in range(len(blocks) - 1, 0, -1) if blocks[place] in last_block), 0)
        if known:
            row.session = last_block.pop(blocks[known])
            row.shared_tokens = min((known + 1) * BLOCK_TOKENS, prompt - 1)
        elif len(blocks) > 2:
            sessions += 1
            row.session = sessions
        if row.session:
            last_block[blocks[max(len(blocks) - 2, known)]] = row.session
        yield number, row


def _own(file: str, lines: TextIO) -> Iterator[tuple[int, _Row]]:
    reader = csv.DictReader(lines)
    for name in reader.fieldnames or ():
        if name not in (*OWN, *OWN_OPTIONAL):
            raise TraceError(f"{file}:1: unknown column {name}; known are {', '.join((*OWN, *OWN_OPTIONAL))}")
    numbers: dict[str, int] = {}
    history: dict[int, int] = {}
    for values in reader:
        try:
            if None in values or None in values.values():
                raise ValueError("another number of columns than the header has")
            row = _Row(
                _number(values["arrival_s"], "an arrival_s in seconds"),
                _tokens(values["prompt_tokens"]),
                _tokens(values["output_tokens"]),
                values.get("model", ""),
                _truth(values.get("stream", "false")),
                context_tokens=_whole(values.get("num_ctx") or 0, "a num_ctx"),
            )
            if not math.isfinite(row.arrival_s) or row.context_tokens < 0:
                raise ValueError(f"arrival_s {values['arrival_s']}, num_ctx {values.get('num_ctx')}")
        except (ValueError, TypeError) as error:
            raise _broken(file, reader.line_num, error, f"a line of {','.join(reader.fieldnames or ())}") from error
        if values.get("session"):
            row.session = numbers.setdefault(values["session"], len(numbers) + 1)
            row.shared_tokens = min(history.get(row.session, 0), row.prompt_tokens - 1)
            history[row.session] = row.prompt_tokens + row.output_tokens
        yield reader.line_num, row


def _truth(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise ValueError(f"stream {text!r}, which is neither true nor false")


def _broken(file: str, number: int, error: Exception, example: str) -> TraceError:
    said = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
    return TraceError(f"{file}:{number}: broken line ({said}); it must be like {example}; mend it or take it out")
