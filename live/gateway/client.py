"""The way back to the client. The relay knows only this protocol; `http_server` is what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class Client(Protocol):
    """One client, waiting for one answer.

    Nothing here waits or fails: what is written to a client that has gone is dropped, and who answers it is told. A client
    that is slow to read is one that is not `writable`. What is written to it all the same is kept for it; whoever goes on
    where it `holds_more` no longer fills memory.
    """

    begun: bool
    """Whether the headers of the answer are on their way."""
    on_writable: Callable[[], None] | None
    """Called when the connection takes more again."""
    on_gone: Callable[[], None] | None
    """Set by whoever answers in calls that come later; called when nobody is left to be answered."""

    @property
    def client(self) -> int:
        """Who asks, as a number."""

    @property
    def writable(self) -> bool:
        """Whether its connection takes more, and nothing is kept for it."""

    @property
    def holds_more(self) -> bool:
        """Whether more can be kept for it."""

    @property
    def gone(self) -> bool:
        """Whether it has closed its connection."""

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """The headers of a stream, with status 200; they are sent with its first part."""

    def write(self, data: bytes) -> None:
        """A part of the stream."""

    def end(self, data: bytes = b"") -> None:
        """The last part of the stream, and its end."""

    def break_off(self) -> None:
        """Close the connection: there is no other way left to say that the answer is not whole."""

    def done(self) -> None:
        """It has been answered."""

    def broke(self, error: Exception) -> None:
        """It cannot be answered: an error of ours."""
