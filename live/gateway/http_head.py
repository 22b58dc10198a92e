"""Heads of HTTP messages as bytes, and what may stand in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

REASONS: dict[int, bytes] = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    499: b"Client Closed Request"
}
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_CHUNK_HEADS = [b"%x\r\n" % size for size in range(2048)]


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"Unknown"))


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Header lines. What cannot stand in a header is replaced by a space: a value never ends its line."""
    lines = _joined(headers)
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        lines = _joined({name: _FORBIDDEN.sub(" ", value) for name, value in headers.items()})
    return lines


def _joined(headers: Mapping[str, str]) -> bytes:
    parts: list[str] = []
    for name, value in headers.items():
        parts.append(name)
        parts.append(": ")
        parts.append(value)
        parts.append("\r\n")
    return "".join(parts).encode("latin-1", "replace")


def chunk(data: bytes) -> bytes:
    """Data as one chunk of a chunked body."""
    size = len(data)
    head = _CHUNK_HEADS[size] if size < len(_CHUNK_HEADS) else b"%x\r\n" % size
    return b"".join((head, data, b"\r\n"))


_ABSOLUTE = re.compile(r"https?://([^/?#]+)([/?].*)?", re.IGNORECASE)


def origin_form(target: str) -> tuple[str, str]:
    """A target without scheme and host (RFC 9112, 3.2.2), and that host; empty where the target says none."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return target, ""
    path = found[2] or "/"
    return path if path.startswith("/") else f"/{path}", found[1]


def is_target(text: str) -> bool:
    """Whether this can be asked for: a path, perhaps with a query."""
    return text.startswith("/") and text.isascii() and text.isprintable() and " " not in text


class DateLine:
    """The header `Date`, made anew once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def at(self, unix_s: float) -> bytes:
        """The header line of this time."""
        second = int(unix_s)
        if second != self._second:
            self._second = second
            self._line = b"Date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
        return self._line
