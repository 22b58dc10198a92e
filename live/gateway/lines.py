"""Cuts a byte stream into lines, however it arrives."""

from __future__ import annotations


class LineTooLong(ValueError):
    """A line is longer than the limit."""


class LineSplitter:
    """Collects bytes and gives out whole lines, each with its newline. Raises `LineTooLong`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._pending_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole with `data`."""
        if not self._parts and len(data) <= self._limit_bytes and data.find(b"\n") == len(data) - 1:
            return [data]  # one line at a time is how a node generates
        lines = data.split(b"\n")
        rest = lines.pop()
        whole = [line + b"\n" for line in lines]
        if whole and self._parts:
            whole[0] = b"".join(self._parts) + whole[0]
            self._parts.clear()
            self._pending_bytes = 0
        if rest:
            self._parts.append(rest)
            self._pending_bytes += len(rest)
        if self._pending_bytes > self._limit_bytes or any(len(line) > self._limit_bytes for line in whole):
            raise LineTooLong(f"a line of more than {self._limit_bytes} bytes")
        return whole

    def rest(self) -> bytes:
        """What came after the last newline: at the end of the stream, a line that lacks its own."""
        return b"".join(self._parts)
