"""The queue of requests that need a load is full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from twin.scenario.faults.base import About, Fault, ForeignClients, Step


class QueueFull(Fault):
    """Foreign clients ask for more models than fit, in turn, so that each request needs a load. Whatever else needs one
    is turned away in a millisecond; a loaded model works until it is idle once, and is evicted."""

    about = About(
        kind="queue_full",
        identifier="F13",
        what="a burst of foreign requests for models that are not loaded fills OLLAMA_MAX_QUEUE",
        symptom="503 within milliseconds for whatever needs a load; the node looks idle, and draws traffic",
        precursor="none: the queue's length cannot be read at the API",
        source="ollama/ollama pull request 4144; IBM/prompt-declaration-language issue 702; thushan/olla issue 144",
        ended_by_restart=False,
    )
    kind: Literal["queue_full"]
    clients: Annotated[
        int, Field(ge=1, le=10_000, description="How many; more than the cluster's max_queue, or it is not full.")
    ] = 600

    def onset(self) -> Iterator[Step]:
        """They come."""
        clients = ForeignClients(self.clients, 20, 1, think_s=1.0, own_models="too_many")
        yield Step(0.0, "foreign_clients", foreign=clients)

    def ending(self) -> Iterator[Step]:
        """They go."""
        yield from ()
