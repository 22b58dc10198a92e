"""Long chats of others leave no slot for short work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, ForeignClients, Step


class EmbeddingStarvation(Fault):
    """Clients that ask the node directly hold its slots with long answers.

    So embeddings and other short requests for the same model wait for a slot.
    """

    about = About(
        kind="embedding_starvation",
        identifier="F28",
        what="every slot has a long generation; short requests wait behind them",
        symptom="short requests time out on a node without any error",
        precursor="only while it lasts: the hidden wait grows; slots are full of answers far longer than usual",
        source="notes of ollama-herd, 2026-06-01 (202 timeouts in 93 minutes at 14 % load)",
        ended_by_restart=False,
        live="clients that ask the node's own port, past proxy and gateway",
    )
    kind: Literal["embedding_starvation"]
    chats: Annotated[int, Field(ge=1, le=1000, description="Clients with long chats.")] = 8
    output_tokens: Annotated[int, Field(ge=1, le=1_000_000, description="Of each of their answers.")] = 8000
    think_s: Annotated[float, Field(gt=0, description="Mean, from an answer to the next question.")] = 1.0

    def onset(self) -> Iterator[Step]:
        """They come."""
        clients = ForeignClients(self.chats, 500, self.output_tokens, self.think_s)
        yield Step(0.0, "foreign_clients", foreign=clients)

    def ending(self) -> Iterator[Step]:
        """They go."""
        yield from ()
