"""Streams that end without a terminal record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, Step


class SilentEnd(Fault):
    """Of the generations on the node this share ends half way, cleanly, without a terminal record."""

    about = About(
        kind="silent_end",
        identifier="F04",
        what="the runner's stream to the server ends early (more than 30 equal tokens, a lost connection inside)",
        symptom="status 200 and a clean end of the stream, but no done:true, no [DONE], and no timings",
        precursor="none on the machine; only while it lasts repeated tokens in the text",
        source="ollama/ollama issues 17118, 11172",
        ended_by_restart=True,
    )
    kind: Literal["silent_end"]
    share: Annotated[float, Field(gt=0, le=1, description="Share of the generations that end so.")] = 0.3

    def onset(self) -> Iterator[Step]:
        """From now on streams end early."""
        yield Step(0.0, "set_condition", self.share, "silent_end_share")

    def ending(self) -> Iterator[Step]:
        """What was set is withdrawn."""
        yield from ()
